"""An upload of any length, one record a line, cut into frames while it comes in.

Invariant: memory is bounded whatever is sent, and where the cuts are depends on the lines alone, not on how the bytes
came in; so the frames of a repeated upload are the same ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import zstandard
from msgspec import Struct

from tidegate.errors import FrameError

__all__ = ["FRAME_BYTES", "FRAME_RECORDS", "MAX_RECORD_BYTES", "Cut", "Cutter", "Inflater", "cut"]

FRAME_RECORDS = 1000
FRAME_BYTES = 1024 * 1024
MAX_RECORD_BYTES = 1024 * 1024
"""As for the intake, which would make a dead letter of a longer one."""
_WINDOW_BYTES = 8 * 1024 * 1024
_SLICE = 512
"""A block of zstd may be 4 bytes for 128 kB, so this much makes 16 MB at most."""
_STEP = 1024 * 1024
_MAX_MEMBERS = 10_000


class Cut(Struct):
    """Some lines in order."""

    first: int
    """The index of the first among all lines of the upload that are not blank."""
    records: list[bytes]
    long: list[int]
    """Indices, in the upload, of lines that were too long and have been passed over."""
    indices: list[int]
    """Of the records, in the upload."""


class Inflater:
    """Takes content encodings off, piece by piece."""

    def __init__(self, encoding: str) -> None:
        """Raises FrameError for an unknown encoding."""
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", "zstd", "gzip", "x-gzip"):
            raise FrameError("content_encoding", f"unknown content encoding {encoding[:60]!r}; use zstd, gzip or none")
        self._member: Any = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes of `data`, in pieces that take little room as lines. Raises FrameError for damaged data."""
        if self._encoding in ("", "identity"):
            yield data
        elif self._encoding == "zstd":
            for start in range(0, len(data), _SLICE):
                yield from self._zstd(data[start : start + _SLICE])
        else:
            yield from self._gzip(data)

    def _begin(self) -> Any:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise FrameError("content_encoding", f"more than {_MAX_MEMBERS} compressed parts in one body")
        if self._encoding == "zstd":
            return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        return zlib.decompressobj(wbits=31)

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                self._member = self._member or self._begin()
                piece = self._member.decompress(data)
                # A line may be one byte, and takes eight in a list.
                for start in range(0, len(piece), _STEP):
                    yield piece[start : start + _STEP]
                if not self._member.eof:
                    return
                data, self._member = self._member.unused_data, None
        except zstandard.ZstdError as error:
            raise FrameError("content_encoding", f"not valid zstd: {error}") from error

    def _gzip(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                self._member = self._member or self._begin()
                yield self._member.decompress(data, _STEP)
                data = self._member.unconsumed_tail
                if self._member.eof:
                    data, self._member = self._member.unused_data, None
        except zlib.error as error:
            raise FrameError("content_encoding", f"not valid gzip: {error}") from error

    def end(self) -> None:
        """Nothing more comes. Raises FrameError where something is missing."""
        if self._member is not None:
            raise FrameError("content_encoding", f"{self._encoding} data ends in the middle")


class Cutter:
    """Cuts lines into frames."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        """The line that has not ended yet."""
        self._length = 0
        self._count = 0
        self._bytes = 0
        self._open = Cut(0, [], [], [])

    def feed(self, data: bytes) -> Iterator[Cut]:
        """Frames that are full now."""
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._keep(data)
            return
        self._keep(lines[0])
        yield from self._line()
        for line in lines[1:-1]:
            self._keep(line)
            yield from self._line()
        self._keep(lines[-1])

    def end(self) -> Iterator[Cut]:
        """What is left: the last line need not have an end."""
        yield from self._line()
        if self._open.records or self._open.long:
            yield self._open

    def _keep(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > MAX_RECORD_BYTES + 1:  # a line may end with \r\n
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _line(self) -> Iterator[Cut]:
        line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        length, self._length = self._length, 0
        self._parts.clear()
        if line[-1:] == b"\r":
            line, length = line[:-1], length - 1
        if length > MAX_RECORD_BYTES:
            self._open.long.append(self._count)
            self._count += 1
        elif line and not line.isspace():
            cut = self._open
            if cut.records and self._bytes + length > FRAME_BYTES:
                yield self._next()
                cut = self._open
            cut.records.append(line)
            cut.indices.append(self._count)
            self._count += 1
            self._bytes += length
        if len(self._open.records) == FRAME_RECORDS or len(self._open.long) == FRAME_RECORDS:
            yield self._next()

    def _next(self) -> Cut:
        done, self._open = self._open, Cut(self._count, [], [], [])
        self._bytes = 0
        return done


def cut(records: list[bytes], indices: list[int]) -> Iterator[Cut]:
    """Records that are at hand, cut as if they were lines."""
    start = size = 0
    for place, record in enumerate(records):
        if place > start and (size + len(record) > FRAME_BYTES or place - start == FRAME_RECORDS):
            yield Cut(indices[start], records[start:place], [], indices[start:place])
            start, size = place, 0
        size += len(record)
    if records[start:]:
        yield Cut(indices[start], records[start:], [], indices[start:])
