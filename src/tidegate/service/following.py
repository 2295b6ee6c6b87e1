"""Following the log for edges: events as they are logged, with a bounded buffer and, if asked for, acknowledgements.

Invariant: events come in the order of the log, each once, and none that the principal may not see. What a slow reader
does not get in mode `skip` is counted, and the count is told in its place; in mode `hold` nothing is left out.

Delivery is at least once over connections: whoever comes back names the last position that they have dealt with.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from tidegate import frame, subject
from tidegate.actor.pulling import PullConsumer
from tidegate.auth import Principal
from tidegate.bus import Bus
from tidegate.entities.selection import EventFilter, EventType, selecting
from tidegate.errors import BusError, BusUnavailableError, Code, ConfigError, RefusedError
from tidegate.log import Log

__all__ = ["Batch", "Feed", "Item", "Slow", "Start", "check_reader", "following"]

Slow = Literal["hold", "skip"]
Start = Literal["now", "start"] | datetime.datetime | str
"""A time is that of logging; any other text is a position, `LOG/<sequence>` or `<sequence>-<index>`: behind it."""

_POSITION = re.compile(r"(?:LOG/)?(\d{1,18})(?:[-#](\d{1,9}))?", re.ASCII)
_NOTHING = (0, -1)
_PAUSE_SECONDS = 0.5
_AHEAD_BYTES = 2 * 1024 * 1024
"""Of frames that are at hand before they are needed; there may be very many readers."""


class Item(NamedTuple):
    """One event."""

    position: str
    """`<sequence>-<index>` in the stream LOG: what to acknowledge, and to begin behind another time."""
    line: bytes
    """An OCSF event as JSON, without a line break."""


class Batch(Struct, frozen=True):
    """What was there when it was asked for."""

    items: list[Item]
    left_out: int = 0
    """Events that would have come before these, had the reader been quicker."""


class _Consumer(PullConsumer):
    """One that begins at a time, the first time that it is placed.

    A reader may stand still for as long as it likes, and nothing may pile up meanwhile. The server then forgets the
    consumer, and the feed places it anew behind what it has.
    """

    heard_when_full = False
    since: datetime.datetime | None = None

    def _where(self, after: int) -> dict[str, Any]:
        if self.since is not None and not after:
            return {"deliver_policy": "by_start_time", "opt_start_time": self.since.isoformat()}
        return super()._where(after)


class Feed:
    """Events for one reader. Made by `following`."""

    def __init__(
        self, consumer: _Consumer, principal: Principal, wanted: Any, most: int, slow: Slow, acks: bool
    ) -> None:
        self._consumer = consumer
        self._principal = principal
        self._wanted = wanted
        self._most = most
        self._slow = slow
        self._acks = acks
        self._buffer: deque[Item] = deque()
        self._left_out = 0
        self._unacked: deque[str] = deque()
        self._changed = asyncio.Condition()

    async def next(self, most: int = 500, timeout_seconds: float | None = None) -> Batch:
        """The next events, at least one; none where none has come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(lambda: self._buffer and not self._held())
        if self._held():
            return Batch([])
        room = self._most - len(self._unacked) if self._acks else most
        items = [self._buffer.popleft() for _ in range(min(most, room, len(self._buffer)))]
        left_out, self._left_out = (self._left_out, 0) if items else (0, self._left_out)
        if self._acks:
            self._unacked += [item.position for item in items]
        async with self._changed:
            self._changed.notify_all()
        return Batch(items, left_out)

    def _held(self) -> bool:
        """Whether too much is unacknowledged for more to be given out."""
        return self._acks and len(self._unacked) >= self._most

    async def ack(self, position: str) -> None:
        """All events up to this one are dealt with. Raises RefusedError for one that was not given out."""
        if position not in self._unacked:
            raise RefusedError(Code.INVALID, f"{position[:60]!r} is no position that waits for an acknowledgement")
        async with self._changed:
            while self._unacked.popleft() != position:
                pass
            self._changed.notify_all()

    async def run(self, after: int, begun: tuple[int, int]) -> None:
        """Until cancelled: takes from the log, behind sequence `after`, as far as there is room.

        `begun`: a frame that was dealt with before, and the last place in it that was.
        """
        while True:
            try:
                await self._consumer.reset(after)
                while True:
                    await self._consumer.wake.wait()
                    self._consumer.wake.clear()
                    while (message := self._consumer.pop()) is not None:
                        index = begun[1] if message.sequence == begun[0] else -1
                        await self._put(self._chosen(message.sequence, _lines(message.payload), index))
                        after = message.sequence
                    if self._consumer.trouble is not None:
                        break
            except (BusError, BusUnavailableError):
                pass
            await asyncio.sleep(_PAUSE_SECONDS)

    def _chosen(self, sequence: int, lines: Sequence[bytes], index: int) -> list[Item]:
        sees = self._principal.sees if self._principal.limited else None
        return [
            Item(f"{sequence}-{place}", lines[place])
            for place in self._wanted(lines)
            if place > index and (sees is None or sees(lines[place]))
        ]

    async def _put(self, items: list[Item]) -> None:
        for start in range(0, len(items), 100):
            some = items[start : start + 100]
            async with self._changed:
                if self._slow == "hold":
                    await self._changed.wait_for(lambda: len(self._buffer) < self._most)
                self._buffer += some
                while self._slow == "skip" and len(self._buffer) > self._most:
                    self._buffer.popleft()
                    self._left_out += 1
                self._changed.notify_all()
            await asyncio.sleep(0)


