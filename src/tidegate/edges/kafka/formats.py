"""What is in the value of a record: JSON, Avro or Protobuf, on the way in and on the way out.

Invariant: a value is read as a whole or refused as a whole, with a reason; where it holds several records that are JSON
lines, a bad one among them is left to the pipeline, which refuses it by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from tidegate import frame
from tidegate.codec import avro, protobuf
from tidegate.codec.shape import NAMESPACE
from tidegate.codec.versions import avro_schema
from tidegate.config import KafkaOutput
from tidegate.edges.kafka.avro import AvroReader
from tidegate.edges.kafka.registry import Registry
from tidegate.errors import CodecError, FrameError, TierUnavailableError
from tidegate.event import Envelope
from tidegate.ocsf import OcsfEvent

__all__ = ["CONTENT_TYPES", "Encode", "JsonReader", "ProtobufReader", "Reader", "encoder", "reader"]

CONTENT_TYPES = {
    "json": frame.JSON,
    "avro": "application/vnd.confluent.avro",
    "protobuf": "application/x-protobuf-message",
}
_MAX_BYTES = 32 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_encode = msgspec.json.Encoder().encode
Encode = Callable[[bytes], bytes]


class Reader(Protocol):
    """Reads the values of one format."""

    async def prepare(self, values: list[bytes]) -> None:
        """Get what is needed to read them. Raises TierUnavailableError."""

    def read(self, value: bytes) -> list[bytes]:
        """The records, each JSON without a line break. Raises FrameError."""


class JsonReader:
    """One record, an array of records, or NDJSON."""

    async def prepare(self, values: list[bytes]) -> None:
        return

    def read(self, value: bytes) -> list[bytes]:
        if value[:1] == b"{" and b"\n" not in value:
            return [value]  # the usual case; the pipeline finds out whether it is JSON
        value = value.removeprefix(_BOM)
        if not value or value.isspace():
            raise FrameError("empty", "the value is empty")
        if value.lstrip()[:1] == b"[":
            _, records = frame.open_frame(value, frame.JSON, "", _MAX_BYTES)
            return [record.replace(b"\n", b" ") for record in records]
        if b"\n" not in value:
            return [value]
        if frame.is_json(value):
            return [value.replace(b"\n", b" ")]
        lines = frame.split_lines(value)
        # Also behind a bad one; but inside one object over several lines, which is broken, lines are indented.
        if not any(line[:1] == b"{" and frame.is_json(line) for line in lines):
            raise FrameError("json", "neither JSON nor lines of JSON")
        return lines


class ProtobufReader:
    """One `tidegate.v1.Envelope`, bare or as Confluent's serialisers frame it."""

    async def prepare(self, values: list[bytes]) -> None:
        return

    def read(self, value: bytes) -> list[bytes]:
        if value[:1] == b"\0":  # no message begins with a zero: there is no field of that number
            value = _unframed(value)
        try:
            return [_encode(protobuf.from_message(Envelope, value))]
        except CodecError as error:
            raise FrameError("protobuf", error.problem) from error


def _unframed(value: bytes) -> bytes:
    """After the zero: four bytes of schema id, how many indices lead to the type (0: it is the first), and these."""
    at, left = 5, 1
    first = True
    while left:
        try:
            number, at = protobuf.varint_at(value, at)
        except ValueError as error:
            raise FrameError("protobuf", "Confluent's wire format ends before the message") from error
        left -= 1
        if first:
            left, first = number >> 1, False  # zigzag, never negative
    return value[at:]


def reader(kind: str, registry: Registry | None) -> Reader:
    """For a format of the settings."""
    match kind:
        case "avro":
            return AvroReader(registry)
        case "protobuf":
            return ProtobufReader()
        case _:
            return JsonReader()


def encoder(
    output: KafkaOutput, registry: Registry | None, shape: type[OcsfEvent] | type[Envelope] = OcsfEvent
) -> Callable[[], Awaitable[Encode]]:
    """Gives what makes a value of an event. That raises TierUnavailableError while a registry is needed and away."""
    number = 0
    decode: Callable[[bytes], msgspec.Struct] = msgspec.json.Decoder(shape).decode
    # Confluent's TopicNameStrategy for what a topic is for, its TopicRecordNameStrategy for what else is there.
    name = "value" if shape is OcsfEvent else f"{NAMESPACE}.{shape.__name__}"

    async def ready() -> Encode:
        nonlocal number
        if output.format == "json":
            return bytes
        if output.format == "protobuf":
            return lambda line: _told(lambda: protobuf.to_message(decode(line)), output.topic)
        if registry is not None and not number:
            schema = _encode(avro_schema(shape))
            number = await registry.register(f"{output.topic}-{name}", schema)
        return lambda line: _told(lambda: avro.to_confluent(decode(line), number), output.topic)

    return ready


def _told(make: Callable[[], bytes], topic: str) -> bytes:
    try:
        return make()
    except (CodecError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TierUnavailableError("kafka", f"an event cannot be written to {topic} in its format: {error}") from error
