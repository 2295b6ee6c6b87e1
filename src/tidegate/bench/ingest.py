"""Ingest: one Publisher with all records at hand, until the server has every one of them on disk."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence

from tidegate import frame, subject
from tidegate.app import declarations
from tidegate.bench.material import FRAME_RECORDS, packed, records
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bus import Bus, Outgoing, PublishAck, connect
from tidegate.config import Settings
from tidegate.publisher import Publisher, _Frame
from tidegate.reader import read

__all__ = ["run"]

BAR = 300_000
MOST_P99_MS = 100.0
SOURCE = "bench"
CALL_RECORDS = 50_000
SINGLES = 3000


class _Timed(Publisher):
    """Notes how long each frame takes from its last record to its acknowledgement, compressing included."""

    latencies: list[float]

    async def _deliver(self, one: _Frame, number: int) -> None:
        started = time.perf_counter()
        await super()._deliver(one, number)
        self.latencies.append(time.perf_counter() - started)


async def run(settings: Settings, *, events: int = 200_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    given = records(events)
    size = sum(map(len, given))
    frames = packed([given[first : first + FRAME_RECORDS] for first in range(0, events, FRAME_RECORDS)])
    async with servers(["nats"], settings, external=external) as place, connect(place.settings.nats_url) as bus:
        try:
            await fresh_streams(bus, declared, place, first=True)
            await _publish(bus, given[: max(1, events // 5)])
            runs, limit_runs, latencies = [], [], []
            for _ in rounds(seconds):
                before = await _last(bus)
                rate, times = await _publish(bus, given)
                await _check(bus, before, given)
                runs.append(rate)
                latencies += times
                limit_runs.append(events / await _submit_all(bus, frames, size))
            singles = given[: min(SINGLES, events)]
            single_rate, _ = await _publish(bus, singles, frame_records=1)
        finally:
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="ingest",
        events=events,
        runs=runs,
        limit="the same frames, built before, through Bus.submit",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency="a frame of 1,000 events from its last record to its acknowledgement, with 16 MB always in flight",
        fsync="each frame is synced to disk before its acknowledgement (nats sync_interval: always)",
        bytes_per_event=size / events,
        began=began,
        place=place.text,
        note=f"{sum(len(payload) for payload, _ in frames) / events:.0f} bytes per event are sent, zstd;"
        f" one event a message: {single_rate:,.0f} events/s",
        most_p99_ms=MOST_P99_MS,
    )


async def _publish(bus: Bus, events: Sequence[bytes], frame_records: int = FRAME_RECORDS) -> tuple[float, list[float]]:
    """Events per second, and the seconds that each frame took."""
    publisher = _Timed(bus=bus, source=SOURCE, frame_records=frame_records)
    publisher.latencies = []
    async with publisher:
        start = time.perf_counter()
        stored = 0
        for first in range(0, len(events), CALL_RECORDS):
            stored += len(await publisher.publish_many(events[first : first + CALL_RECORDS]))
        seconds = time.perf_counter() - start
    balanced("receipts", stored, len(events))
    return len(events) / seconds, publisher.latencies


async def _last(bus: Bus) -> int:
    return (await bus.stream(subject.INGEST)).last_sequence


async def _check(bus: Bus, before: int, events: Sequence[bytes]) -> None:
    """All events, and nothing else, are in the stream beyond `before`."""
    count = digest = 0
    last = await _last(bus)
    async for message in read(bus, subject.INGEST, "ingest.>", before + 1, last):
        # A small frame, one that lingered, is not compressed.
        encoding = message.headers.get(frame.CONTENT_ENCODING, "")
        _, found = frame.open_frame(message.payload, message.headers[frame.CONTENT_TYPE], encoding, 2**31)
        count += len(found)
        digest += frame.digest_of(found)
    balanced("events in the stream", (count, digest), (len(events), frame.digest_of(events)))


async def _submit_all(bus: Bus, frames: Sequence[tuple[bytes, dict[str, str]]], size: int) -> float:
    """Seconds until all frames are acknowledged, with as many under way as a Publisher has."""
    run = uuid.uuid4().hex
    messages = [
        Outgoing(subject.ingest(SOURCE, number % 4), payload, headers | {"Nats-Msg-Id": f"{run}-{number}"})
        for number, (payload, headers) in enumerate(frames)
    ]
    most = max(1, 16 * 1024 * 1024 * len(frames) // size)
    waiting: deque[asyncio.Future[PublishAck]] = deque()
    before = await _last(bus)
    start = time.perf_counter()
    for message in messages:
        if len(waiting) >= most:
            await bus.acknowledged(waiting.popleft())
        waiting.append(await bus.submit(message))
    for one in waiting:
        await bus.acknowledged(one)
    seconds = time.perf_counter() - start
    balanced("frames of the limit", await _last(bus) - before, len(frames))
    return seconds
