"""Frames: one NATS message with 1..N records. Sealing them, opening them, splitting them into records.

Invariant: opening never inflates to more than the bound given, and never looks into a record.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import zstandard

from tidegate.errors import FrameError

__all__ = [
    "CAUSE",
    "CONTENT_ENCODING",
    "CONTENT_TYPE",
    "COUNT",
    "DIGEST",
    "JSON",
    "MSGPACK",
    "NDJSON",
    "SCHEMA",
    "TEXT",
    "TRACEPARENT",
    "Codec",
    "digest_of",
    "inflate",
    "open_frame",
    "seal",
    "split_lines",
]

CONTENT_TYPE = "Content-Type"
CONTENT_ENCODING = "Content-Encoding"
SCHEMA = "Tidegate-Schema"
COUNT = "Tidegate-Count"
CAUSE = "Tidegate-Cause"
DIGEST = "Tidegate-Digest"
TRACEPARENT = "traceparent"

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
TEXT = "text/plain"

Codec = Literal["json", "msgpack", "text"]

_JSON_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MSGPACK_RAW_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
_JSON_SKIP = msgspec.json.Decoder(msgspec.Raw)
_UTF8_BOM = b"\xef\xbb\xbf"


def digest_of(lines: Sequence[bytes]) -> int:
    """The sum of the CRC-32 of each record: independent of order, comparable between the log and every read model."""
    return sum(map(zlib.crc32, lines))


def seal(lines: Sequence[bytes], level: int = 1) -> bytes:
    """Records (JSON, none with a newline) as one zstd NDJSON payload.

    The payloads of several frames, put one after the other, are a valid zstd stream of NDJSON again: the cold archive
    relies on the newline at the end.
    """
    return zstandard.ZstdCompressor(level=level).compress(b"\n".join(lines) + b"\n")


def split_lines(payload: bytes) -> list[bytes]:
    """The non-empty lines of NDJSON or text."""
    return [line for line in payload.replace(b"\r\n", b"\n").split(b"\n") if line and not line.isspace()]


def inflate(payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """`payload` without its content encoding. Raises FrameError for an unknown or damaged one, or above `max_bytes`."""
    match encoding.strip().lower():
        case "" | "identity":
            data = payload
        case "zstd":
            data = _inflate_zstd(payload, max_bytes)
        case "gzip" | "x-gzip":
            data = _inflate_gzip(payload, max_bytes)
        case other:
            raise FrameError("content_encoding", f"unknown content encoding {other[:60]!r}; use zstd, gzip or none")
    if len(data) > max_bytes:
        raise FrameError("inflated_size", f"the frame holds more than {max_bytes} bytes; publish smaller frames")
    return data


def _inflate_zstd(payload: bytes, max_bytes: int) -> bytes:
    try:
        # A frame header may claim any size, so read a bounded stream instead of trusting it; a window above 8 MB
        # (what zstd's own tools use at most by default) would let a few bytes allocate gigabytes.
        reader = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).stream_reader(
            payload, read_across_frames=True
        )
        data = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise FrameError("content_encoding", f"not valid zstd: {error}") from error
    if payload and not data:
        raise FrameError("content_encoding", "not valid zstd: nothing could be decompressed")
    return data


def _inflate_gzip(payload: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    room = max_bytes + 1
    rest = payload
    try:
        while rest and room > 0:
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(rest, room)
            room -= len(part)
            parts.append(part)
            if not member.eof:
                if room > 0:
                    raise FrameError("content_encoding", "gzip data ends in the middle")
                break
            rest = member.unused_data
    except zlib.error as error:
        raise FrameError("content_encoding", f"not valid gzip: {error}") from error
    return b"".join(parts)


def open_frame(payload: bytes, content_type: str, content_encoding: str, max_bytes: int) -> tuple[Codec, list[bytes]]:
    """The codec and the encoded records of a frame. Without a content type the payload decides: JSON or text lines.

    Raises FrameError when nothing in the frame can be told apart; a record that is bad by itself is returned as it is.
    """
    data = inflate(payload, content_encoding, max_bytes)
    kind = content_type.split(";", 1)[0].strip().lower()
    if not data or data.isspace():
        raise FrameError("empty", "the frame is empty")
    match kind:
        case "application/x-ndjson" | "application/ndjson" | "application/jsonl":
            return "json", split_lines(data)
        case "application/json":
            return "json", _split_json(data)
        case "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack":
            return "msgpack", _split_msgpack(data)
        case "text/plain":
            return "text", split_lines(data)
        case "":
            start = data.removeprefix(_UTF8_BOM).lstrip()[:1]
            if start not in (b"{", b"["):
                return "text", split_lines(data)
            if start == b"{" and b"\n" in data.strip():
                lines = split_lines(data)
                if _is_json(lines[0]) or not _is_json(data):
                    return "json", lines
            return "json", _split_json(data)
        case other:
            raise FrameError(
                "content_type",
                f"unknown content type {other[:80]!r}; use {JSON}, {NDJSON}, {MSGPACK} or {TEXT}",
            )


def _is_json(data: bytes) -> bool:
    try:
        _JSON_SKIP.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _split_json(data: bytes) -> list[bytes]:
    data = data.removeprefix(_UTF8_BOM)
    if data.lstrip()[:1] != b"[":
        return [data]
    try:
        records = [bytes(raw) for raw in _JSON_RAW_LIST.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("json", f"the array of records is not valid JSON: {error}") from error
    if not records:
        raise FrameError("empty", "the frame is an empty array")
    return records


def _split_msgpack(data: bytes) -> list[bytes]:
    first = data[0]
    is_array = 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)
    if not is_array:
        return [data]
    try:
        records = [bytes(raw) for raw in _MSGPACK_RAW_LIST.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("msgpack", f"the array of records is not valid msgpack: {error}") from error
    if not records:
        raise FrameError("empty", "the frame is an empty array")
    return records
