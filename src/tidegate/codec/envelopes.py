"""Envelopes in Avro or Protobuf as the JSON records that the pipeline takes.

Invariant: every envelope becomes one record; one whose `data` or `metadata` is not JSON is that text as it is, which
the pipeline refuses by itself, so that it does not take its frame with it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.codec import avro, protobuf
from tidegate.event import Envelope

__all__ = ["as_record", "from_avro", "from_protobuf"]

_SKIP = msgspec.json.Decoder(msgspec.Raw)
_ENCODER = msgspec.json.Encoder()


def from_avro(payload: bytes, max_records: int, max_bytes: int) -> list[bytes]:
    """The envelopes of a container file. Raises CodecError."""
    return [as_record(one) for one in avro.read(Envelope, payload, max_records, max_bytes)]


def from_protobuf(payload: bytes, max_records: int, max_bytes: int) -> list[bytes]:
    """The envelopes of length-delimited messages. Raises CodecError."""
    return [as_record(one) for one in protobuf.read(Envelope, payload, max_records, max_bytes)]


def as_record(decoded: dict[str, Any]) -> bytes:
    """One envelope as JSON, from a dict in which free-form values are JSON text."""
    record: dict[str, Any] = {}
    for name, value in decoded.items():
        if value is None:
            continue
        if name in ("data", "metadata"):
            text = value.encode()
            try:
                record[name] = _SKIP.decode(text)
            except (msgspec.DecodeError, RecursionError):
                return text or b'""'
        else:
            record["timestamp" if name.startswith("timestamp_") else name] = value
    return _ENCODER.encode(record)
