"""The generated schemas are those in the repository, and changes to them keep the rules."""

from __future__ import annotations

import copy
import io
import shutil
from pathlib import Path
from typing import Any

import fastavro
import pytest

from tidegate import resources, schema
from tidegate.codec import numbers
from tidegate.codec.compatibility import compare, unreadable
from tidegate.codec.shape import Field, Record
from tidegate.subject import load_declarations

FOLDER = resources.folder("subjects") / "schema"
BASE: dict[str, Any] = {
    "type": "record", "name": "E", "namespace": "t", "fields": [
        {"name": "id", "type": "string", "number": 1},
        {"name": "n", "type": ["null", "long"], "default": None, "number": 2},
        {"name": "of", "type": ["null", {"type": "array", "items": {"type": "record", "name": "I", "fields": [
            {"name": "v", "type": "long", "number": 1}]}}], "default": None, "number": 3},
    ],
}  # fmt: skip
VALUE: dict[str, Any] = {"id": "a", "n": 5, "of": [{"v": 1}]}


def changed(name: str, **to: Any) -> dict[str, Any]:
    """BASE with a field changed, added (with `type`), or dropped (`drop`)."""
    result = copy.deepcopy(BASE)
    fields = result["fields"]
    if name == "v":
        fields = fields[2]["type"][1]["items"]["fields"]
    found = next((one for one in fields if one["name"] == name), None)
    if to.get("drop"):
        fields.remove(found)
    elif found is not None:
        found.update(to)
    else:
        fields.append({"name": name, **to})
    return result


@pytest.mark.parametrize(
    ("current", "backward", "forward"),
    [
        (BASE, "", ""),
        (changed("new", type=["null", "string"], default=None, number=4), "", ""),
        (changed("n", drop=True), "", ""),
        (changed("new", type="string", number=4), "E.new: required", ""),
        (changed("id", drop=True), "", "E.id: required"),
        (changed("n", type=["null", "double"]), "", "E.n: the type double is not among ['long']"),
        (changed("n", type=["null", "string"]), "E.n: the type long is not", "E.n: the type string is not"),
        (changed("id", type=["null", "string"], default=None), "", "E.id: type null cannot"),
        (changed("n", type="long", default=0), "E.n: type null cannot", ""),
        (changed("v", type="string"), "E.of[].v: type long cannot", "E.of[].v: type string cannot"),
        (changed("v", drop=True), "", "E.of[].v: required"),
    ],
)
def test_a_change_is_allowed_or_named_with_what_to_do(current: dict[str, Any], backward: str, forward: str) -> None:
    for mode, reader, writer, says in (
        ("backward", current, BASE, backward),
        ("forward", BASE, current, forward),
    ):
        problems = compare(current, BASE, mode)  # type: ignore[arg-type]
        assert [one for one in problems if f"{mode}: {says}" in one] == problems
        assert bool(problems) == bool(says)
        assert all(";" in one for one in problems)
        assert bool(problems) == any(not _fastavro_reads(reader, writer, value) for value in _values(writer))
    assert len(compare(current, BASE, "full")) == bool(backward) + bool(forward)


def _values(writer: dict[str, Any]) -> list[dict[str, Any]]:
    """Values that use each branch."""
    of_kind: dict[str, list[Any]] = {"string": ["x"], "long": [1], "double": [1.5], "null": [None]}
    found = []
    for field in writer["fields"]:
        if field["name"] == "of":
            continue
        for kind in field["type"] if isinstance(field["type"], list) else [field["type"]]:
            found += [{field["name"]: value} for value in of_kind[kind]]
    defaults: dict[str, Any] = {
        one["name"]: 2.5 if one["type"] == ["null", "double"] else VALUE.get(one["name"], "y")
        for one in writer["fields"]
    }
    inner = next(one for one in writer["fields"] if one["name"] == "of")["type"][1]["items"]["fields"]
    defaults["of"] = [{one["name"]: "t" if one["type"] == "string" else 1 for one in inner}]
    if any(one["name"] == "n" and one["type"] == ["null", "string"] for one in writer["fields"]):
        defaults["n"] = "s"
    return [{**defaults, **one} for one in found]


def _fastavro_reads(reader: dict[str, Any], writer: dict[str, Any], value: dict[str, Any]) -> bool:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(writer)), value)
    out.seek(0)
    try:
        fastavro.schemaless_reader(out, copy.deepcopy(writer), copy.deepcopy(reader))
    except (fastavro.read.SchemaResolutionError, TypeError):
        return False
    return True


def test_a_number_of_protobuf_must_not_move_nor_be_given_twice() -> None:
    assert "its number was [2] and is [9]" in compare(changed("n", number=9), BASE, "full")[0]
    reused = changed("n", drop=True)
    reused["fields"].append({"name": "m", "type": ["null", "string"], "default": None, "number": 2})
    assert compare(reused, BASE, "full") == ["protobuf: E.m: number 2 was that of E.n; give it a new one"]


def test_other_records_are_not_taken_for_ours() -> None:
    assert "keep the name of the record" in unreadable(BASE, {**BASE, "name": "F"})[0]


def test_numbers_are_only_ever_added() -> None:
    known = {"E": {"a": 1, "gone": 2}}
    record = Record("E", (Field("new", ("long", "string"), True), Field("a", ("long",), False)))
    assert numbers.assign(known, [record]) == {"E": {"a": 1, "gone": 2, "new_long": 3, "new_string": 4}}
    assert known == {"E": {"a": 1, "gone": 2}}


def test_the_schemas_in_the_repository_are_those_of_the_code() -> None:
    declared = load_declarations(FOLDER.parent)
    assert schema.drift(FOLDER, declared) == [], "run `tidegate subjects schema`, with --release for an Avro schema"


def test_the_schemas_are_compatible_with_every_released_version() -> None:
    assert schema.compatibility(FOLDER, "full") == []


def test_a_schema_that_was_never_released_is_drift(tmp_path: Path) -> None:
    declared = load_declarations(FOLDER.parent)
    folder = tmp_path / "schema"
    shutil.copytree(FOLDER, folder)
    newest = folder / "history" / "envelope.1.avsc"
    newest.write_bytes(newest.read_bytes().replace(b'"event_type"', b'"event_kind"'))
    assert schema.drift(folder, declared) == ["history/envelope.2.avsc"]
    (made,) = schema.release(folder)
    assert made.name == "envelope.2.avsc"
    assert schema.drift(folder, declared) == []
    assert "Envelope.event_type: its number" not in "".join(schema.compatibility(folder, "full"))
    assert "number 3 was that of Envelope.event_kind" in "".join(schema.compatibility(folder, "full"))
