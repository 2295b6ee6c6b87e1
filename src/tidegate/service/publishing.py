"""Publishing for edges: one record, many, or a stream of any length; frames are stored, and every record is told of.

Invariant: each record of a call is either in a frame that the server has stored, or listed as refused with the reason,
or the call fails and says what was stored before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Any

import msgspec
import zstandard
from msgspec import Struct

from tidegate import frame, subject
from tidegate.auth import Gate, Principal
from tidegate.bus import Bus, Outgoing
from tidegate.errors import BusError, BusUnavailableError, Code, FrameError, RefusedError
from tidegate.service.checking import checking
from tidegate.service.cutting import MAX_RECORD_BYTES, Cut, Cutter, Inflater, cut

__all__ = ["Body", "Published", "Publishing", "Refusal"]

Body = bytes | AsyncIterator[bytes]
_BY_LINES = {
    "application/x-ndjson": "json",
    "application/ndjson": "json",
    "application/jsonl": "json",
    "text/plain": "text",
}
_IN_FLIGHT = 8
"""Frames of one upload that wait for their acknowledgements."""
_MOST_LISTED = 1000
_INLINE_BYTES = 128 * 1024
_TURN_BYTES = 64 * 1024
"""After so much of a stream others have their turn."""
_CODES = {
    "content_type": Code.UNSUPPORTED,
    "content_encoding": Code.UNSUPPORTED,
    "inflated_size": Code.TOO_LARGE,
    "record_count": Code.TOO_LARGE,
}


class Refusal(Struct, frozen=True):
    """One record that was not stored."""

    index: int
    """Among the records of the call, from 0; blank lines do not count."""
    reason: str


class Published(Struct, kw_only=True):
    """What became of a call."""

    positions: list[str] = []
    """`INGEST/<partition>/<sequence>` of each frame that is on disk."""
    records: int = 0
    """In these frames."""
    duplicates: int = 0
    """Frames that had been stored before, under the same idempotency key."""
    refused: list[Refusal] = []
    """The first thousand."""
    refused_count: int = 0


class _Call:
    """One call under way."""

    def __init__(self, principal: Principal, source: str, key: str, trace: str) -> None:
        self.principal = principal
        self.source = source
        self.trace = trace if len(trace) < 100 and trace.isascii() and trace.isprintable() else ""
        whose = f"{principal.tenant}\0{source}\0{key}".encode()
        self.key = blake2b(whose, digest_size=16).hexdigest() if key else ""
        self.frames = 0
        self.answer = Published()
        self.waiting: deque[tuple[asyncio.Future[Any], int, int]] = deque()

    def refuse(self, index: int, reason: str) -> None:
        self.answer.refused_count += 1
        if len(self.answer.refused) < _MOST_LISTED:
            self.answer.refused.append(Refusal(index, reason))

    def failed(self, code: Code, problem: str) -> RefusedError:
        """With what was stored before it failed."""
        answer = self.answer
        details: dict[str, object] = {}
        if answer.positions or answer.refused_count:
            details = msgspec.to_builtins(answer)
        return RefusedError(code, problem, details=details)


class Publishing:
    """Puts records into the ingest stream."""

    def __init__(
        self,
        bus: Callable[[], Bus | None],
        gate: Gate,
        partitions: int,
        max_frame_bytes: int,
        max_inflated_bytes: int,
    ) -> None:
        self._bus = bus
        self._gate = gate
        self._partitions = partitions
        self._max_frame = max_frame_bytes
        self._max_inflated = max_inflated_bytes
        self._turn = itertools.count()
        self._compress = zstandard.ZstdCompressor(level=1).compress

    async def publish(
        self,
        principal: Principal,
        source: str,
        body: Body,
        content_type: str = "",
        content_encoding: str = "",
        *,
        key: str = "",
        trace: str = "",
        timeout_seconds: float | None = None,
    ) -> Published:
        """Store the records of `body`. Raises RefusedError; its details then say what was stored before.

        NDJSON and text may be of any length, everything else must be a frame at most. Under the same `key` what was
        stored in the last two minutes is not stored again. Frames under way when the time is over may be stored or not.
        """
        principal.need("publish")
        if not subject.valid_source(source):
            raise RefusedError(Code.INVALID, f"{source[:80]!r} is no source name: use letters, digits, _ and -")
        if principal.grant.sources and source not in principal.grant.sources:
            raise RefusedError(Code.FORBIDDEN, f"{principal.id} may not publish to {source!r}")
        _check_key(key)
        call = _Call(principal, source, key, trace)
        try:
            async with asyncio.timeout(timeout_seconds):
                try:
                    return await self._stored(call, body, content_type, content_encoding)
                except (FrameError, RefusedError):
                    with contextlib.suppress(BusError, BusUnavailableError):
                        while call.waiting:
                            await self._acknowledged(call)
                    raise
        except TimeoutError as error:
            with contextlib.suppress(BusError, BusUnavailableError):
                while call.waiting and call.waiting[0][0].done():
                    await self._acknowledged(call)
            raise call.failed(Code.TIMEOUT, "the time for this call was over before all was stored") from error
        except RefusedError as error:
            raise call.failed(error.code, error.problem) from error
        except FrameError as error:
            raise call.failed(_CODES.get(error.rule, Code.INVALID), error.problem) from error
        except BusUnavailableError as error:
            raise call.failed(Code.UNAVAILABLE, f"{error}; try again with the same idempotency key") from error
        except BusError as error:
            raise call.failed(Code.INVALID, error.description) from error
        finally:
            for future, _, _ in call.waiting:
                future.cancel()

    async def allow(self, principal: Principal, size: int, key: str = "") -> None:
        """The limits of `publish`, for one record of `size` bytes that goes elsewhere. Raises RefusedError."""
        _check_key(key)
        if 0 < (most := self._gate.most_bytes(principal)) < size:
            raise RefusedError(Code.TOO_LARGE, f"{principal.id} may send bodies of {most} bytes")
        await self._gate.throttle(principal, 1)

    async def _stored(self, call: _Call, body: Body, content_type: str, content_encoding: str) -> Published:
        codec = _BY_LINES.get(content_type.split(";", 1)[0].strip().lower())
        if isinstance(body, bytes) and codec is not None and len(body) > MAX_RECORD_BYTES:
            # As if it came in parts, so that the frames of a repeated body do not depend on the edge.
            return await self._lines(call, _once(body), codec, content_encoding)
        if not isinstance(body, bytes):
            whole, body = await self._begin(body, codec is not None)
            if not whole:
                return await self._lines(call, body, codec or "", content_encoding)
        assert isinstance(body, bytes)
        try:
            return await self._whole(call, body, content_type, content_encoding)
        except FrameError as error:
            if codec is None or error.rule not in ("inflated_size", "record_count"):
                raise
        # Not within the handler: the error holds on to what was inflated.
        return await self._lines(call, _once(body), codec, content_encoding)

    async def _begin(self, body: AsyncIterator[bytes], by_lines: bool) -> tuple[bool, Body]:
        """(True, all of it) if it ends soon, else (False, all of it as it comes)."""
        most = MAX_RECORD_BYTES if by_lines else self._max_frame
        parts: list[bytes] = []
        size = 0
        async for part in body:
            parts.append(part)
            size += len(part)
            if size > most:
                if not by_lines:
                    raise RefusedError(
                        Code.TOO_LARGE, f"a body of this type has at most {most} bytes; send NDJSON for more"
                    )
                return False, _chained(parts, body)
        return True, b"".join(parts)

    async def _whole(self, call: _Call, body: bytes, content_type: str, content_encoding: str) -> Published:
        if len(body) > self._max_frame:
            raise FrameError("inflated_size", f"a frame has at most {self._max_frame} bytes; send NDJSON for more")
        most = self._gate.most_bytes(call.principal)
        room = min(self._max_inflated, most) if most else self._max_inflated
        opened = body, content_type, content_encoding, room
        if len(body) > _INLINE_BYTES:
            # Inflating takes milliseconds of pure C, which leave the loop free in a thread.
            codec, records = await asyncio.to_thread(frame.open_frame, *opened)
        else:
            codec, records = frame.open_frame(*opened)
        check = checking(codec, call.principal.grant.sources)
        reasons = [check(record) for record in records]
        if not any(reasons):
            kind, encoding = content_type.split(";", 1)[0].strip(), content_encoding.strip()
            headers = {frame.CONTENT_TYPE: kind} if kind else {}
            if encoding:
                headers[frame.CONTENT_ENCODING] = encoding
            await self._send(call, body, len(records), headers)
            return await self._done(call)
        for index, reason in enumerate(reasons):
            if reason:
                call.refuse(index, reason)
        kept = [index for index, reason in enumerate(reasons) if not reason]
        for some in cut([records[index] for index in kept], kept):
            await self._send_records(call, codec, some.records)
        return await self._done(call)

    async def _lines(self, call: _Call, body: Body, codec: str, encoding: str) -> Published:
        assert not isinstance(body, bytes)
        inflater, cutter = Inflater(encoding), Cutter()
        check = checking(codec, call.principal.grant.sources)
        most, size, first = self._gate.most_bytes(call.principal), 0, True
        turn = _TURN_BYTES
        async for part in body:
            for piece in inflater.feed(part):
                if first and piece:
                    piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
                size += len(piece)
                if most and size > most:
                    raise FrameError("inflated_size", f"{call.principal.id} may send bodies of {most} bytes")
                for some in cutter.feed(piece):
                    await self._checked(call, codec, some, check)
                if size >= turn:
                    turn = size + _TURN_BYTES
                    await asyncio.sleep(0)
        inflater.end()
        for some in cutter.end():
            await self._checked(call, codec, some, check)
        return await self._done(call)

    async def _checked(self, call: _Call, codec: str, some: Cut, check: Callable[[bytes], str | None]) -> None:
        records = some.records
        reasons = [check(record) for record in records]
        if any(reasons) or some.long:
            bad = [(index, f"the record has more than {MAX_RECORD_BYTES} bytes") for index in some.long]
            bad += [(index, reason) for index, reason in zip(some.indices, reasons, strict=True) if reason]
            for index, reason in sorted(bad):
                call.refuse(index, reason)
            records = [record for record, reason in zip(records, reasons, strict=True) if not reason]
        if records:
            await self._send_records(call, codec, records)

    async def _send_records(self, call: _Call, codec: str, records: list[bytes]) -> None:
        match codec:
            case "msgpack":
                # An array of up to 65,535: 0xdc, its length in two bytes, its items.
                payload, kind = b"\xdc" + len(records).to_bytes(2, "big") + b"".join(records), frame.MSGPACK
            case "text":
                payload, kind = b"\n".join(records), frame.TEXT
            case _:
                # JSON may hold line breaks outside of strings, never inside.
                payload, kind = b"\n".join(record.replace(b"\n", b" ") for record in records), frame.NDJSON
        headers = {frame.CONTENT_TYPE: kind}
        if len(payload) > 1024:
            payload = self._compress(payload)
            headers[frame.CONTENT_ENCODING] = "zstd"
        await self._send(call, payload, len(records), headers)

    async def _send(self, call: _Call, payload: bytes, count: int, headers: dict[str, str]) -> None:
        await self._gate.throttle(call.principal, count)
        headers[frame.COUNT] = str(count)
        if call.principal.tenant:
            headers[frame.TENANT] = call.principal.tenant
        if call.trace:
            headers[frame.TRACEPARENT] = call.trace
        if call.key:
            headers["Nats-Msg-Id"] = f"edge-{call.key}-{call.frames}"
            partition = (int(call.key[:8], 16) + call.frames) % self._partitions
        else:
            partition = next(self._turn) % self._partitions
        call.frames += 1
        bus = self._bus()
        if bus is None or not bus.connected:
            raise BusUnavailableError("there is no connection to NATS")
        while len(call.waiting) >= _IN_FLIGHT:
            await self._acknowledged(call)
        future = await bus.submit(Outgoing(subject.ingest(call.source, partition), payload, headers))
        call.waiting.append((future, partition, count))

    async def _acknowledged(self, call: _Call) -> None:
        bus = self._bus()
        if bus is None:
            raise BusUnavailableError("there is no connection to NATS")
        future, partition, count = call.waiting.popleft()
        ack = await bus.acknowledged(future)
        call.answer.positions.append(f"{ack.stream}/{partition}/{ack.seq}")
        call.answer.records += count
        call.answer.duplicates += ack.duplicate

    async def _done(self, call: _Call) -> Published:
        while call.waiting:
            await self._acknowledged(call)
        answer = call.answer
        if not answer.records:
            if not answer.refused:
                raise FrameError("empty", "the body is empty")
            one = answer.refused[0]
            problem = one.reason if answer.refused_count == 1 else f"none of the records can be taken: {one.reason}"
            raise call.failed(Code.INVALID, problem)
        return answer


def _check_key(key: str) -> None:
    if len(key) > 200 or not key.isascii() or not (key.isprintable() or not key):
        raise RefusedError(Code.INVALID, "an idempotency key has at most 200 printable ASCII characters")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _chained(parts: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while parts:
        yield parts.pop(0)
    async for part in rest:
        yield part
