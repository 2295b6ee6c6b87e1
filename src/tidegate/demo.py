"""The demo: events through everything, then the proof that the counts add up, and the figures.

Invariant: nothing is reported that was not measured or counted in this run; the balance is read from the data itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tidegate import frame
from tidegate.app import declarations, opened_log, serving_models
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.errors import TidegateError
from tidegate.generator import Generator
from tidegate.head import EventHead, decode_heads
from tidegate.history import cells_of
from tidegate.intake import KIND
from tidegate.log import Log, recorded
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Outcome, RawFrame
from tidegate.projection import ReadModel, Tally
from tidegate.publisher import Publisher
from tidegate.query import Queries

__all__ = ["Kpi", "Report", "Step", "Sum", "TierReport", "generated", "native_lines", "run"]

WAIT_SECONDS = 300.0
CHUNK = 1000
WRITERS = 3


class Kpi(msgspec.Struct, frozen=True, kw_only=True):
    """One asked-for target against what was measured."""

    name: str
    target: str
    measured: str
    met: bool
    how: str


class TierReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a read model holds, against the log."""

    count: int
    digest: int
    matches: bool
    seconds: float
    """From the first publish until the read model had reached the log's end."""
    query: str
    query_ms: float
    found: int


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records: sums of all progress records."""

    records: int
    events: int
    dead: int
    filtered: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a demo."""

    balanced: bool
    published: int
    events: int
    dead: int
    filtered: int
    log: Tally
    tiers: dict[str, TierReport]
    kpi: list[Kpi]
    seconds: float
    samples: dict[str, list[str]]
    """Per tier, events that its query found."""


Step = Callable[[str, int, int], None]
"""Progress: what, how many done, of how many."""
Records = Sequence[tuple[str, bytes]]


def generated(events: int, seed: int) -> list[tuple[str, bytes]]:
    """Generated native records of the four sources, the newest of which is from about now."""
    start_ms = int(time.time() * 1000) - events
    return [(one.source, one.data) for one in Generator(seed, start_ms=start_ms).records(events)]


def native_lines(path: Path, source: str) -> list[tuple[str, bytes]]:
    """The lines of a file of native events."""
    try:
        return [(source, line) for line in frame.split_lines(path.read_bytes())]
    except OSError as error:
        raise TidegateError(f"{path} cannot be read: {error.strerror}") from error


async def run(settings: Settings, records: Records, step: Step) -> Report:
    """Publish `records`, wait until all four read models have reached the log's end, query, count, measure.

    All processes must be running.
    """
    declared = declarations(settings)
    async with contextlib.AsyncExitStack() as stack:
        bus, log = await stack.enter_async_context(opened_log(settings))
        models = await serving_models(settings, log)
        await stack.enter_async_context(_opened(models))
        queries = Queries(models, log)
        before = await _sums(log, declared.partitions)
        started = time.monotonic()
        # Following costs this process time of its own, so it begins when the publishing has been measured.
        publish_seconds, latencies = await _publish(bus, records, declared.partitions, step)
        reached = await _follow(log, models, declared.partitions, before, len(records), step)
        seconds = {name: moment - started for name, moment in reached.items()}
        after = await _sums(log, declared.partitions)
        step("counting", 0, 1)
        logged, sample = await _count_log(log)
        tallies = dict(zip(models, await asyncio.gather(*(model.tally() for model in models.values())), strict=True))
        step("counting", 1, 1)
        heads = decode_heads(sample)
        address = _telling(heads)
        asked = {name: await _ask(name, queries, heads[-1].event_id, address) for name in models}
        ids = [head.event_id for head in heads]
        hits = await _cache(models["hot"], ids)
        api = await asyncio.to_thread(_api, settings, ids)
        rate, frame_ms = await asyncio.to_thread(_transform, records, declared.shards)
        events, dead = after.events - before.events, after.dead - before.dead
        filtered = after.filtered - before.filtered
        tiers = {
            name: TierReport(
                count=tallies[name].count,
                digest=tallies[name].digest,
                matches=tallies[name] == logged,
                seconds=round(seconds[name], 2),
                query=asked[name][0],
                query_ms=round(asked[name][1], 1),
                found=len(asked[name][2]),
            )
            for name in models
        }
        accounted = events + dead + filtered
        whole = after.events == logged.count
        kpi = _kpi(len(records), publish_seconds, latencies, rate, frame_ms, tiers, hits, api, accounted)
        return Report(
            balanced=accounted == len(records) and whole and all(one.matches for one in tiers.values()),
            published=len(records),
            events=events,
            dead=dead,
            filtered=filtered,
            log=logged,
            tiers=tiers,
            kpi=kpi,
            seconds=round(max(seconds.values()), 2),
            samples={name: [str(one) for one in asked[name][2][:3]] for name in models},
        )


