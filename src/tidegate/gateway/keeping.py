"""The cell that works off what entities of a kind ask for: one task for each that is not settled.

Invariant: the names of all that are not settled are in the cell's newest progress record or in the log after its
position, so whoever owns the cell next goes on with them. What a task does outside happens at least once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tidegate import subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.entity import Codec, Entity
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Stored
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError, RefusedError
from tidegate.log import Log, check_position, lines_of

__all__ = ["KeeperProgress", "KeeperWork", "Kept"]

_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 5.0


class KeeperProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a keeper has read the changes of its kind and shard, and what is open there."""

    created: str
    """Creation time of the log."""
    sequence: int
    open: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    """Settled and still known to their cell, oldest first."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A kind, as far as its keeper needs to know it."""

    entity: Entity[Any, Any, Any]
    begins: type[Any]
    """The event with which something is to be done."""
    interrupts: type[Any]
    """The event after which the task is to look anew at what is to be done."""
    forgotten: type[Any]
    run: Callable[[str], Awaitable[None]]
    """Does all that is to be done for the entity; returns when it is settled. It may be cancelled, and called again."""
    forget: Callable[[str], Awaitable[None]]
    """Have the entity forgotten."""
    keep_ended: int


class KeeperWork(Work):
    """The keeper of one kind in one shard."""

    limit = 100
    """Frames in a batch."""
    idle_seconds = 0.25
    """After a restart, what was open is taken up this much later, when nothing else comes."""

    def __init__(self, log: Log, shard: int, kept: Kept) -> None:
        self._log = log
        self._shard = shard
        self._kept = kept
        self.name = f"gateway-{kept.entity.kind}"
        self._codec = Codec(kept.entity)
        self._expected = 0
        self._progress = KeeperProgress(created="", sequence=0)
        self._open: dict[str, None] = {}
        self._ended: dict[str, None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def open(self) -> int:
        """How many are not settled."""
        return len(self._open)

    def knows(self, name: str) -> bool:
        """Whether it is taken in."""
        return name in self._open or name in self._ended

    def weigh(self, message: Delivered) -> int:
        return 1

    async def recover(self) -> Positions:
        """One frame before where it was: the server pins nobody where there is nothing to deliver, and taking in a
        frame twice changes nothing. Raises PositionError when the log is another one."""
        self._expected, found = await self._log.newest(self.name, self._shard, KeeperProgress)
        state = await self._log.state()
        if found is None:
            found = KeeperProgress(created=state.created, sequence=0)
        else:
            check_position(state, found.created, found.sequence)
        self._progress = found
        self._open, self._ended = dict.fromkeys(found.open), dict.fromkeys(found.ended)
        return {subject.LOG: max(0, found.sequence - 1)}

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """What has happened to whom; what it means is decided in `evolve`, which is never a step ahead."""
        happened = []
        for message in batch:
            stored = Stored(message.subject, message.sequence, message.time_ms, message.payload, message.headers)
            happened += [self._codec.change(line) for line in lines_of(stored)]
        yield Step(batch, happened, time.monotonic())

    async def commit(self, step: Step) -> None:
        """The position, and who is open as of it."""
        kept = self._kept
        for change in step.decided:
            for event in change.events:
                if isinstance(event, kept.begins) and change.id not in self._ended:
                    self._open[change.id] = None
                elif isinstance(event, kept.forgotten):
                    self._ended.pop(change.id, None)
                    self._open.pop(change.id, None)
        sequence = step.batch[-1].sequence if step.batch else self._progress.sequence
        after = KeeperProgress(
            created=self._progress.created, sequence=sequence, open=tuple(self._open), ended=tuple(self._ended)
        )
        if after != self._progress:
            self._expected = await self._log.append(self.name, self._shard, [], after, self._expected)
            self._progress = after

    async def evolve(self, step: Step) -> None:
        """Tasks for all that are open; those that have too many behind them are forgotten."""
        for change in step.decided:
            if any(isinstance(event, self._kept.interrupts) for event in change.events):
                await self._stop(change.id)
        for name in self._open:
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._keep(name), name=f"{self.name} {name}")
        for name in list(self._ended)[: max(0, len(self._ended) - self._kept.keep_ended)]:
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._forget(name), name=f"{self.name} {name}")

    async def let_go(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, name: str) -> None:
        await self._insist(self._kept.run, name)
        self._open.pop(name, None)
        self._ended[name] = None
        self._tasks.pop(name, None)

    async def _forget(self, name: str) -> None:
        await self._insist(self._kept.forget, name)
        self._ended.pop(name, None)
        self._tasks.pop(name, None)

    async def _insist(self, do: Callable[[str], Awaitable[None]], name: str) -> None:
        """Until it returns: what it raises is either a server that is away, or a state that has changed meanwhile."""
        wait = _PAUSE_SECONDS
        while True:
            try:
                await do(name)
            except (BusError, BusUnavailableError, CommandRefusedError, RefusedError):
                pass
            except Exception as error:  # noqa: BLE001 - a bug met with one of them must not stop the others
                problem = f"{type(error).__name__}: {error}"
                telemetry.emit(telemetry.EffectFailed(cell=f"{self.name}.{self._shard}", id=name, error=problem))
            else:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _MOST_PAUSE_SECONDS)
