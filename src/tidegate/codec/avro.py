"""Avro: object container files, and single datums as the Confluent wire format has them.

Invariant: only datums of our own schemas are read, the current one and the released ones; what a container may cost is
bounded by its records and its bytes, before and after compression. fastavro reads whatever schema a container brings,
also one of a million nested unions or of arrays of nothing, so its own container reader is not used.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

import fastavro
import msgspec
import zstandard
from fastavro.read import SchemaResolutionError
from fastavro.schema import to_parsing_canonical_form

from tidegate.codec.shape import Packer, describe, to_struct
from tidegate.codec.versions import avro_schema, name_of, released
from tidegate.errors import CodecError

__all__ = ["container", "datum", "decode", "encode", "from_confluent", "from_datum", "read", "to_confluent"]

T = TypeVar("T", bound=msgspec.Struct)

MAX_RECORDS = 1_000_000
MAX_BYTES = 64 * 1024 * 1024

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_META = fastavro.parse_schema({"type": "map", "values": "bytes"})
_MALFORMED = (EOFError, LookupError, TypeError, ValueError, OverflowError, SchemaResolutionError)
"""What fastavro raises for bytes that are not of the schema."""
_NOT_ENCODABLE = (LookupError, TypeError, ValueError, OverflowError, RecursionError)


class _Plan:
    """What is needed again and again for a Struct."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        schema = avro_schema(struct)
        self.schema: Any = fastavro.parse_schema(schema)
        self.packer = Packer(describe(struct), lambda field: field.kind == "json")
        self.text = msgspec.json.encode(schema)
        self.sync = hashlib.sha256(self.text).digest()[:_SYNC_BYTES]
        """Always the same, so that the same records are the same bytes."""
        self.known: dict[str, Any] = {
            to_parsing_canonical_form(one): fastavro.parse_schema(one) for one in released(name_of(struct)).values()
        }
        self.known[to_parsing_canonical_form(schema)] = self.schema

    def writer(self, text: bytes, struct: type) -> Any:
        """The schema of ours that a container names."""
        try:
            canonical = to_parsing_canonical_form(msgspec.json.decode(text))
        except (*_MALFORMED, msgspec.DecodeError, RecursionError, AttributeError, fastavro.schema.SchemaParseException):
            canonical = ""
        if canonical not in self.known:
            name = name_of(struct)
            raise CodecError(
                "avro",
                f"the schema is none of ours; write with subjects/schema/{name}.avsc, or a version of it in history/",
            )
        return self.known[canonical]


_plan = cache(_Plan)


def datum(value: msgspec.Struct) -> bytes:
    """One record, without its schema. Raises CodecError for a value that has no place in it."""
    plan = _plan(type(value))
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, plan.schema, plan.packer.pack(value))
    except _NOT_ENCODABLE as error:
        raise CodecError("avro", f"not encodable: {error}") from error
    return out.getvalue()


def from_datum(kind: type[T], data: bytes) -> T:
    """One record of the current schema. Raises CodecError."""
    plan = _plan(kind)
    (value,) = to_struct("avro", plan.packer, kind, list(_datums(data, 1, plan.schema, None)))
    return value


def to_confluent(value: msgspec.Struct, schema_id: int) -> bytes:
    """A datum as Confluent's serialisers frame it: a zero byte, the schema's id in the registry, the datum."""
    return b"\0" + schema_id.to_bytes(4, "big") + datum(value)


def from_confluent(kind: type[T], data: bytes) -> tuple[int, T]:
    """The schema's id in the registry, and the record, of the current schema. Raises CodecError."""
    if data[:1] != b"\0" or len(data) < 5:
        raise CodecError("avro", "not the Confluent wire format: it starts with a zero byte and four of schema id")
    return int.from_bytes(data[1:5], "big"), from_datum(kind, data[5:])


def encode(kind: type[T], values: Sequence[T], compression: Literal["null", "zstandard"] = "null") -> bytes:
    """A container file with these records. Raises CodecError for a value that has no place in the schema."""
    return container(kind, [datum(value) for value in values], compression)


