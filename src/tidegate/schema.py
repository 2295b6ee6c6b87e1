"""Schemas generated from the Structs and the stream declarations, in `subjects/schema/`: JSON Schema, AsyncAPI, Avro
and Protobuf.

Invariant: what is in the folder is exactly what `generate` returns, and each Avro schema is the newest version in
`history/`; a test fails when it is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tidegate.actor.entity import Change, Command
from tidegate.codec import numbers, protobuf
from tidegate.codec.compatibility import Mode, compare
from tidegate.codec.shape import SHAPES as ENCODED
from tidegate.codec.versions import avro_schema, file_name, history
from tidegate.event import DeadLetter, Envelope, Redriven, Taken
from tidegate.log import Progress
from tidegate.ocsf import OcsfEvent
from tidegate.projection import Generation
from tidegate.subject import Declarations

__all__ = ["compatibility", "drift", "generate", "release", "write"]

SHAPES: dict[str, Any] = {
    "change": Change,
    "command": Command,
    "dead_letter": DeadLetter | Redriven,
    "envelope": Envelope,
    "generation": Generation,
    "ocsf_event": OcsfEvent,
    "progress": Progress,
    "taken": Taken,
}

SERVICES = "services.proto"
"""What is offered over gRPC; written by hand, and compared with the Structs by a test."""


def generate(declarations: Declarations) -> dict[str, bytes]:
    """File name -> content."""
    files = {}
    for name, shape in SHAPES.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(shape)}
        files[f"{name}.schema.json"] = _pretty(schema)
    for name in ENCODED:
        files[f"{name}.avsc"] = _avsc(name)
    files["tidegate.proto"] = protobuf.proto_text()
    files[numbers.FILE] = numbers.render(numbers.numbers())
    files["asyncapi.json"] = _pretty(_asyncapi(declarations))
    return files


def _asyncapi(declarations: Declarations) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for stream in declarations.streams.values():
        for one in stream.subject:
            key = one.pattern.replace("<", "").replace(">", "").replace(".", "_")
            names = [part[1:-1] for part in one.pattern.split(".") if part.startswith("<")]
            channels[key] = {
                "address": one.pattern.replace("<", "{").replace(">", "}"),
                "description": f"{one.description} Stream {stream.name}; written by {one.owner}.",
                "parameters": {name: {"description": f"The {name} token of the subject."} for name in names},
                "messages": {
                    one.schema: {
                        "contentType": "application/x-ndjson",
                        "payload": {"$ref": f"./{one.schema}.schema.json"},
                    }
                },
            }
            operations[f"write_{key}"] = {"action": "send", "channel": {"$ref": f"#/channels/{key}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidegate",
            "version": "1",
            "description": "Frames of 1..N records; each record has the schema given.",
        },
        "defaultContentType": "application/x-ndjson",
        "channels": channels,
        "operations": operations,
    }


def _pretty(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def _avsc(name: str) -> bytes:
    return _pretty(avro_schema(ENCODED[name]))


def drift(folder: Path, declarations: Declarations) -> list[str]:
    """The names of files that differ from what would be generated, are missing, or are not generated (nor by hand)."""
    expected = generate(declarations)
    paths = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    found = {path.name: path.read_bytes() for path in paths if path.name != SERVICES}
    for name, version in _unreleased(folder).items():
        expected[f"history/{file_name(name, version)}"] = b""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _unreleased(folder: Path) -> dict[str, int]:
    """The schemas that differ from their newest released version -> the version that they would be."""
    result = {}
    for name in ENCODED:
        known = history(folder / "history", name)
        newest = max(known, default=0)
        if known.get(newest) != _avsc(name):
            result[name] = newest + 1
    return result


def compatibility(folder: Path, mode: Mode) -> list[str]:
    """What stands between the current Avro schemas and each released version; empty when nothing does."""
    return [
        f"{name} against version {version}: {problem}"
        for name in ENCODED
        for version, content in history(folder / "history", name).items()
        for problem in compare(avro_schema(ENCODED[name]), msgspec.json.decode(content), mode)
    ]


def release(folder: Path) -> list[Path]:
    """Keep the current Avro schemas as new versions, where they differ from the newest; returns the new files."""
    made = []
    for name, version in _unreleased(folder).items():
        path = folder / "history" / file_name(name, version)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_avsc(name))
        made.append(path)
    return made


def write(folder: Path, declarations: Declarations) -> None:
    """Write all files anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in generate(declarations).items():
        (folder / name).write_bytes(content)