@asynccontextmanager
async def _opened(models: dict[str, ReadModel]) -> AsyncIterator[None]:
    try:
        for model in models.values():
            await model.open()
        yield
    finally:
        for model in models.values():
            await model.aclose()


async def _sums(log: Log, partitions: int) -> Sum:
    found = [(await log.progress(KIND, partition))[1] for partition in range(partitions)]
    known = [one for one in found if one is not None]
    return Sum(
        records=sum(one.records for one in known),
        events=sum(one.events for one in known),
        dead=sum(one.dead for one in known),
        filtered=sum(one.filtered for one in known),
    )


async def _publish(bus: Bus, records: Records, partitions: int, step: Step) -> tuple[float, list[float]]:
    """Returns seconds for all, and for each chunk the milliseconds from the call to the last acknowledgement."""
    by_source: dict[str, list[bytes]] = {}
    for source, data in records:
        by_source.setdefault(source, []).append(data)
    chunks = [
        (source, lines[first : first + CHUNK])
        for source, lines in by_source.items()
        for first in range(0, len(lines), CHUNK)
    ]
    random.Random(1).shuffle(chunks)  # noqa: S311 - mixes the sources
    done = 0
    latencies: list[float] = []
    waiting = iter(chunks)

    async def write() -> None:
        nonlocal done
        for source, lines in waiting:
            async with Publisher(bus=bus, source=source, partitions=partitions) as publisher:
                began = time.monotonic()
                await publisher.publish_many(lines)
                latencies.append((time.monotonic() - began) * 1000)
            done += len(lines)
            step("published", done, len(records))

    began = time.monotonic()
    await asyncio.gather(*(write() for _ in range(WRITERS)))
    return time.monotonic() - began, latencies


async def _follow(
    log: Log, models: dict[str, ReadModel], partitions: int, before: Sum, expected: int, step: Step
) -> dict[str, float]:
    """Waits until everything is processed and projected; returns when each read model was done (monotonic)."""
    deadline = time.monotonic() + WAIT_SECONDS
    reached: dict[str, float] = {}
    goal: int | None = None
    ends: dict[int, int] = {}
    while len(reached) < len(models):
        if time.monotonic() > deadline:
            missing = ", ".join(name for name in models if name not in reached)
            raise TidegateError(f"not at the log's end after {WAIT_SECONDS:g} s: {missing}; see `tidegate status`")
        sums = await _sums(log, partitions)
        step("normalised", sums.records - before.records, expected)
        if goal is None and sums.records - before.records >= expected:
            goal = sums.events
            ends = await log.last_event_sequences()
        for name, model in models.items():
            if name in reached:
                continue
            positions = {cell: await model.position(cell) for cell in cells_of(model, log.shards)}
            count = sum(one.count for one in positions.values() if one)
            step(name, max(0, count - before.events), (goal or sums.events) - before.events)
            if goal is not None and all(
                (position.sequence if position else 0) >= (max(ends.values()) if cell == "all" else ends[int(cell)])
                for cell, position in positions.items()
            ):
                reached[name] = time.monotonic()
        await asyncio.sleep(0.05)
    return reached


async def _count_log(log: Log) -> tuple[Tally, list[bytes]]:
    """The log's tally, and up to 2,000 of its newest events."""
    count = digest = 0
    sample: list[bytes] = []
    async for message in log.read("log.event.*"):
        lines = recorded(message).lines()
        count += len(lines)
        digest += frame.digest_of(lines)
        sample = (sample + lines)[-2000:] if len(lines) < 2000 else lines[-2000:]
    if not sample:
        raise TidegateError("the log holds no events; see `tidegate dead list` for what became of the records")
    return Tally(count=count, digest=digest % 2**64), sample


def _telling(heads: Sequence[EventHead]) -> str:
    """The address that most sources have seen; of several the one with the fewest events."""
    sources: dict[str, set[str]] = {}
    events: Counter[str] = Counter()
    for head in heads:
        for endpoint in (head.src_endpoint, head.dst_endpoint):
            if endpoint is not None and endpoint.ip:
                sources.setdefault(endpoint.ip, set()).add(head.source)
                events[endpoint.ip] += 1
    return max(events, key=lambda value: (len(sources[value]), -events[value]), default="")


