"""How an object of the cold archive is laid out, and what its index says.

Invariant: an object is zstd NDJSON to any zstd tool; all else stands in skippable frames, which those ignore.

    payloads of the LOG frames, byte for byte, one after the other
    skippable frame: fingerprints, for each LOG frame its CRC-32s, ascending, four bytes each, little-endian
    skippable frame: ObjectIndex as JSON, its length (4 bytes, little-endian), b"TGIX"

Fingerprints take about 9 bytes an event (a compressed event takes 40 to 150), the rest of the index 0.2.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from tidegate.head import EventHead, decode_heads, normalise
from tidegate.projection import Position, Recorded

__all__ = [
    "Content",
    "FrameEntry",
    "ObjectIndex",
    "Summary",
    "build",
    "content_of",
    "fingerprint",
    "frames_with",
    "index_bytes",
    "keys_of",
    "parse",
    "summarise",
]

MAX_BEFORE = 128

_SKIPPABLE = 0x184D2A50
_HEADER = struct.Struct("<II")
_TRAILER = struct.Struct("<I4s")
_MAGIC = b"TGIX"
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Summary(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What must be known about an object to pass over it."""

    after: int
    """Its frames come after this sequence: the object's name, and its predecessor's last sequence (0 for none)."""
    last: int
    size: int
    index_bytes: int
    """The last so many bytes of the object are its ObjectIndex."""
    count: int
    logged_ms: int
    """When the log stored its last frame."""
    first_ms: int
    """Earliest and latest event time in it, as the events have it."""
    last_ms: int


class FrameEntry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One LOG frame in an object."""

    sequence: int
    time_ms: int
    offset: int
    length: int
    count: int
    digest: int
    first_ms: int
    last_ms: int
    fingerprints: int
    """How many it has."""
    tiers: str = ""
    """The other read models that it is for, as in the log."""


class ObjectIndex(msgspec.Struct, frozen=True, kw_only=True):
    format: int = 1
    shard: int
    after: int
    position: Position
    """Where the archive of the shard stands with this object."""
    fingerprints_at: int
    """Offset in the object."""
    frames: list[FrameEntry]
    before: list[Summary]
    """The objects before this one, latest first, at most 128: so a search passes over as many with one read."""


_DECODER = msgspec.json.Decoder(ObjectIndex)


def fingerprint(key: str) -> int:
    return zlib.crc32(key.encode())


def keys_of(heads: Iterable[EventHead]) -> set[str]:
    """All that the events can be looked up by: their ids, and what `head.seen_in` finds in them.

    The same as asking `seen_in` for each, but a value that many events have is normalised once.
    """
    ids: set[str] = set()
    values: set[str | None] = set()
    for head in heads:
        ids.add(head.metadata.uid)
        ids.add(head.metadata.correlation_uid)
        values.add(head.user_name)
        for observable in head.observables:
            values.add(observable.value)
        for endpoint in (head.src_endpoint, head.dst_endpoint, head.device):
            if endpoint is not None:
                values.add(endpoint.ip)
                values.add(endpoint.hostname)
    return ids | {normalise(value) for value in values if value}


def frames_with(index: ObjectIndex, fingerprints: bytes, wanted: int) -> list[FrameEntry]:
    """The frames in which `wanted` may occur; it does not in any other."""
    prints = array("I", fingerprints)
    if sys.byteorder == "big":
        prints.byteswap()
    found = []
    start = 0
    for one in index.frames:
        end = start + one.fingerprints
        at = bisect_left(prints, wanted, start, end)
        if at < end and prints[at] == wanted:
            found.append(one)
        start = end
    return found


class Content(NamedTuple):
    """What an object holds, before its place in the archive is known."""

    shard: int
    payloads: list[bytes]
    frames: list[FrameEntry]
    fingerprints: bytes


def content_of(frames: Sequence[Recorded]) -> Content:
    """The frames of one shard, with their fingerprints."""
    entries: list[FrameEntry] = []
    prints = array("I")
    offset = 0
    for one in frames:
        heads = decode_heads(one.lines())
        times = [min(max(head.time, _LOWEST), _HIGHEST) for head in heads]
        own = sorted({fingerprint(key) for key in keys_of(heads)})
        prints.extend(own)
        entries.append(
            FrameEntry(
                sequence=one.sequence,
                time_ms=one.time_ms,
                offset=offset,
                length=len(one.payload),
                count=one.count,
                digest=one.digest,
                first_ms=min(times),
                last_ms=max(times),
                fingerprints=len(own),
                tiers=one.tiers,
            )
        )
        offset += len(one.payload)
    if sys.byteorder == "big":
        prints.byteswap()
    return Content(frames[0].shard, [one.payload for one in frames], entries, prints.tobytes())


def build(content: Content, after: int, position: Position, before: Sequence[Summary]) -> tuple[bytes, Summary]:
    """The object that takes the archive from `after` to `position`, and its summary."""
    last = content.frames[-1]
    index = ObjectIndex(
        shard=content.shard,
        after=after,
        position=position,
        fingerprints_at=last.offset + last.length + _HEADER.size,
        frames=content.frames,
        before=list(before[:MAX_BEFORE]),
    )
    encoded = msgspec.json.encode(index)
    tail = encoded + _TRAILER.pack(len(encoded), _MAGIC)
    body = b"".join(
        [
            *content.payloads,
            _HEADER.pack(_SKIPPABLE + 1, len(content.fingerprints)),
            content.fingerprints,
            _HEADER.pack(_SKIPPABLE, len(tail)),
            tail,
        ]
    )
    return body, summarise(index, len(body), len(tail))


def summarise(index: ObjectIndex, size: int, index_bytes: int) -> Summary:
    return Summary(
        after=index.after,
        last=index.position.sequence,
        size=size,
        index_bytes=index_bytes,
        count=sum(one.count for one in index.frames),
        logged_ms=index.frames[-1].time_ms,
        first_ms=min(one.first_ms for one in index.frames),
        last_ms=max(one.last_ms for one in index.frames),
    )


def index_bytes(tail: bytes) -> int:
    """How many of the last bytes of an object are its index; `tail` is at least the last eight of them.

    Raises ValueError when there is no index.
    """
    length, magic = _TRAILER.unpack(tail[-_TRAILER.size :])
    if magic != _MAGIC:
        raise ValueError("its index is missing")
    return int(length) + _TRAILER.size


def parse(tail: bytes) -> ObjectIndex:
    """The index, from the last `index_bytes` bytes of an object. Raises ValueError when it is not one."""
    return _DECODER.decode(tail[: -_TRAILER.size])