def container(
    kind: type[msgspec.Struct], datums: Sequence[bytes], compression: Literal["null", "zstandard"] = "null"
) -> bytes:
    """A container file of encoded records, in one block."""
    plan = _plan(kind)
    out = io.BytesIO()
    out.write(_MAGIC)
    fastavro.schemaless_writer(out, _META, {"avro.schema": plan.text, "avro.codec": compression.encode()})
    out.write(plan.sync)
    if datums:
        block = b"".join(datums)
        if compression == "zstandard":
            block = zstandard.ZstdCompressor(level=1).compress(block)
        fastavro.schemaless_writer(out, "long", len(datums))
        fastavro.schemaless_writer(out, "bytes", block)
        out.write(plan.sync)
    return out.getvalue()


def decode(kind: type[T], payload: bytes, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> list[T]:
    """The records of a container file of any version of the schema. Raises CodecError, also above the bounds."""
    return to_struct("avro", _plan(kind).packer, kind, read(kind, payload, max_records, max_bytes))


def read(kind: type[msgspec.Struct], payload: bytes, max_records: int, max_bytes: int) -> list[dict[str, Any]]:
    """The records of a container file, as dicts in which free-form values are JSON text. Raises CodecError."""
    plan = _plan(kind)
    if not payload.startswith(_MAGIC):
        raise CodecError("avro", "not an object container file: it does not start with Obj and a 1")
    source = io.BytesIO(payload)
    source.seek(len(_MAGIC))
    meta: Any = _take(source, _META)
    sync = source.read(_SYNC_BYTES)
    writer = plan.writer(meta.get("avro.schema", b""), kind)
    reader = None if writer is plan.schema else plan.schema
    compression = meta.get("avro.codec", b"null")
    records: list[dict[str, Any]] = []
    room = max_bytes
    while source.tell() < len(payload):
        count: Any = _take(source, "long")
        block: Any = _take(source, "bytes")
        if count < 0 or len(records) + count > max_records:
            raise CodecError("avro", f"more than {max_records} records; write smaller files")
        block = _inflate(compression, block, room)
        room -= len(block)
        records += _datums(block, count, writer, reader)
        if source.read(_SYNC_BYTES) != sync:
            raise CodecError("avro", "a block does not end with the file's sync marker: damaged or cut short")
    return records


def _take(source: io.BytesIO, schema: Any) -> Any:
    try:
        return fastavro.schemaless_reader(source, schema, None)
    except _MALFORMED as error:
        raise CodecError("avro", f"the container ends in the middle or is damaged: {error}") from error


def _datums(block: bytes, count: int, writer: Any, reader: Any) -> Iterator[dict[str, Any]]:
    source = io.BytesIO(block)
    for index in range(count):
        try:
            yield fastavro.schemaless_reader(source, writer, reader)  # type: ignore[misc]
        except _MALFORMED as error:
            raise CodecError("avro", f"record {index} of its block is damaged: {error!r}"[:300]) from error
    if source.tell() != len(block):
        raise CodecError("avro", f"{len(block) - source.tell()} bytes follow the last record: not of this schema")


def _inflate(compression: bytes, block: bytes, room: int) -> bytes:
    """Never more than a byte above `room`."""
    try:
        match compression:
            case b"null":
                data = block
            case b"deflate":
                data = zlib.decompressobj(wbits=-15).decompress(block, room + 1)
            case b"zstandard":
                # A window above 8 MB would let a few bytes allocate gigabytes.
                data = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(block).read(room + 1)
            case other:
                raise CodecError("avro", f"unknown compression {other[:40]!r}; use null, deflate or zstandard")
    except (zlib.error, zstandard.ZstdError) as error:
        raise CodecError("avro", f"a block is not valid {compression.decode()}: {error}") from error
    if len(data) > room:
        raise CodecError("avro", "the file holds more bytes than allowed; write smaller files")
    return data
