"""Ingest to LOG, exactly once: a publisher in a process of its own, and four intake cells in this one.

Invariant: a run counts only if what the publisher was told is stored is in the log: as an event, a dead letter, or
filtered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence

from tidegate import subject
from tidegate.actor.cell import Cell, Step, running
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import Delivered
from tidegate.app import declarations
from tidegate.bench.feed import Feeder, Job
from tidegate.bench.material import Commit, commits
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.errors import BalanceError
from tidegate.frame import COUNT
from tidegate.intake import KIND, IntakeWork
from tidegate.log import Log, Progress
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Pipeline
from tidegate.subject import Declarations

__all__ = ["run"]

BAR = 60_000
AHEAD = 50_000
"""So many events the publisher may be ahead of the commits."""
PATIENCE_SECONDS = 60.0


class _Timed(IntakeWork):
    """Tells of each batch and each commit."""

    watch: _Watch

    async def commit(self, step: Step) -> None:
        before = self.progress.records
        self.watch.began = min(self.watch.began, step.began)
        await super().commit(step)
        self.watch.tell(step.batch, self.progress.records - before)


class _Watch:
    """The commits of all cells."""

    def __init__(self, on_more: Callable[[int], None]) -> None:
        self.records = 0
        self.began = math.inf
        self.ended = 0.0
        self.committed: dict[int, float] = {}
        """Sequence of an ingest frame -> when its events were in the log."""
        self._on_more = on_more

    def tell(self, batch: Sequence[Delivered], records: int) -> None:
        now = self.ended = time.monotonic()
        self.records += records
        for one in batch:
            self.committed[one.sequence] = now
        self._on_more(self.records)

    async def until(self, records: int, cells: Sequence[Cell]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.records < records:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            states = "; ".join(f"{cell.status.cell} {cell.status.state} {cell.status.problem}" for cell in cells)
            raise BalanceError(f"only {self.records} of {records} records were committed in time ({states})") from None

    def rate(self) -> float:
        """Records per second, from the moment at which a cell had its first frames to the last commit.

        Not from the first commit: the cells take turns, so that by then the others are nearly as far, uncounted.
        """
        return self.records / (self.ended - self.began)


@contextlib.asynccontextmanager
async def _intake(
    bus: Bus, settings: Settings, pipeline: Pipeline, declared: Declarations, watch: _Watch
) -> AsyncIterator[list[Cell]]:
    """The cells of all partitions, wired as in the transformation pipeline, until the block ends."""
    log = Log(bus, declared.shards)
    cells = []
    for partition in range(declared.partitions):
        consumer = PinnedConsumer(
            bus,
            subject.INGEST,
            f"intake-{partition}",
            [f"ingest.*.{partition}"],
            pin_timeout_seconds=settings.intake.pin_timeout_seconds,
        )
        work = _Timed(bus, log, lambda: pipeline, partition, settings)
        work.watch = watch
        cells.append(Cell(f"{KIND}.{partition}", work, Mailbox(consumer)))
    async with running(cells):
        yield cells


async def run(settings: Settings, *, events: int = 150_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer; then some at half the rate."""
    began = time.monotonic()
    declared = declarations(settings)
    pipeline = load_pipeline(declared.shards)
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url, name="tidegate bench") as bus,
    ):
        await fresh_streams(bus, declared, place, first=True)
        try:
            async with Feeder.started(place.settings.nats_url, events) as feeder:
                outputs = commits(events, pipeline, declared.shards, settings.intake.batch_records)
                size = sum(len(message.payload) for one in outputs for message in one.messages)
                await _throughput(bus, settings, pipeline, declared, feeder, max(events // 5, 1000))
                runs, limit_runs = [], []
                for _ in rounds(seconds):
                    await fresh_streams(bus, declared, place, first=False)
                    runs.append(await _throughput(bus, settings, pipeline, declared, feeder, events))
                    await fresh_streams(bus, declared, place, first=False)
                    limit_runs.append(events / await _append_all(bus, declared, outputs))
                half = statistics.median(runs) / 2
                await fresh_streams(bus, declared, place, first=False)
                paced = int(min(half * 2.0, events))
                latencies = await _latencies(bus, settings, pipeline, declared, feeder, paced, half)
        finally:
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="log",
        events=events,
        runs=runs,
        limit="the same frames for the log, made before, in fenced atomic batches: nothing read, nothing mapped",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a frame from its publish to its commit in the log, at {half:,.0f} events/s in frames of 10 ms",
        fsync="input frame and log batch are synced to disk before their acknowledgements (nats sync_interval: always)",
        bytes_per_event=size / events,
        began=began,
        place=place.text,
        note=f"publisher and intake run at once, the publisher at most {AHEAD:,} events ahead;"
        f" bytes per event are those of the log, zstd",
    )


async def _throughput(
    bus: Bus, settings: Settings, pipeline: Pipeline, declared: Declarations, feeder: Feeder, events: int
) -> float:
    """Events per second, publisher and intake at once."""
    watch = _Watch(lambda records: feeder.start(Job(upto=records + AHEAD)))
    async with _intake(bus, settings, pipeline, declared, watch) as cells:
        feeder.start(Job(total=events, upto=AHEAD))
        fed = await feeder.done()
        await watch.until(events, cells)
        await _check(bus, declared, fed.events, events)
    return watch.rate()


async def _latencies(
    bus: Bus,
    settings: Settings,
    pipeline: Pipeline,
    declared: Declarations,
    feeder: Feeder,
    events: int,
    rate: float,
) -> list[float]:
    """For each frame the seconds from just before it was given to the publisher until the cell knew of its commit."""
    watch = _Watch(lambda records: None)
    async with _intake(bus, settings, pipeline, declared, watch) as cells:
        feeder.start(Job(total=events, rate=rate))
        fed = await feeder.done()
        await watch.until(events, cells)
        await _check(bus, declared, fed.events, events)
    # The first frames wait for the cells to become owners of their partitions.
    settled = min(fed.sent.values()) + 0.5
    waits = [watch.committed[sequence] - start for sequence, start in fed.sent.items()]
    later = [watch.committed[sequence] - start for sequence, start in fed.sent.items() if start > settled]
    return later or waits


async def _check(bus: Bus, declared: Declarations, published: int, expected: int) -> None:
    """Everything published is in the log exactly once, counted from the log itself."""
    balanced("acknowledged by the ingest stream", published, expected)
    log = Log(bus, declared.shards)
    progress = [(await log.progress(KIND, partition))[1] or _nothing() for partition in range(declared.partitions)]
    events = (await log.tally()).count
    dead = 0
    async for message in log.read(subject.dead("*")):
        dead += int(message.headers[COUNT])
    filtered = sum(one.filtered for one in progress)
    balanced("records in the progress records", sum(one.records for one in progress), expected)
    balanced("events, dead letters and filtered in the log", events + dead + filtered, expected)
    balanced(
        "events and dead letters",
        (events, dead),
        tuple(map(sum, zip(*((p.events, p.dead) for p in progress), strict=True))),
    )


def _nothing() -> Progress:
    return Progress(stream=subject.INGEST, created="", sequence=0)


async def _append_all(bus: Bus, declared: Declarations, outputs: Sequence[Commit]) -> float:
    """Seconds until all outputs are in the log, from as many writers as there are intake cells."""
    log = Log(bus, declared.shards)

    async def write(cell: int) -> None:
        expected, progress = 0, _nothing()
        for one in outputs[cell :: declared.partitions]:
            expected = await log.append(KIND, cell, one.messages, progress, expected)

    start = time.monotonic()
    await asyncio.gather(*map(write, range(declared.partitions)))
    seconds = time.monotonic() - start
    balanced("events of the limit", (await log.tally()).count, sum(one.events for one in outputs))
    return seconds
