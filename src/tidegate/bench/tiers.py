"""A read model from a full log: its whole cells, from pulling frames to the stored position.

Invariant: a run counts only if the read model's own count and digest are those of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from tidegate import subject
from tidegate.actor.cell import Cell, Step
from tidegate.actor.mailbox import Mailbox, Positions
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import Delivered
from tidegate.app import batching, declarations, read_models
from tidegate.bench.material import commits
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bench.stores import STORES, Store, empty
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.errors import BalanceError
from tidegate.head import decode_heads
from tidegate.history import cells_of
from tidegate.log import Log, Progress, recorded
from tidegate.pipeline.library import load_pipeline
from tidegate.projection import ReadModel, Rebuildable, Recorded
from tidegate.projector import ProjectionWork
from tidegate.rebuild import Rebuild

__all__ = ["fill", "run"]

DISTINCT = 100_000
"""At most so many different events; beyond them the log holds the same ones again."""
PATIENCE_SECONDS = 60.0


class _Timed(ProjectionWork):
    """Notes when it began and how long each batch took."""

    began = 0.0
    ended = 0.0
    events = 0
    latencies: list[float]

    def weigh(self, message: Delivered) -> int:
        # The last frame closes its batch: with nothing more to come, waiting for more would measure the waiting.
        return self.limit if message.pending == 0 else super().weigh(message)

    async def recover(self) -> Positions:
        positions = await super().recover()
        self.began, self.latencies = time.monotonic(), []
        return positions

    async def commit(self, step: Step) -> None:
        await super().commit(step)
        self.ended = time.monotonic()
        self.latencies.append(self.ended - step.began)
        self.events += sum(super(_Timed, self).weigh(one) for one in step.batch)


async def run(
    tier: str,
    settings: Settings,
    *,
    events: int | None = None,
    seconds: float = 8.0,
    external: bool = False,
    rebuilding: bool = False,
) -> Report:
    """Runs of about `events` events, for `seconds` or three times, whichever is longer; with `rebuilding` each is a
    rebuild, comparison and swap included."""
    began = time.monotonic()
    store = STORES[tier]
    declared = declarations(settings)
    limit, linger = batching(settings, tier)
    async with (
        servers(["nats", store.server], settings, external=external) as place,
        connect(place.settings.nats_url, name="tidegate bench") as bus,
    ):
        await fresh_streams(bus, declared, place, first=True)
        try:
            log = Log(bus, declared.shards)
            await fill(log, settings, events or store.events)
            frames = [recorded(one) async for one in log.read(subject.event("*"))]
            count = sum(one.count for one in frames)
            mark = uuid.uuid4().hex[:8]

            @contextlib.asynccontextmanager
            async def fresh(name: str) -> AsyncIterator[ReadModel]:
                """The read model, as `empty` has it."""
                model = read_models(store.settings(place.settings, f"{mark}_{name}"), [tier])[tier]
                async with empty(store, model, declared.shards, external=place.external):
                    yield model

            runs, limit_runs, latencies = [], [], []
            for number in rounds(seconds):
                # The limit goes first: it is the warm-up of the server and the driver too.
                async with fresh(f"limit{number}") as model:
                    limit_runs.append(count / await store.best(model, _batches(model, frames, limit)))
                if rebuilding:
                    rate, times = await _rebuild(
                        log, tier, store, store.settings(place.settings, f"{mark}_run{number}"), limit, frames
                    )
                else:
                    async with fresh(f"run{number}") as model:
                        rate, times = await _run(bus, log, model, limit, linger, frames)
                runs.append(rate)
                latencies += times
        finally:
            if bus.connected:
                await without_streams(bus, declared)
    best = sorted(limit_runs)[len(limit_runs) // 2]
    return made(
        bench=f"rebuild-{tier}" if rebuilding else tier,
        events=count,
        runs=runs,
        limit=store.limit,
        limit_runs=limit_runs,
        # A rebuild reads all of the log a second time, and all that it has written, to compare them.
        bar=(store.bar or round(best * store.bar_share)) // (2 if rebuilding else 1),
        latencies=latencies,
        latency="a whole rebuild, comparison and swap included"
        if rebuilding
        else f"a batch of up to {limit:,} events, from having it to its position being stored",
        fsync=store.fsync,
        bytes_per_event=sum(len(one.payload) for one in frames) / count,
        began=began,
        place=place.text,
        note="from a full log, pulling included; bytes per event are those of the log, zstd",
    )


async def fill(log: Log, settings: Settings, events: int) -> None:
    """The log as the intake makes it of about `events` records."""
    distinct = min(events, DISTINCT)
    outputs = commits(distinct, load_pipeline(log.shards), log.shards, settings.intake.batch_records)
    progress = Progress(stream=subject.INGEST, created="", sequence=0)
    expected = written = 0
    while written < events:
        for one in outputs:
            if written >= events:
                break
            expected = await log.append("bench", 0, one.messages, progress, expected)
            written += one.records


def _batches(model: ReadModel, frames: Sequence[Recorded], limit: int) -> list[list[Recorded]]:
    """The frames in batches as the cells make them."""
    full: list[list[Recorded]] = []
    open_: dict[int, list[Recorded]] = {}
    for one in frames:
        key = one.shard if model.by_shard else 0
        batch = open_.setdefault(key, [])
        batch.append(one)
        if sum(other.count for other in batch) >= limit:
            full.append(open_.pop(key))
    return [*full, *open_.values()]


async def _run(
    bus: Bus, log: Log, model: ReadModel, limit: int, linger: float, frames: Sequence[Recorded]
) -> tuple[float, list[float]]:
    """Events per second, and the seconds that each batch took."""
    count = sum(one.count for one in frames)
    works, cells = [], []
    for cell, subjects in cells_of(model, log.shards).items():
        work = _Timed(log, model, cell, limit=limit, linger_seconds=linger)
        # A consumer of its own for each run: one that has seen the log's end waits for something new before it begins.
        consumer = PinnedConsumer(bus, subject.LOG, f"{model.name}-{cell}-{uuid.uuid4().hex[:8]}", [subjects])
        works.append(work)
        cells.append(Cell(f"{model.name}.{cell}", work, Mailbox(consumer)))
    tasks = [asyncio.create_task(cell.run()) for cell in cells]
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sum(work.events for work in works) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        states = "; ".join(f"{cell.status.cell} {cell.status.state} {cell.status.problem}" for cell in cells)
        raise BalanceError(f"only {sum(work.events for work in works)} of {count} events in time ({states})") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    tally = await model.tally()
    digest = sum(one.digest for one in frames) % 2**64
    balanced(f"count and digest of {model.name}", (tally.count, tally.digest), (count, digest))
    await _check_ids(model, frames)
    busy = [work for work in works if work.ended]
    seconds = max(work.ended for work in busy) - min(work.began for work in busy)
    return count / seconds, [one for work in busy for one in work.latencies]


async def _rebuild(
    log: Log, tier: str, store: Store, settings: Settings, limit: int, frames: Sequence[Recorded]
) -> tuple[float, list[float]]:
    """Events per second of one rebuild, and the seconds it took; what it has built is removed."""

    def make(generation: int) -> Rebuildable:
        return cast("Rebuildable", read_models(settings, [tier], {tier: generation})[tier])

    count = sum(one.count for one in frames)
    began = time.monotonic()
    outcome = await Rebuild(log, tier, make, limit=limit).run()
    seconds = time.monotonic() - began
    model = make(outcome.generation)
    try:
        await model.open()
        balanced(f"events compared in {tier}", outcome.events, count)
        await _check_ids(model, frames)
        await store.remove(model)
    finally:
        await model.aclose()
    return count / seconds, [seconds]


async def _check_ids(model: Any, frames: Sequence[Recorded]) -> None:
    """Hot cannot count its data, so each event is looked for."""
    if model.name == "hot":
        ids = [head.event_id for one in frames for head in decode_heads(one.lines())]
        balanced("events found in hot", await model.present(ids), len(ids))