def _lines(payload: bytes) -> list[bytes]:
    return frame.inflate(payload, "zstd", 2**31).split(b"\n")[:-1]


def check_reader(principal: Principal, most: int, slow: str) -> None:
    """Raises RefusedError for who may not subscribe, or not like this."""
    principal.need("subscribe")
    if not 1 <= most <= 100_000:
        raise RefusedError(Code.INVALID, f"the buffer holds from 1 to 100000 events, not {most}")
    if slow not in ("hold", "skip"):
        raise RefusedError(Code.INVALID, "a slow reader is held back (hold) or passed over (skip)")


@contextlib.asynccontextmanager
async def following(
    bus: Bus,
    log: Log,
    principal: Principal,
    *,
    start: Start = "now",
    types: Sequence[EventType] = (),
    where: EventFilter = EventFilter(),  # noqa: B008 - frozen
    most: int = 1000,
    slow: Slow = "hold",
    acks: bool = False,
) -> AsyncIterator[Feed]:
    """Events until the block ends. At most about `most` are held for the reader, or wait for its acknowledgement.

    Raises RefusedError for a filter or a start that makes no sense.
    """
    check_reader(principal, most, slow)
    try:
        wanted = selecting(tuple(types), where)
    except ConfigError as error:
        raise RefusedError(Code.INVALID, error.problem) from error
    consumer = _Consumer(bus, subject.LOG, "feed", [subject.event("*")], buffer_messages=32, buffer_bytes=_AHEAD_BYTES)
    after, begun = await _begin(log, consumer, start)
    feed = Feed(consumer, principal, wanted, most, slow, acks)
    task = asyncio.create_task(feed.run(after, begun), name=f"feed of {principal.id}")
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.release()


async def _begin(log: Log, consumer: _Consumer, start: Start) -> tuple[int, tuple[int, int]]:
    """The sequence behind which to begin, and what of the frame behind it was dealt with."""
    if start == "start":
        return 0, _NOTHING
    if isinstance(start, datetime.datetime):
        if start.tzinfo is None:
            raise RefusedError(Code.INVALID, f"the time {start} has no time zone")
        consumer.since = start
        return 0, _NOTHING
    end = (await log.state()).last_sequence
    if start == "now":
        return end, _NOTHING
    match = _POSITION.fullmatch(start)
    if match is None:
        raise RefusedError(Code.INVALID, f"{start[:60]!r} is no place to begin: now, start, a time, or a position")
    sequence = int(match[1])
    if sequence > end:
        raise RefusedError(Code.INVALID, f"the log ends at {end}, before {start!r}")
    if match[2] is None:
        return sequence, _NOTHING
    return max(0, sequence - 1), (sequence, int(match[2]))
