"""Schemas generated from the Structs and the stream declarations: JSON Schema and AsyncAPI, in `subjects/schema/`.

Invariant: what is in the folder is exactly what `generate` returns; a test fails when it is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tidegate.actor.entity import Change, Command
from tidegate.event import DeadLetter, Envelope, Redriven
from tidegate.log import Progress
from tidegate.ocsf import OcsfEvent
from tidegate.projection import Generation
from tidegate.subject import Declarations

__all__ = ["drift", "generate", "write"]

SHAPES: dict[str, Any] = {
    "change": Change,
    "command": Command,
    "dead_letter": DeadLetter | Redriven,
    "envelope": Envelope,
    "generation": Generation,
    "ocsf_event": OcsfEvent,
    "progress": Progress,
}


def generate(declarations: Declarations) -> dict[str, bytes]:
    """File name -> content."""
    files = {}
    for name, shape in SHAPES.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(shape)}
        files[f"{name}.schema.json"] = _pretty(schema)
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


def drift(folder: Path, declarations: Declarations) -> list[str]:
    """The names of files that differ from what would be generated, are missing, or are not generated at all."""
    expected = generate(declarations)
    found = {path.name: path.read_bytes() for path in folder.glob("*.json")} if folder.is_dir() else {}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def write(folder: Path, declarations: Declarations) -> None:
    """Write all files anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in generate(declarations).items():
        (folder / name).write_bytes(content)
