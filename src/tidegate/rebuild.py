"""Rebuilding a read model: a shadow generation, filled from the log, compared, and swapped in.

Invariant: what serves changes only by one fenced fact in the log, after the shadow was found equal to the log; until
then the serving generation and the side effects of live events are untouched, for a rebuild only ever calls `apply`.

Each batch moves the shadow's own position, so a rebuild that was killed is carried on by the next one; of two at the
same time, the tier's fence ends one.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from tidegate import history, subject
from tidegate.errors import PositionError, RebuildError
from tidegate.history import Archive
from tidegate.log import Log
from tidegate.projection import Generation, Position, Rebuildable, Recorded
from tidegate.verify import compare

__all__ = [
    "Outcome",
    "Progressed",
    "Rebuild",
    "begin",
    "collect",
    "garbage",
    "refuse_without_history",
    "rollback",
    "swap",
]

Make = Callable[[int], Rebuildable]
"""The read model of a generation, not yet open."""


_MOST_PASSES = 4
"""Each pass takes in what arrived during the one before. Where the passes do not get shorter, more are in vain."""


class Progressed(msgspec.Struct, kw_only=True):
    """How far a rebuild is."""

    events: int = 0
    """In the shadow, those of an earlier attempt included."""
    resumed: int = 0
    """Those of an earlier attempt."""
    total: int = 0
    """As of when it began; more arrive meanwhile."""
    phase: str = "fill"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A finished rebuild."""

    tier: str
    generation: int
    previous: int
    events: int
    """Compared and equal."""
    applied: int
    """By this attempt."""
    resumed: bool
    fill_seconds: float
    compare_seconds: float

    @property
    def rate(self) -> float:
        return self.applied / self.fill_seconds if self.fill_seconds else 0.0

    @property
    def compared(self) -> str:
        """What the comparison came to, for people."""
        return "compared with the log, all equal"


class Rebuild:
    """Rebuilds `tier`. `limit` is how many events a batch takes."""

    def __init__(self, log: Log, tier: str, make: Make, *, limit: int, archive: Archive | None = None) -> None:
        self._log = log
        self._tier = tier
        self._make = make
        self._limit = limit
        self._archive = archive
        self.progress = Progressed()

    async def run(self, *, restart: bool = False) -> Outcome:
        """Raises PositionError where history is missing, RebuildError when the shadow is not equal to the log."""
        self.progress.total = await refuse_without_history(self._log, self._archive)
        number, resumed, stale = await begin(self._log, self._tier, restart=restart)
        if stale is not None:
            await _dropped(self._make(stale))
        model = self._make(number)
        try:
            await model.open()
            began = time.monotonic()
            await self._fill(model, _MOST_PASSES)
            filled = time.monotonic()
            self.progress.phase = "compare"
            events = await self._compare(model)
            compared = time.monotonic()
            # The storage-manager goes on from here; what arrived during the comparison shall not be all its to do.
            await self._fill(model, 1)
            previous = await swap(self._log, self._tier, number)
        finally:
            await model.aclose()
        return Outcome(
            tier=self._tier,
            generation=number,
            previous=previous,
            events=events,
            applied=self.progress.events - self.progress.resumed,
            resumed=resumed,
            fill_seconds=filled - began,
            compare_seconds=compared - filled,
        )

    async def _fill(self, model: Rebuildable, passes: int) -> None:
        """Until less than a batch arrives during a pass, or no fewer than half as many as during the one before.

        The log never stands still, so this ends without having caught up: the storage-manager takes in what is left.
        """
        first = self.progress.events == 0
        most = math.inf
        for _ in range(passes):
            last = (await self._log.state()).last_sequence
            before = self.progress.events - self.progress.resumed
            async with anyio.create_task_group() as group:
                for cell in history.cells_of(model, self._log.shards):
                    group.start_soon(self._fill_cell, model, cell, last, first)
            taken_in = self.progress.events - self.progress.resumed - before
            if taken_in < self._limit or taken_in > most:
                return
            first, most = False, taken_in / 2

    async def _fill_cell(self, model: Rebuildable, cell: str, last: int, first: bool) -> None:
        """Read, project and apply side by side, each at most one batch ahead of the next."""
        stored = await model.position(cell)
        state = await self._log.check(stored)
        if stored is not None and first:
            self.progress.events += stored.count
            self.progress.resumed += stored.count
        raw_in, raw_out = anyio.create_memory_object_stream[list[Recorded]](1)
        done_in, done_out = anyio.create_memory_object_stream[tuple[list[Recorded], Any]](1)
        start = stored.sequence + 1 if stored else 1
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, cell, start, last, raw_in)
            group.start_soon(_project, model, raw_out, done_in)
            async with done_out:
                async for batch, writes in done_out:
                    before = stored or Position(stream=subject.LOG, created=state.created, sequence=0)
                    after = before.after(batch)
                    await model.apply(cell, writes, stored, after)
                    stored = after
                    self.progress.events += after.count - before.count

    async def _read(self, cell: str, first: int, last: int, to: MemoryObjectSendStream[list[Recorded]]) -> None:
        async with to, contextlib.aclosing(history.frames(self._log, cell, first, last, self._archive)) as frames:
            batch: list[Recorded] = []
            weight = 0
            async for one in frames:
                batch.append(one)
                weight += one.count
                if weight >= self._limit:
                    await to.send(batch)
                    batch, weight = [], 0
            if batch:
                await to.send(batch)

    async def _compare(self, model: Rebuildable) -> int:
        # Not deep: what leads to the events was written with them, by the same code, a moment ago.
        compared = await compare(self._log, model, archive=self._archive, ids=3, deep=False)
        if not (differences := compared.differences):
            return compared.events
        raise RebuildError(
            f"{self._tier}: the rebuilt generation is not equal to the log, so it was not swapped in."
            f" {len(differences)} frames differ: {'; '.join(one.text() for one in differences[:3])}."
            f" Begin anew with `tidegate rebuild {self._tier} --restart`."
        )


