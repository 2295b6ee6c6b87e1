"""Avro records in Confluent's wire format, of any schema that a registry names, as the JSON that the pipeline takes.

Invariant: decoding takes time and memory in proportion to the record. Schemas with which a few bytes could do more are
refused: arrays of items without bytes, and types that contain themselves (seen with fastavro 1.12: a record of the
latter, nested some thousand times, ends the process).
"""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import fastavro
import msgspec

from tidegate.codec import avro, envelopes
from tidegate.codec.shape import NAMESPACE
from tidegate.edges.kafka.registry import Registry, Schema
from tidegate.errors import CodecError, FrameError
from tidegate.event import Envelope

__all__ = ["AvroReader"]

_HEAD = 5
"""A zero byte and the schema's id, big-endian."""
_DEPTH = 64
_VALUES = 20_000
_MALFORMED = (EOFError, LookupError, TypeError, ValueError, OverflowError, AttributeError, ArithmeticError)
_encode = msgspec.json.Encoder().encode
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


class _UnusableError(Exception):
    pass


class AvroReader:
    """Reads values; `prepare` has to have been given them before."""

    def __init__(self, registry: Registry | None) -> None:
        """Without a registry every value has to be an envelope of our current schema."""
        self._registry = registry
        self._schemas: dict[int, Any] = {}
        """Id -> parsed schema, or the _UnusableError that says why there is none."""

    async def prepare(self, values: list[bytes]) -> None:
        """Get the schemas that are named. Raises TierUnavailableError while the registry is away."""
        if self._registry is None:
            return
        ids = {int.from_bytes(one[1:_HEAD], "big") for one in values if one[:1] == b"\0" and len(one) >= _HEAD}
        for number in ids:
            if isinstance(self._schemas.get(number, _UnusableError()), _UnusableError):
                found = await self._registry.schema(number)
                self._schemas[number] = _parsed(number, found)

    def read(self, value: bytes) -> list[bytes]:
        """The record as JSON. Raises FrameError."""
        if value[:1] != b"\0" or len(value) < _HEAD:
            raise FrameError("avro", "not Confluent's wire format: a zero byte, four of schema id, and the record")
        if self._registry is None:
            try:
                return [_encode(avro.from_confluent(Envelope, value)[1])]
            except CodecError as error:
                raise FrameError("avro", f"{error.problem}; other schemas need kafka.registry") from error
        number = int.from_bytes(value[1:_HEAD], "big")
        schema = self._schemas.get(number)
        if schema is None or isinstance(schema, _UnusableError):
            raise FrameError("avro", str(schema or f"schema {number} is not known"))
        source = io.BytesIO(value)
        source.seek(_HEAD)
        try:
            record: Any = fastavro.schemaless_reader(source, schema, None)
            if source.tell() != len(value):
                raise FrameError("avro", f"{len(value) - source.tell()} bytes follow the record: not schema {number}")
            if isinstance(schema, dict) and schema.get("name") == f"{NAMESPACE}.Envelope":
                return [envelopes.as_record(record)]
            return [_encode(_plain(record))]
        except _MALFORMED as error:
            raise FrameError("avro", f"not a record of schema {number}: {error!r}"[:300]) from error


def _parsed(number: int, found: Schema | None) -> Any:
    if found is None:
        return _UnusableError(f"the registry has no schema {number}")
    if found.kind != "AVRO" or found.references:
        return _UnusableError(
            f"schema {number} is of type {found.kind}, or refers to others; only whole Avro schemas are read"
        )
    try:
        document = msgspec.json.decode(found.schema)
        _check(document, (), {}, "")
        return fastavro.parse_schema(document)
    except _UnusableError as error:
        return _UnusableError(f"schema {number} is not read: {error}")
    except (*_MALFORMED, msgspec.DecodeError, RecursionError, fastavro.schema.SchemaParseException) as error:
        return _UnusableError(f"schema {number} cannot be read: {error!r}"[:300])


class _Kind(NamedTuple):
    """What a type may cost."""

    empty: bool
    """Whether a value of it may take no bytes at all."""
    values: int
    """Of how many values one is made, arrays and maps counted once."""


def _check(schema: Any, inside: tuple[str, ...], known: dict[str, _Kind], space: str) -> _Kind:
    """Raises _UnusableError for a schema by which few bytes could cost much."""
    if len(inside) > _DEPTH:
        raise _UnusableError(f"its types are nested more than {_DEPTH} deep")
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return _Kind(schema == "null", 1)
        name = schema if "." in schema or not space else f"{space}.{schema}"
        if name in inside:
            raise _UnusableError(f"the type {name} contains itself")
        return known.get(name, _Kind(False, 1))
    if isinstance(schema, list):
        return _Kind(False, max((_check(one, (*inside, "[]"), known, space).values for one in schema), default=1))
    match schema["type"]:
        case "record" | "error":
            space = schema["name"].rpartition(".")[0] or schema.get("namespace", space)
            name = f"{space}.{schema['name'].rpartition('.')[2]}" if space else schema["name"]
            fields = [_check(one["type"], (*inside, name), known, space) for one in schema["fields"]]
            known[name] = _Kind(all(one.empty for one in fields), 1 + sum(one.values for one in fields))
            if known[name].values > _VALUES:
                raise _UnusableError(f"the type {name} is made of more than {_VALUES} values")
            return known[name]
        case "array" | "map" as kind:
            items = _check(schema["items" if kind == "array" else "values"], (*inside, "[]"), known, space)
            if items.empty and kind == "array":
                raise _UnusableError("it has an array of items that take no bytes")
            return _Kind(False, items.values)
        case "fixed":
            return _Kind(int(schema["size"]) == 0, 1)
        case "enum":
            return _Kind(False, 1)
        case kind:
            return _check(kind, (*inside, "[]"), known, space)


def _plain(value: Any) -> Any:
    """What JSON has no word for, in words of its own: numbers that are none become null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
