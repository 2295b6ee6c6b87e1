"""Events as MongoDB documents, and back.

Invariant: every event gets a document that MongoDB takes, and comes back from it as the same JSON value.

What BSON or the server cannot hold (an integer beyond 64 bits signed, NUL in a key, nesting beyond 100 levels, 16 MB,
a field with one of our own names) is changed in that one document only, with the JSON itself beside it as `_raw`. So is
the JSON of an event that would not come back byte by byte; the pipeline writes none such.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import bson
import msgspec
import zstandard
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from bson.raw_bson import RawBSONDocument

from tidegate.head import EventHead, decode_heads, record_id, seen_in
from tidegate.projection import Recorded

__all__ = ["crc_of", "documents_of", "json_of"]

OURS = frozenset({"_id", "_crc", "_at", "_seen", "_raw"})
# https://www.mongodb.com/docs/manual/reference/limits/: 100 levels, 16 MiB; some room is left for our own fields.
MAX_LEVELS = 90
MAX_BYTES = 15 * 1024 * 1024
MAX_SEEN_OF_OVERSIZED = 1000

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_DECODE = msgspec.json.Decoder().decode
# The driver returns 64-bit integers as Int64, a subclass of int that msgspec does not know.
_ENCODE = msgspec.json.Encoder(enc_hook=int).encode


def documents_of(frames: Sequence[Recorded]) -> list[RawBSONDocument]:
    """The documents of all events in `frames`, encoded."""
    documents = []
    for one in frames:
        at = datetime.fromtimestamp(one.time_ms / 1000, UTC)
        lines = one.lines()
        for index, (head, line) in enumerate(zip(decode_heads(lines), lines, strict=True)):
            ours = {
                "_id": record_id(one.sequence, index),
                "_crc": zlib.crc32(line),
                "_at": at,
                "_seen": sorted(seen_in(head)),
            }
            documents.append(RawBSONDocument(_encode(line, head, ours)))
    return documents


def json_of(document: dict[str, Any]) -> bytes:
    """The event in `document`, as JSON."""
    if "_raw" in document:
        return zstandard.ZstdDecompressor().decompress(document["_raw"])
    return _ENCODE({key: value for key, value in document.items() if key not in OURS})


def crc_of(document: dict[str, Any]) -> int:
    """The CRC-32 of the event's JSON in the log, if all of the document is as it was written; else something else."""
    try:
        line = json_of(document)
        (head,) = decode_heads([line])
    except (zstandard.ZstdError, msgspec.MsgspecError, TypeError, ValueError):
        return -1
    crc = zlib.crc32(line)
    if "_raw" in document:
        ours = {"_id": document["_id"], "_crc": crc, "_at": document.get("_at"), "_seen": sorted(seen_in(head))}
        written = bson.decode(_encode(line, head, ours), _AWARE)
        intact = {**written, "_raw": None} == {**document, "_raw": None}
    else:
        intact = document.get("_crc") == crc and document.get("_seen") == sorted(seen_in(head))
    return crc if intact else ~crc


def _encode(line: bytes, head: EventHead, ours: dict[str, Any]) -> bytes:
    event = _DECODE(line)
    # The number of brackets is an upper bound of the depth, and cheap. The driver reads {"$ref": ...} as a reference.
    if OURS.isdisjoint(event) and line.count(b"{") + line.count(b"[") < MAX_LEVELS and b'"$ref"' not in line:
        try:
            encoded = bson.encode({**ours, **event})
            same = _ENCODE(event) == line
        except (OverflowError, InvalidDocument):
            pass
        else:
            if same and len(encoded) < MAX_BYTES:
                return encoded
    return _encode_changed(event, line, head, ours)


def _encode_changed(event: dict[str, Any], line: bytes, head: EventHead, ours: dict[str, Any]) -> bytes:
    ours = {**ours, "_raw": zstandard.ZstdCompressor(level=3).compress(line)}
    fitting = {key: value for key, value in event.items() if key not in OURS}
    encoded: bytes = bson.encode({**ours, **_fit(fitting, 1)})
    if len(encoded) < MAX_BYTES:
        return encoded
    ours["_seen"] = ours["_seen"][:MAX_SEEN_OF_OVERSIZED]
    indexed = EventHead(metadata=head.metadata, class_uid=head.class_uid, severity_id=head.severity_id, time=head.time)
    oversized: bytes = bson.encode({**ours, **_fit(msgspec.to_builtins(indexed), 1)})
    return oversized


def _fit(value: Any, level: int) -> Any:
    """`value` as BSON can hold it: large integers and whatever is nested too deeply as text, NUL in keys as U+FFFD."""
    if isinstance(value, dict):
        if level > MAX_LEVELS:
            return _ENCODE(value).decode()
        return {key.replace("\0", "\N{REPLACEMENT CHARACTER}"): _fit(one, level + 1) for key, one in value.items()}
    if isinstance(value, list):
        if level > MAX_LEVELS:
            return _ENCODE(value).decode()
        return [_fit(one, level + 1) for one in value]
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)
    return value