async def refuse_without_history(log: Log, archive: Archive | None) -> int:
    """How many events there are; raises PositionError unless all that ever were can still be read."""
    shards = [str(shard) for shard in range(log.shards)]
    positions: dict[str, Position | None] = dict.fromkeys(shards)
    created = (await log.state()).created
    if archive is not None:
        positions = {shard: await archive.position(shard) for shard in shards}
        if any(one is not None and one.created != created for one in positions.values()):
            raise PositionError(
                "the cold archive is of another stream LOG than the one there now; point at the right server"
            )
    within_reach, ever = await history.complete(log, positions)
    if within_reach < ever:
        where = "the log nor in the cold archive" if archive is not None else "the log"
        advice = (
            "Let the storage-manager catch cold up, or restore the archive, and try again."
            if archive is not None
            else "Use `--from-archive` to take them from the cold archive."
        )
        raise PositionError(
            f"{ever - within_reach} of {ever} events are {'neither in' if archive else 'no longer in'}"
            f" {where}, which was trimmed. {advice}"
        )
    return within_reach


async def begin(log: Log, name: str, *, restart: bool) -> tuple[int, bool, int | None]:
    """The generation to fill, whether it was begun before, and with `restart` the one to drop."""
    expected, state = await log.generation(name)
    if state.building is not None and not restart:
        return state.building, True, None
    new = msgspec.structs.replace(state, building=state.next, next=state.next + 1)
    await log.set_generation(name, _signed(new, "rebuild begun"), expected)
    return state.next, False, state.building


async def swap(log: Log, name: str, number: int) -> int:
    """Let the generation that was filled serve; returns which one did. Raises RebuildError or FencedError."""
    expected, state = await log.generation(name)
    if state.building != number:
        raise RebuildError(f"{name}: another command has begun another rebuild; this one was not swapped in")
    new = msgspec.structs.replace(state, active=number, previous=state.active, building=None)
    await log.set_generation(name, _signed(new, "rebuild swapped in"), expected)
    return state.active


async def _project(
    model: Rebuildable,
    source: MemoryObjectReceiveStream[list[Recorded]],
    to: MemoryObjectSendStream[tuple[list[Recorded], Any]],
) -> None:
    async with to, source:
        async for batch in source:
            await to.send((batch, await anyio.to_thread.run_sync(model.project, batch)))


async def rollback(log: Log, tier: str) -> Generation:
    """Let the previous generation serve again; the storage-manager catches it up. Raises RebuildError without one."""
    expected, state = await log.generation(tier)
    if state.previous is None:
        raise RebuildError(f"{tier}: there is no previous generation to go back to; {state.active} serves")
    new = _signed(msgspec.structs.replace(state, active=state.previous, previous=state.active), "rolled back")
    await log.set_generation(tier, new, expected)
    return new


async def collect(log: Log, tier: str, make: Make) -> list[int]:
    """Drop all generations but the active, the previous and the one being built, consumers included; returns which."""
    _, state = await log.generation(tier)
    async with _open(make(state.active)) as model:
        there = await model.generations()
    old = await garbage(log, tier, there)
    for one in old:
        model = make(one)
        # The server keeps a durable consumer for ever, wanted or not.
        for cell in history.cells_of(model, log.shards):
            await log.forget_consumer(history.consumer_of(tier, cell, one))
        await _dropped(model)
    return old


async def garbage(log: Log, name: str, there: Iterable[int]) -> list[int]:
    """Of the generations that are there, those that may be dropped."""
    expected, state = await log.generation(name)
    kept = {state.active, state.previous, state.building}
    # Those from `next` on cannot be: a number is taken before its generation is made.
    old = [one for one in there if one not in kept and one < state.next]
    if old:
        # From here on a change by another command, which might make one of them serve, is refused or seen.
        await log.set_generation(name, _signed(state, f"dropping {', '.join(map(str, old))}"), expected)
    return old


async def _dropped(model: Rebuildable) -> None:
    try:
        await model.drop()
    finally:
        await model.aclose()


@contextlib.asynccontextmanager
async def _open(model: Rebuildable) -> AsyncIterator[Rebuildable]:
    try:
        await model.open()
        yield model
    finally:
        await model.aclose()


def _signed(state: Generation, what: str) -> Generation:
    return msgspec.structs.replace(
        state, time_ms=time.time_ns() // 1_000_000, by=f"{getpass.getuser()}@{os.uname().nodename}", what=what
    )
