"""The Avro schemas: generated from the Structs, and every version that has been released.

Invariant: a released version, `subjects/schema/history/<name>.<n>.avsc`, is never changed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tidegate import resources
from tidegate.codec.numbers import numbers, wire_names
from tidegate.codec.shape import NAMESPACE, SHAPES, Field, Record, describe

__all__ = ["avro_schema", "file_name", "history", "name_of", "released"]


def name_of(struct: type[msgspec.Struct]) -> str:
    """The name of the schema of a Struct."""
    return next(name for name, one in SHAPES.items() if one is struct)


def file_name(name: str, version: int) -> str:
    """Where a released version is, in `subjects/schema/history`."""
    return f"{name}.{version}.avsc"


@cache
def avro_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The Avro schema of a Struct. `number` is the field's number (or numbers) in the Protobuf message."""
    schema = _record(describe(struct), set())
    assert isinstance(schema, dict)
    return {**schema, "namespace": NAMESPACE}


def _record(record: Record, seen: set[str]) -> dict[str, Any] | str:
    """A named type is spelled out where it comes first, and only named after that."""
    if record.name in seen:
        return record.name
    seen.add(record.name)
    return {"type": "record", "name": record.name, "fields": [_field(one, record.name, seen) for one in record.fields]}


def _field(field: Field, record: str, seen: set[str]) -> dict[str, Any]:
    kinds: list[Any] = ["string" if kind == "json" else kind for kind in field.kinds]
    if field.record is not None:
        kinds = [_record(field.record, seen)]
    if field.repeated:
        kinds = [{"type": "array", "items": kinds[0]}]
    of_field = [numbers()[record][name] for name in wire_names(field)]
    described: dict[str, Any] = {"name": field.name, "number": of_field[0] if len(of_field) == 1 else of_field}
    if field.kind == "json":
        described["doc"] = "JSON text"
    if field.optional:
        return {**described, "type": ["null", *kinds], "default": None}
    return {**described, "type": kinds[0] if len(kinds) == 1 else kinds}


def history(folder: Path, name: str) -> dict[int, bytes]:
    """Version -> content of each released version of a schema, oldest first."""
    found = {int(path.suffixes[0][1:]): path for path in folder.glob(f"{name}.*.avsc")}
    return {version: found[version].read_bytes() for version in sorted(found)}


@cache
def released(name: str) -> dict[int, dict[str, Any]]:
    """The released versions of a schema, as shipped."""
    folder = resources.folder("subjects") / "schema" / "history"
    return {version: msgspec.json.decode(content) for version, content in history(folder, name).items()}
