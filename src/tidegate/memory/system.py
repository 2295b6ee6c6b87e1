"""Entities on a MemoryBus: what their cells read from, and a system that hosts them.

Invariant: of those that read under one name, one at a time owns it, as with the consumers that NATS pins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.actor.entity import Entity
from tidegate.actor.host import EntityWork
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.pulling import Delivered, OwnershipLostError
from tidegate.actor.system import System
from tidegate.errors import TidegateError
from tidegate.log import Log
from tidegate.memory.bus import MemoryBus, matches

__all__ = ["MemoryInput", "memory_log", "memory_system"]


class MemoryInput:
    """One stream of a MemoryBus, read from a position on; of those with one name, one at a time owns it."""

    def __init__(self, bus: MemoryBus, stream: str, name: str, filter_subjects: Sequence[str]) -> None:
        self._bus = bus
        self.stream = stream
        self._name = name
        self._filters = filter_subjects
        self.wake = asyncio.Event()
        self.trouble: TidegateError | None = None
        self._buffer: deque[Delivered] = deque()
        self._seen = 0
        self._number = 0

    async def ensure(self) -> None:
        """Nothing has to be made."""

    async def acquire(self, position: Callable[[], Awaitable[int]]) -> None:
        """Wait until this one owns it."""
        owners = self._bus._stream(self.stream).owners
        while owners.setdefault(self._name, self) is not self:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def pause(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    async def reset(self, after: int) -> None:
        """Read from the first message after sequence `after`. Raises OwnershipLostError for who does not own it."""
        self._stop()
        if self._bus._stream(self.stream).owners.setdefault(self._name, self) is not self:
            raise OwnershipLostError(f"{self._name}: another one owns it now")
        self._buffer.clear()
        self._seen, self._number, self.trouble = after, 0, None
        self._bus.listeners.append(self._look)
        self._look()

    def _look(self) -> None:
        one = self._bus._stream(self.stream)
        for sequence in range(self._seen + 1, one.last + 1):
            stored = one.messages.get(sequence)
            if stored is not None and any(matches(each, stored.subject) for each in self._filters):
                self._number += 1
                place = (self.stream, stored.subject, sequence, stored.time_ms, self._number, 0)
                self._buffer.append(Delivered(*place, stored.payload, stored.headers))
        self._seen = max(self._seen, one.last)
        if self._buffer:
            self.wake.set()

    def pop(self) -> Delivered | None:
        """The next message, if one is there."""
        return self._buffer.popleft()._replace(pending=len(self._buffer)) if self._buffer else None

    async def ack(self, last: Delivered) -> None:
        """There is nobody to tell."""

    async def release(self) -> None:
        """Stop reading, and let another one own it."""
        self._stop()
        owners = self._bus._stream(self.stream).owners
        if owners.get(self._name) is self:
            del owners[self._name]

    def _stop(self) -> None:
        with contextlib.suppress(ValueError):
            self._bus.listeners.remove(self._look)


def memory_log(bus: MemoryBus, shards: int = 4) -> Log:
    """The log on a MemoryBus."""
    return Log(bus, shards, MemoryBus.read)


@contextlib.asynccontextmanager
async def memory_system(
    *entities: Entity[Any, Any, Any], shards: int = 4, bus: MemoryBus | None = None
) -> AsyncIterator[System]:
    """A system that hosts these kinds of entities until the block ends; with the same `bus` it goes on afterwards."""
    bus = bus or MemoryBus()
    log = memory_log(bus, shards)
    async with contextlib.AsyncExitStack() as stack:
        for entity in entities:
            for shard in range(shards):
                name = f"{entity.kind}.{shard}"
                inputs = [MemoryInput(bus, subject.COMMAND, name, [subject.command(entity.kind, shard)])]
                if followed := subject.followed(entity.follows, "*" if entity.all_shards else shard):
                    inputs.append(MemoryInput(bus, subject.LOG, name, followed))
                cell = Cell(name, EntityWork(bus, log, entity, shard), Mailbox(*inputs))
                stack.push_async_callback(_end, asyncio.create_task(cell.run()))
        yield System(bus, log)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
