"""Frames: one NATS message with 1..N records. Sealing them, opening them, splitting them into records.

Invariant: opening never inflates to more than the bound given, and never looks into a record.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import zstandard

from tidegate.errors import CodecError, FrameError

__all__ = [
    "AVRO",
    "CAUSE",
    "CONTENT_ENCODING",
    "CONTENT_TYPE",
    "COUNT",
    "DIGEST",
    "JSON",
    "MAX_RECORDS",
    "MSGPACK",
    "NDJSON",
    "PROTOBUF",
    "REPLACES",
    "SCHEMA",
    "SUBJECTS",
    "TENANT",
    "TEXT",
    "TIERS",
    "TOPICS",
    "TRACEPARENT",
    "Codec",
    "Destination",
    "digest_of",
    "inflate",
    "is_envelopes",
    "is_json",
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
TIERS = "Tidegate-Tiers"
"""Read models that the frame is for, by a comma; without it, all."""
SUBJECTS = "Tidegate-Subjects"
"""Subjects that get a copy, by a comma."""
TOPICS = "Tidegate-Topics"
"""Kafka topics that get a copy, by a comma."""
REPLACES = "Tidegate-Replaces"
"""Of a remade frame: the sequence of the one that it stands for."""
TENANT = "Tidegate-Tenant"
"""Whose records the frame holds; set by edges, from who has sent them."""
TRACEPARENT = "traceparent"

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
TEXT = "text/plain"
AVRO = "application/avro"
"""An object container file of envelopes."""
PROTOBUF = "application/x-protobuf"
"""Envelopes as messages, each after its length (a varint), also when it is only one."""

Codec = Literal["json", "msgpack", "text"]

_JSON_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MSGPACK_RAW_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
_JSON_SKIP = msgspec.json.Decoder(msgspec.Raw)
_UTF8_BOM = b"\xef\xbb\xbf"

MAX_RECORDS = 50_000
"""In one frame: an event takes some hundred bytes even where its record has two."""
_MAX_COMMAS = 2_000_000
"""In a JSON array of records. Splitting `[1,1,1,...]` of 32 MB would take half a minute and 2 GB."""
_MAX_GZIP_MEMBERS = 100
"""zlib copies what follows a member, so thousands of tiny members would take minutes."""
_CHUNK_BYTES = 4 * 1024 * 1024
_END = bytes(32)
_NOTHING = zstandard.compress(b"")
_END_FRAME = zstandard.compress(_END)


class Destination(msgspec.Struct, frozen=True):
    """Where the events of a frame go besides the log; the empty one: to all read models."""

    tiers: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()

    def and_to(self, other: Destination) -> Destination:
        return Destination(self.tiers | other.tiers, self.subjects | other.subjects, self.topics | other.topics)

    def headers(self) -> dict[str, str]:
        """For the frame in the log."""
        parts = {TIERS: self.tiers, SUBJECTS: self.subjects, TOPICS: self.topics}
        return {name: ",".join(sorted(found)) for name, found in parts.items() if found}


def digest_of(lines: Sequence[bytes]) -> int:
    """The sum of the CRC-32 of each record: independent of order, comparable between the log and every read model."""
    return sum(map(zlib.crc32, lines))


def seal(lines: Sequence[bytes], level: int = 1) -> bytes:
    """Records (JSON, none with a newline) as one zstd NDJSON payload.

    The payloads of several frames, put one after the other, are a valid zstd stream of NDJSON again: the cold archive
    relies on the newline at the end.
    """
    if not lines:
        return _NOTHING
    return zstandard.ZstdCompressor(level=level).compress(b"\n".join(lines) + b"\n")


def split_lines(payload: bytes) -> list[bytes]:
    """The non-empty lines of NDJSON or text."""
    # Looking for one byte takes a twentieth of the time that looking for two takes.
    if b"\r" in payload:
        payload = payload.replace(b"\r\n", b"\n")
    return [line for line in payload.split(b"\n") if line and not line.isspace()]


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
    with contextlib.suppress(zstandard.ZstdError):
        if 0 < zstandard.frame_content_size(payload) <= max_bytes:
            # The usual case, one whole frame; twice as fast as below, and strict about sizes and what follows.
            return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    # The reader takes data that ends in the middle for complete. So a zstd frame of our own follows: what comes out
    # ends with its content only when all before it was whole.
    room = max_bytes + 1 + len(_END)
    parts: list[bytes] = []
    try:
        # A frame header may claim any size, so read a bounded stream instead of trusting it; a window above 8 MB
        # (what zstd's own tools use at most by default) would let a few bytes allocate gigabytes.
        reader = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).stream_reader(
            payload + _END_FRAME, read_across_frames=True
        )
        while room > 0 and (part := reader.read(min(room, _CHUNK_BYTES))):
            parts.append(part)
            room -= len(part)
    except zstandard.ZstdError as error:
        raise FrameError("content_encoding", f"not valid zstd: {error}") from error
    data = b"".join(parts)
    if data.endswith(_END):
        return data[: -len(_END)]
    if len(data) <= max_bytes:
        raise FrameError("content_encoding", "zstd data ends in the middle")
    return data


def _inflate_gzip(payload: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    room = max_bytes + 1
    rest = payload
    try:
        while rest and room > 0:
            if len(parts) == _MAX_GZIP_MEMBERS:
                raise FrameError("content_encoding", f"more than {_MAX_GZIP_MEMBERS} gzip members in one frame")
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
    kind = _kind(content_type)
    if is_envelopes(kind) and data:
        return "json", _open_envelopes(kind, data, max_bytes)
    if "msgpack" not in kind:
        data = data.removeprefix(_UTF8_BOM)
    if not data or data.isspace():
        raise FrameError("empty", "the frame is empty")
    match kind:
        case "application/x-ndjson" | "application/ndjson" | "application/jsonl":
            return "json", _split_lines(data)
        case "application/json":
            return "json", _split_json(data)
        case "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack":
            return "msgpack", _split_msgpack(data)
        case "text/plain":
            return "text", _split_lines(data)
        case "":
            start = data.lstrip()[:1]
            if start not in (b"{", b"["):
                return "text", _split_lines(data)
            if start == b"{" and b"\n" in data.strip():
                lines = _split_lines(data)
                if is_json(lines[0]) or not is_json(data):
                    return "json", lines
            return "json", _split_json(data)
        case other:
            raise FrameError(
                "content_type",
                f"unknown content type {other[:80]!r}; use {JSON}, {NDJSON}, {MSGPACK}, {AVRO}, {PROTOBUF} or {TEXT}",
            )


def _kind(content_type: str) -> str:
    return content_type.split(";", 1)[0].strip().lower()


def is_envelopes(content_type: str) -> bool:
    """Whether a frame of this type holds envelopes in another format, which `open_frame` gives as JSON."""
    return _kind(content_type) in (AVRO, PROTOBUF, "application/protobuf")


def _open_envelopes(kind: str, data: bytes, max_bytes: int) -> list[bytes]:
    # Imported where it is needed: few frames are of this kind, and most commands open none.
    from tidegate.codec import envelopes

    read = envelopes.from_avro if kind == AVRO else envelopes.from_protobuf
    try:
        records = read(data, MAX_RECORDS, max_bytes)
    except CodecError as error:
        raise FrameError(error.codec, error.problem) from error
    if not records:
        raise FrameError("empty", "the frame holds no records")
    return records


def _split_lines(data: bytes) -> list[bytes]:
    _check_count(data.count(b"\n"))
    return split_lines(data)


def _check_count(records: int) -> None:
    if records > MAX_RECORDS:
        raise FrameError("record_count", f"the frame holds more than {MAX_RECORDS} records; publish smaller frames")


def is_json(data: bytes) -> bool:
    """Whether it is one JSON value; texts in it may be no UTF-8."""
    try:
        _JSON_SKIP.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _split_json(data: bytes) -> list[bytes]:
    if data.lstrip()[:1] != b"[":
        return [data]
    if data.count(b",") > _MAX_COMMAS:
        raise FrameError("record_count", f"more than {_MAX_COMMAS} values in one array; publish smaller frames")
    try:
        records = [bytes(raw) for raw in _JSON_RAW_LIST.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("json", f"the array of records is not valid JSON: {error}") from error
    if not records:
        raise FrameError("empty", "the frame is an empty array")
    _check_count(len(records))
    return records


def _split_msgpack(data: bytes) -> list[bytes]:
    first = data[0]
    is_array = 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)
    if not is_array:
        return [data]
    if first >= 0xDC:
        _check_count(int.from_bytes(data[1 : 3 if first == 0xDC else 5], "big"))
    try:
        records = [bytes(raw) for raw in _MSGPACK_RAW_LIST.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("msgpack", f"the array of records is not valid msgpack: {error}") from error
    if not records:
        raise FrameError("empty", "the frame is an empty array")
    return records
