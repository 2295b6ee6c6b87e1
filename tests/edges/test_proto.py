"""The .proto of `subjects/schema` against what the service answers, and the generated code against the .proto."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tidegate.actor.host import Answer as Decision
from tidegate.edges.grpc_calls import STATUS
from tidegate.entities.access_key import Grant
from tidegate.errors import Code
from tidegate.proto import services_pb2 as pb
from tidegate.service import Batch, Item, Page, Published, Refusal
from tidegate.tiers.hot import MinuteCount
from tidegate.tiers.lake_sql import Answer as Rows

ROOT = Path(__file__).parents[2]
MADE = ("services_pb2.py", "services_pb2.pyi", "services_pb2_grpc.py")
# Struct -> message, what only the message has, what only the Struct has.
ANSWERS: list[tuple[type[Any], Any, set[str], set[str]]] = [
    (Published, pb.Published, set(), set()),
    (Refusal, pb.Refusal, set(), set()),
    (Item, pb.Item, set(), set()),
    (Batch, pb.Batch, set(), set()),
    (Page, pb.Page, set(), set()),
    (Decision, pb.Decision, set(), {"refused"}),
    (MinuteCount, pb.MinuteCount, set(), set()),
    (Rows, pb.Rows, set(), set()),
    (Grant, pb.Principal, {"id"}, set()),
]
MESSAGES = {one: message.DESCRIPTOR.name for one, message, _, _ in ANSWERS}
SCALARS = {
    str: {FieldDescriptor.TYPE_STRING},
    int: {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32},
    float: {FieldDescriptor.TYPE_DOUBLE},
    bool: {FieldDescriptor.TYPE_BOOL},
    bytes: {FieldDescriptor.TYPE_BYTES},
    msgspec.Raw: {FieldDescriptor.TYPE_BYTES},
}


def fits(kind: Any, field: FieldDescriptor) -> bool:
    """Whether a field can hold what a member of a Struct is."""
    if get_origin(kind) in (list, tuple):
        kind = get_args(kind)[0]
        if not field.is_repeated:
            return False
    elif field.is_repeated:
        return False
    if get_origin(kind) is tuple:  # a row, as JSON
        return bool(field.type == FieldDescriptor.TYPE_BYTES)
    if kind in MESSAGES:
        return bool(field.message_type is not None and field.message_type.name == MESSAGES[kind])
    if get_args(kind) and all(isinstance(one, str) for one in get_args(kind)):  # a Literal
        kind = str
    return bool(field.type in SCALARS.get(kind, ()))


@pytest.mark.parametrize(
    ("struct", "message", "only_message", "only_struct"),
    ANSWERS,
    ids=[message.DESCRIPTOR.name for _, message, _, _ in ANSWERS],
)
def test_a_message_has_the_fields_of_what_the_service_answers(
    struct: type[Any], message: Any, only_message: set[str], only_struct: set[str]
) -> None:
    descriptor: Descriptor = message.DESCRIPTOR
    hints = {name: kind for name, kind in get_type_hints(struct).items() if name in struct.__annotations__}
    assert set(descriptor.fields_by_name) - only_message == hints.keys() - only_struct
    wrong = [
        name
        for name, kind in hints.items()
        if name not in only_struct and not fits(kind, descriptor.fields_by_name[name])
    ]
    assert wrong == []


def test_every_code_has_a_status() -> None:
    assert STATUS.keys() == set(Code)


def test_the_generated_code_is_what_protoc_makes_of_the_proto(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "-Itidegate/proto=subjects/schema", f"--python_out={tmp_path}",
            f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", "tidegate/proto/services.proto",
        ],
        cwd=ROOT,
        check=True,
        timeout=60,
    )  # fmt: skip
    differing = [
        name
        for name in MADE
        if (tmp_path / "tidegate/proto" / name).read_bytes() != (ROOT / "src/tidegate/proto" / name).read_bytes()
    ]
    assert differing == [], "run `make proto`"
