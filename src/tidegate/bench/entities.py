"""Entities: correlations from a full log, asks under load, and recovery from the log and from snapshots.

Invariant: a run counts only if the entities have counted every correlated event, each once.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence

import msgspec

from tidegate import subject
from tidegate.actor.cell import Cell, running
from tidegate.actor.entity import Change, Context
from tidegate.actor.host import EntityProgress, EntityWork
from tidegate.actor.system import System
from tidegate.app import declarations, entity_inputs
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bench.tiers import fill
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.entities.correlation import Close, Correlations
from tidegate.errors import BalanceError
from tidegate.head import decode_heads
from tidegate.log import Log, change_messages, lines_of, recorded

__all__ = ["recovery", "run"]

BAR = 80_000
ASKS_PER_SECOND = 1_000
MOST_ASK_MS = 20.0
RECOVERY_ENTITIES = 100_000
MOST_RECOVERY_MS = 15_000.0
PATIENCE_SECONDS = 120.0
_FSYNC = "each commit is on disk before it is answered (nats-server, sync_interval: always)"


@contextlib.asynccontextmanager
async def _log(settings: Settings, *, external: bool) -> AsyncIterator[tuple[Bus, Log, str]]:
    declared = declarations(settings)
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url, name="tidegate bench") as bus,
    ):
        await fresh_streams(bus, declared, place, first=True)
        try:
            yield bus, Log(bus, declared.shards), place.text
        finally:
            if bus.connected:
                await without_streams(bus, declared)


@contextlib.asynccontextmanager
async def _hosted(bus: Bus, log: Log, name: str) -> AsyncIterator[list[EntityWork]]:
    """The cells of all shards under a name of their own, so that each run begins with nothing."""
    entity, works, cells = Correlations(), [], []
    for shard in range(log.shards):
        work = EntityWork(bus, log, entity, shard, name=name)
        works.append(work)
        cells.append(Cell(f"{name}.{shard}", work, entity_inputs(bus, entity, shard, 3.0, name)))
    async with running(cells):
        yield works


async def run(settings: Settings, *, events: int = 200_000, seconds: float = 5.0, external: bool = False) -> Report:
    """Correlate about `events` events of a full log; then answer commands at 1,000 a second."""
    began = time.monotonic()
    async with _log(settings, external=external) as (bus, log, place):
        await fill(log, settings, events)
        frames = [recorded(one) async for one in log.read(subject.event("*"))]
        count = sum(one.count for one in frames)
        correlated = sum(bool(head.correlation_id) for one in frames for head in decode_heads(one.lines()))
        ends = {one.shard: one.sequence for one in frames}
        runs, limit_runs = [], []
        latencies: list[float] = []
        for _ in rounds(seconds):
            limit_runs.append(count / await _read_only(log))
            name = f"bench{uuid.uuid4().hex[:8]}"
            started = time.monotonic()
            async with _hosted(bus, log, name) as works:
                await _caught_up(log, name, ends)
                runs.append(count / (time.monotonic() - started))
                counted = sum(state.count for work in works for _, state in work.items())
                balanced("correlated events", counted, correlated)
                if not latencies:
                    open_ids = [one for work in works for one, state in work.items() if state.status != "closed"]
                    latencies = await _asks(System(bus, log), open_ids, seconds)
    return made(
        bench="entities",
        events=count,
        runs=runs,
        limit="reading the same frames and decoding the few fields that correlations look at",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a command to its answer after the commit, {ASKS_PER_SECOND:,} a second, asked in the same process",
        fsync=_FSYNC,
        bytes_per_event=sum(len(one.payload) for one in frames) / count,
        began=began,
        place=place,
        note="from a full log, ownership and pulling included; bytes per event are those of the log, zstd",
        most_p99_ms=MOST_ASK_MS,
    )


async def _read_only(log: Log) -> float:
    started = time.monotonic()
    async for one in log.read(subject.event("*")):
        decode_heads(recorded(one).lines())
    return time.monotonic() - started


async def _caught_up(log: Log, name: str, ends: dict[int, int]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    for shard, end in ends.items():
        while True:
            _, progress = await log.newest(name, shard, EntityProgress)
            if progress is not None and progress.positions[subject.LOG] >= end:
                break
            if time.monotonic() > until:
                raise BalanceError(f"shard {shard} has come to {progress}, not to {end}, in time")
            await asyncio.sleep(0.01)


async def _asks(system: System, ids: Sequence[str], seconds: float) -> list[float]:
    """The seconds that each ask took. All are for entities of their own."""

    async def ask(number: int, due: float) -> float:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await system.ask("correlation", ids[number], Close(reason="bench", by="bench"), timeout_seconds=30)
        return time.monotonic() - due

    begin = time.monotonic()
    number = min(len(ids), int(ASKS_PER_SECOND * seconds))
    return list(await asyncio.gather(*(ask(n, begin + n / ASKS_PER_SECOND) for n in range(number))))


async def recovery(
    settings: Settings, *, events: int = 1_000_000, seconds: float = 5.0, external: bool = False
) -> Report:
    """Recover 100,000 correlations with `events` changes: from the log alone for `seconds`, and so from snapshots."""
    began = time.monotonic()
    async with _log(settings, external=external) as (bus, log, place):
        count, size = await _write_changes(log, settings, events)
        runs, limit_runs, snapshots = [], [], []
        for _ in rounds(seconds):
            limit_runs.append(count / await _lines_only(log))
            works, took = await _recovered(bus, log)
            runs.append(count / took)
            balanced("entities", sum(map(len, works)), min(count, RECOVERY_ENTITIES))
        for work in works:
            await work.aclose()
        for _ in rounds(seconds):
            again, took = await _recovered(bus, log)
            snapshots.append(took)
            for before, after in zip(works, again, strict=True):
                balanced("states", dict(after.items()), dict(before.items()))
    return made(
        bench="recovery",
        events=count,
        runs=runs,
        limit="reading the same changes as lines, nothing decoded",
        limit_runs=limit_runs,
        bar=0,  # what counts is the time from snapshots
        latencies=snapshots,
        latency=f"recovery of all {min(count, RECOVERY_ENTITIES):,} entities from snapshots (bar: 15 s)",
        fsync="only reading",
        bytes_per_event=size / count,
        began=began,
        place=place,
        note=f"full replay of the log, no snapshots; from snapshots it took {statistics.median(snapshots):.2f} s",
        most_p99_ms=MOST_RECOVERY_MS,
    )


async def _recovered(bus: Bus, log: Log) -> tuple[list[EntityWork], float]:
    works = [EntityWork(bus, log, Correlations(), shard) for shard in range(log.shards)]
    started = time.monotonic()
    for work in works:
        await work.recover()
    return works, time.monotonic() - started


async def _lines_only(log: Log) -> float:
    started = time.monotonic()
    async for one in log.read(subject.entity("correlation", "*")):
        lines_of(one)
    return time.monotonic() - started


async def _write_changes(log: Log, settings: Settings, count: int) -> tuple[int, int]:
    """Changes as correlations of generated events are, spread over 100,000 entities; returns how many, and bytes."""
    await fill(log, settings, 20_000)
    entity, samples = Correlations(), []
    async for message in log.read(subject.event(0)):
        for entity_id, command in entity.react(message, 0, log.shards).commands:
            context = Context(id=entity_id, version=0, time_ms=message.time_ms, cause="bench")
            samples.append(msgspec.Raw(msgspec.json.encode(entity.decide(entity.initial(entity_id), command, context))))
    by_shard: dict[int, list[bytes]] = {shard: [] for shard in range(log.shards)}
    for number in range(count):
        entity_id = f"correlation {number % RECOVERY_ENTITIES}"
        change = Change(entity_id, 1 + number // RECOVERY_ENTITIES, 0, samples[number % len(samples)])
        by_shard[subject.shard_of(entity_id, log.shards)].append(msgspec.json.encode(change))
    size = 0
    for shard, lines in by_shard.items():
        size += await _append(log, shard, lines)
    return count, size


async def _append(log: Log, shard: int, lines: Sequence[bytes]) -> int:
    size, expected = 0, 0
    for first in range(0, len(lines), 8_000):
        messages = change_messages("correlation", shard, lines[first : first + 8_000])
        progress = EntityProgress(created={}, positions={}, changes=min(first + 8_000, len(lines)))
        size += sum(len(one.payload) for one in messages)
        expected = await log.append("correlation", shard, messages, progress, expected)
    return size