async def _ask(tier: str, queries: Queries, event_id: str, address: str) -> tuple[str, float, list[Any]]:
    """One telling query a tier: what was asked, milliseconds, what was found."""
    began = time.monotonic()
    if tier == "lake":
        statement = "SELECT class_uid, count(*) AS events FROM events GROUP BY class_uid ORDER BY events DESC LIMIT 5"
        table = await queries.sql(statement)
        return statement, (time.monotonic() - began) * 1000, list(table.rows)
    if tier == "cold":
        answer = await queries.get(event_id, tier="cold")
        what = f"event {event_id}"
    else:
        answer = await queries.by_observable(address, limit=20, tier=tier)  # type: ignore[arg-type]
        what = f"observable {address}"
    elapsed = (time.monotonic() - began) * 1000
    return what, elapsed, [one.decode() for one in (answer.events if answer else [])]


async def _cache(hot: Any, ids: Sequence[str]) -> float:
    """The share of look-ups of recent events that the hot tier answers."""
    chosen = random.Random(2).choices(ids, k=500)  # noqa: S311
    found = [await hot.get(one) for one in chosen]
    return sum(one is not None for one in found) / len(found)


def _api(settings: Settings, ids: Sequence[str]) -> list[float]:
    """Milliseconds of 200 requests for an event over REST, one after the other."""
    connection = http.client.HTTPConnection(settings.http.host, settings.http.storage_manager_port, timeout=10)
    times = []
    try:
        for one in random.Random(3).choices(ids, k=200):  # noqa: S311
            began = time.monotonic()
            connection.request("GET", f"/v1/events/{one}")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise TidegateError(f"GET /v1/events/{one} answered {response.status}")
            times.append((time.monotonic() - began) * 1000)
    except OSError as error:
        raise TidegateError(f"storage-manager does not answer over HTTP: {error}") from error
    finally:
        connection.close()
    return times


def _transform(records: Records, shards: int) -> tuple[float, list[float]]:
    """Events per second of the pipeline alone, on one core, and the milliseconds of each frame of 1,000."""
    pipeline = load_pipeline(shards)
    by_source: dict[str, list[bytes]] = {}
    for source, data in records[:50_000]:
        by_source.setdefault(source, []).append(data)
    times = []
    count = 0
    for source, lines in by_source.items():
        for first in range(0, len(lines), 1000):
            part = lines[first : first + 1000]
            raw = RawFrame(source=source, codec="json", records=part, received_ms=1, origin=f"demo/{first}")
            began = time.process_time()
            pipeline.run(raw, Outcome(shards))
            times.append((time.process_time() - began) * 1000)
            count += len(part)
    return count / (sum(times) / 1000), times


def _high(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


def _kpi(
    published: int,
    publish_seconds: float,
    latencies: Sequence[float],
    rate: float,
    frame_ms: Sequence[float],
    tiers: dict[str, TierReport],
    hits: float,
    api: Sequence[float],
    accounted: int,
) -> list[Kpi]:
    ingest = published / publish_seconds
    slowest = max(tiers.values(), key=lambda one: one.query_ms)
    delivered = accounted / published if published else 1.0
    return [
        Kpi(
            name="ingest",
            target="> 100,000 events/s under 100 ms",
            measured=f"{ingest:,.0f} events/s, p99 {_high(latencies):.0f} ms",
            met=ingest > 100_000 and _high(latencies) < 100,
            how=f"calls of {CHUNK:,} events, {WRITERS} at a time, until all are on disk; everything else running",
        ),
        Kpi(
            name="transformation",
            target="> 50,000 events/s under 200 ms",
            measured=f"{rate:,.0f} events/s, p99 {_high(frame_ms):.0f} ms",
            met=rate > 50_000 and _high(frame_ms) < 200,
            how="frames of up to 1,000 events on one core, CPU time, parse to encoded output",
        ),
        Kpi(
            name="storage query",
            target="< 500 ms",
            measured=f"{slowest.query_ms:.0f} ms",
            met=slowest.query_ms < 500,
            how="the slowest of the four tiers' queries, first time asked",
        ),
        Kpi(
            name="cache hits",
            target="> 85 %",
            measured=f"{hits:.1%}",
            met=hits > 0.85,
            how="500 look-ups of recent events in the hot tier",
        ),
        Kpi(
            name="API answer",
            target="< 200 ms",
            measured=f"p99 {_high(api):.1f} ms, median {statistics.median(api):.1f} ms",
            met=_high(api) < 200,
            how="200 GET /v1/events/{id}, one after the other",
        ),
        Kpi(
            name="delivery",
            target="> 99.9 %",
            measured=f"{delivered:.3%}",
            met=delivered > 0.999,
            how="events, filtered and dead letters of all that was published",
        ),
    ]
