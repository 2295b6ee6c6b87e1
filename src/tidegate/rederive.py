"""Deriving a kind of entity anew from the events: a generation beside the one that serves, compared, and swapped in.

Invariant: what serves changes only by one fenced fact in the log; until then commands and live events go to the
generation that serves, and what is derived is news to nobody (`actor.generations`).

Unlike a read model, a new generation need not be equal to the old one: after a change of rules it shall not be. So the
two are compared as of the same place in the events, and the differences told; what must be equal is what the log holds
of the new one and what was derived.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any

import anyio
import msgspec

from tidegate import history, subject
from tidegate.actor.entity import Entity
from tidegate.actor.generations import GenerationWork
from tidegate.actor.host import EntityProgress
from tidegate.actor.snapshots import BUCKET
from tidegate.bus import Bus
from tidegate.errors import RebuildError
from tidegate.history import Archive
from tidegate.log import Log
from tidegate.projection import Tally
from tidegate.rebuild import Progressed, begin, garbage, refuse_without_history, swap
from tidegate.rebuild import rollback as go_back

__all__ = ["Rederivation", "Rederived", "collect", "rollback"]

_PASSES = 3
"""Each takes in what arrived during the one before."""
_MOST_NAMED = 10


class Rederived(msgspec.Struct, frozen=True, kw_only=True):
    """A finished rebuild of a kind of entity."""

    tier: str
    generation: int
    previous: int
    events: int
    """Read in all."""
    applied: int
    """By this attempt."""
    resumed: bool
    fill_seconds: float
    compare_seconds: float
    before: Tally
    """Entities of the generation that served, and the sum, modulo 2^64, of the CRC-32 of their ids and states."""
    after: Tally
    """The same of the new one."""
    differing: int
    """Ids that are known to one only, or have another state."""
    first_differing: list[str]
    """At most ten for each shard, in order."""

    @property
    def rate(self) -> float:
        return self.applied / self.fill_seconds if self.fill_seconds else 0.0

    @property
    def compared(self) -> str:
        """What the comparison came to, for people."""
        first = f", the first {', '.join(self.first_differing[:_MOST_NAMED])}" if self.differing else ""
        return (
            f"make {self.after.count:,} entities (digest {self.after.digest:016x}), where there were"
            f" {self.before.count:,} (digest {self.before.digest:016x}): {self.differing:,} differ{first}"
        )


class Rederivation:
    """Derives all entities of a kind anew."""

    def __init__(self, bus: Bus, log: Log, entity: Entity[Any, Any, Any], *, archive: Archive | None = None) -> None:
        self._bus = bus
        self._log = log
        self._entity = entity
        self._archive = archive
        self.progress = Progressed()

    async def run(self, *, restart: bool = False) -> Rederived:
        """Raises PositionError where history is missing, RebuildError when the log does not hold what was derived."""
        log, kind = self._log, self._entity.kind
        self.progress.total = await refuse_without_history(log, self._archive)
        await _refuse_in_transition(log, kind)
        number, resumed, stale = await begin(log, kind, restart=restart)
        if stale is not None:
            await _drop(self._bus, log, kind, stale)
        active = (await log.generation(kind))[1].active
        works = [GenerationWork(self._bus, log, self._entity, shard, number) for shard in range(log.shards)]
        began = time.monotonic()
        for work in works:
            await work.load()
        await self._count_resumed(works)
        for _ in range(_PASSES):
            before = self.progress.events
            async with anyio.create_task_group() as group:
                for shard, work in enumerate(works):
                    group.start_soon(self._catch_up, work, shard, active)
            if self.progress.events - before < work.limit:
                break
        filled = time.monotonic()
        self.progress.phase = "compare"
        compared = [await self._compare(work, shard, active) for shard, work in enumerate(works)]
        previous = await swap(log, kind, number)
        return Rederived(
            tier=f"{kind}s",
            generation=number,
            previous=previous,
            events=self.progress.events,
            applied=self.progress.events - self.progress.resumed,
            resumed=resumed,
            fill_seconds=filled - began,
            compare_seconds=time.monotonic() - filled,
            before=_sum([before for before, _, _ in compared]),
            after=_sum([after for _, after, _ in compared]),
            differing=sum(len(ids) for _, _, ids in compared),
            first_differing=[one for _, _, ids in compared for one in ids[:_MOST_NAMED]],
        )

    async def _count_resumed(self, works: list[GenerationWork]) -> None:
        done = [work.progress[1].positions[subject.LOG] for work in works]
        entries = await history.ledger(self._log, "all", 1, max(done), self._archive) if any(done) else []
        self.progress.resumed = sum(one.count for one in entries if one.sequence <= done[one.shard])
        self.progress.events = self.progress.resumed

    async def _catch_up(self, work: GenerationWork, shard: int, active: int) -> None:
        source = subject.generation_of(self._entity.kind, active)
        sequence, target = await self._log.newest(source, shard, EntityProgress)
        if target is not None:
            await work.derive(source, sequence, target, self._archive, self._taken)

    def _taken(self, events: int) -> None:
        self.progress.events += events

    async def _compare(self, work: GenerationWork, shard: int, active: int) -> tuple[Tally, Tally, list[str]]:
        """Both as of the same place, and the ids in which they differ, in order."""
        serving = GenerationWork(self._bus, self._log, self._entity, shard, active)
        await serving.load()
        sequence, target = serving.progress
        if sequence:
            await work.derive(serving.name, sequence, target, self._archive, self._taken)
        await work.aclose()
        again = GenerationWork(self._bus, self._log, self._entity, shard, work.generation)
        await again.load()
        old, new = dict(serving.items()), dict(work.items())
        if new != dict(again.items()):
            raise RebuildError(
                f"{self._entity.kind}.{shard}: what the log holds of the new generation is not what was derived, so it"
                " was not swapped in. Begin anew with `--restart`."
            )
        differing = sorted(one for one in old.keys() | new.keys() if old.get(one) != new.get(one))
        return _tally(old), _tally(new), differing


def _tally(states: Mapping[str, Any]) -> Tally:
    digest = 0
    for one in states.items():
        sorted_one = msgspec.to_builtins(one, str_keys=True, order="sorted")
        digest += zlib.crc32(msgspec.json.encode(sorted_one))
    return Tally(count=len(states), digest=digest % 2**64)


def _sum(parts: list[Tally]) -> Tally:
    return Tally(count=sum(one.count for one in parts), digest=sum(one.digest for one in parts) % 2**64)


async def _refuse_in_transition(log: Log, kind: str) -> None:
    """Raises RebuildError while a shard has not been taken over by the generation that shall serve."""
    _, fact = await log.generation(kind)
    name = subject.generation_of(kind, fact.active)
    for shard in range(log.shards):
        _, progress = await log.newest(name, shard, EntityProgress)
        if progress is not None and not progress.serves:
            raise RebuildError(
                f"{kind}: generation {fact.active} is to serve, but shard {shard} has not been taken over by it yet;"
                " start the process `entities`, wait until its cells are running, and try again"
            )


async def rollback(log: Log, kind: str) -> int:
    """Let the previous generation serve again; returns its number. The process `entities` lets it catch up first."""
    await _refuse_in_transition(log, kind)
    return (await go_back(log, kind)).active


async def collect(bus: Bus, log: Log, kind: str) -> list[int]:
    """Drop all generations but the active, the previous and the one being built; returns which."""
    _, fact = await log.generation(kind)
    there = []
    for generation in range(1, fact.next):
        records = subject.cell(subject.generation_of(kind, generation), "*")
        if await bus.last_message(subject.LOG, records) is not None:
            there.append(generation)
    old = await garbage(log, kind, there)
    for generation in old:
        await _drop(bus, log, kind, generation)
    return old


async def _drop(bus: Bus, log: Log, kind: str, generation: int) -> None:
    """Changes first and progress records last, so that a drop that was cut short is seen and can be repeated."""
    name = subject.generation_of(kind, generation)
    for shard in range(log.shards):
        await bus.delete_object(BUCKET, f"{name}.{shard}")
        await log.forget_consumer(subject.consumer(name, shard), subject.COMMAND)
    await log.forget(subject.entity(name, "*"))
    await log.forget(subject.cell(name, "*"))
