"""Records of one partition as frames of the ingest stream, in steps that are each stored as one.

Invariant: every record of a step is in a frame, a refused one by itself, or counted as empty; the step's `taken` says
so, and names the offset after its last record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import zstandard
from msgspec.structs import replace

from tidegate import frame, origin, subject
from tidegate.bus import Outgoing
from tidegate.config import KafkaInput
from tidegate.edges.kafka.formats import CONTENT_TYPES, Reader
from tidegate.errors import FrameError
from tidegate.event import Taken

__all__ = ["Packing", "Step"]

_RECORD_BYTES = 1024 * 1024
"""A larger one is a dead letter, as the intake would make it."""
_KEPT_BYTES = 2 * 1024 * 1024
"""Of the value of a refused record."""
_FRAME_RECORDS = 5000
_FRAME_BYTES = 2 * 1024 * 1024
_STEP_BYTES = 8 * 1024 * 1024
_STEP_REFUSED = 200
"""An atomic batch has at most 1,000 messages."""
_TRACES = 16
"""A frame has one trace. So many frames are made of a step for the sake of traces; further records go without."""
_TRACE_BYTES = 100


class Step(NamedTuple):
    """What is stored in one atomic batch."""

    messages: list[Outgoing]
    taken: Taken


class _Lines:
    """The records of one frame to be."""

    __slots__ = ("lines", "offsets", "size")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.offsets: list[int] = []
        self.size = 0


class Packing:
    """Packs the records of one partition of a topic."""

    def __init__(self, given: KafkaInput, reader: Reader, partition: int, to: int) -> None:
        """`to`: the partition of the ingest stream that all of them go to, so that they stay in order."""
        self._read = reader.read
        self._kind = CONTENT_TYPES[given.format]
        self._subject = subject.ingest(given.source, to)
        self._headers = {origin.ORIGIN: f"kafka/{given.topic}/{partition}"}
        if given.tenant:
            self._headers[frame.TENANT] = given.tenant
        self._compress = zstandard.ZstdCompressor(level=1).compress

    def steps(self, records: Sequence[Any], taken: Taken) -> Iterator[Step]:
        """The records (of aiokafka, at least one), in order, after what was `taken` before."""
        frames: dict[str, _Lines] = {"": _Lines()}
        done: list[Outgoing] = []
        refused = empty = size = count = first = 0
        read, plain = self._read, frames[""]
        for number, record in enumerate(records, start=1):
            value, offset = record.value, record.offset
            if value is None:
                empty += 1
            else:
                try:
                    lines = read(value)
                except FrameError as error:
                    done.append(self._refused(value, offset, _trace(record.headers), error))
                    refused += 1
                else:
                    if len(value) > _RECORD_BYTES and (long := [line for line in lines if len(line) > _RECORD_BYTES]):
                        lines = [line for line in lines if len(line) <= _RECORD_BYTES]
                        large = FrameError("record_size", f"a record has more than {_RECORD_BYTES} bytes")
                        # Of several records those that are too long; of one the value as it came.
                        whole = [value] if not lines and len(long) == 1 else long
                        done += [self._refused(one, offset, _trace(record.headers), large) for one in whole]
                        refused += 1
                    into = self._frame(frames, record.headers) if record.headers else plain
                    for line in lines:
                        into.lines.append(line)
                        into.offsets.append(offset)
                        into.size += len(line)
                        if into.size >= _FRAME_BYTES or len(into.lines) >= _FRAME_RECORDS:
                            count += len(into.lines)
                            done.append(self._sealed(frames, into))
                size += len(value)
            if number < len(records) and size < _STEP_BYTES and refused < _STEP_REFUSED:
                continue
            for into in frames.values():
                if into.lines:
                    count += len(into.lines)
                    done.append(self._sealed(frames, into))
            taken = replace(
                taken,
                next=offset + 1,
                messages=taken.messages + number - first,
                records=taken.records + count,
                refused=taken.refused + refused,
                empty=taken.empty + empty,
                time_ms=int(time.time() * 1000),
            )
            yield Step(done, taken)
            frames, done = {"": _Lines()}, []
            plain = frames[""]
            refused = empty = size = count = 0
            first = number

    @staticmethod
    def _frame(frames: dict[str, _Lines], headers: Sequence[tuple[str, bytes]]) -> _Lines:
        trace = _trace(headers)
        if trace not in frames and len(frames) <= _TRACES:
            frames[trace] = _Lines()
        return frames.get(trace) or frames[""]

    def _sealed(self, frames: dict[str, _Lines], one: _Lines) -> Outgoing:
        """The frame with what `one` holds, which is empty after that."""
        payload = b"\n".join(one.lines)
        headers = {
            **self._headers,
            frame.CONTENT_TYPE: frame.NDJSON,
            frame.COUNT: str(len(one.lines)),
            origin.OFFSETS: origin.spans(one.offsets),
        }
        if trace := next(name for name, lines in frames.items() if lines is one):
            headers[frame.TRACEPARENT] = trace
        if len(payload) > 1024:
            payload = self._compress(payload)
            headers[frame.CONTENT_ENCODING] = "zstd"
        one.lines, one.offsets, one.size = [], [], 0
        return Outgoing(self._subject, payload, headers)

    def _refused(self, value: bytes, offset: int, trace: str, error: FrameError) -> Outgoing:
        problem = error.problem
        if len(value) > _KEPT_BYTES:
            problem += f"; these are the first {_KEPT_BYTES} bytes of {len(value)}"
        headers = {
            **self._headers,
            frame.CONTENT_TYPE: self._kind,
            frame.COUNT: "1",
            origin.OFFSETS: str(offset),
            origin.REFUSED: f"{error.rule}: {' '.join(problem.split())}"[:500].encode("ascii", "replace").decode(),
        }
        if trace:
            headers[frame.TRACEPARENT] = trace
        return Outgoing(self._subject, value[:_KEPT_BYTES], headers)


def _trace(headers: Sequence[tuple[str, bytes]]) -> str:
    """The `traceparent` among a record's headers; empty for none, or rubbish."""
    for name, value in headers:
        if name == frame.TRACEPARENT and value and len(value) < _TRACE_BYTES:
            text = value.decode("ascii", "replace")
            return text if text.isascii() and text.isprintable() else ""
    return ""
