"""REST: bodies of 1,000 events as NDJSON to event-streaming, a process of its own, until each is on disk.

Invariant: a run counts only if as many records are in the ingest stream as the answers said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from tidegate import subject
from tidegate.app import declarations
from tidegate.bench.ingest import SOURCE, _submit_all
from tidegate.bench.material import FRAME_RECORDS, records
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.errors import BalanceError
from tidegate.frame import CONTENT_TYPE, COUNT, NDJSON
from tidegate.local.processes import address
from tidegate.reader import read
from tidegate.service.checking import checking

__all__ = ["run"]

BAR = 80_000
CONNECTIONS = 8


class _Answer(msgspec.Struct):
    records: int


async def run(settings: Settings, *, events: int = 200_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    # Without the generator's bad records: REST would refuse these, and the limit would not.
    check = checking("json", ())
    given = [record for record in records(events + events // 20) if check(record) is None][:events]
    parts = [given[first : first + FRAME_RECORDS] for first in range(0, events, FRAME_RECORDS)]
    bodies = [b"\n".join(part) for part in parts]
    size = sum(map(len, bodies))
    frames = [(body, {CONTENT_TYPE: NDJSON, COUNT: str(len(part))}) for body, part in zip(bodies, parts, strict=True)]
    async with (
        servers(["nats", "event-streaming"], settings, external=external) as place,
        connect(place.settings.nats_url) as bus,
    ):
        url = address("event-streaming", place.settings)
        try:
            await fresh_streams(bus, declared, place, first=external)
            await _post_all(url, bodies[: max(1, len(bodies) // 5)])
            runs, limit_runs, latencies = [], [], []
            for _ in rounds(seconds):
                before = (await bus.stream(subject.INGEST)).last_sequence
                rate, times = await _post_all(url, bodies)
                await _check(bus, before, events)
                runs.append(rate)
                latencies += times
                limit_runs.append(events / await _submit_all(bus, frames, size))
        finally:
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="rest",
        events=events,
        runs=runs,
        limit="the same bodies as frames, through Bus.submit",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a body of {FRAME_RECORDS:,} events from its first byte to the answer, on {CONNECTIONS} connections",
        fsync="each frame is synced to disk before the answer (nats sync_interval: always)",
        bytes_per_event=size / events,
        began=began,
        place=place.text,
        note="client, event-streaming and NATS share the machine; bodies are not compressed",
    )


async def _post_all(url: str, bodies: Sequence[bytes]) -> tuple[float, list[float]]:
    """Events per second, and the seconds that each body took."""
    parts = urlsplit(url)
    waiting, times, stored = list(reversed(bodies)), [], 0

    async def client() -> None:
        nonlocal stored
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while waiting:
            body = waiting.pop()
            start = time.perf_counter()
            head = (
                f"POST /v1/events/{SOURCE} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                f"Content-Type: {NDJSON}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.writelines([head.encode(), body])
            await writer.drain()
            status, answer = await _answered(reader)
            if status != 202:
                raise BalanceError(f"event-streaming answered {status}: {answer[:300].decode(errors='replace')}")
            times.append(time.perf_counter() - start)
            stored += msgspec.json.decode(answer, type=_Answer).records
        writer.close()
        await writer.wait_closed()

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(client())
    seconds = time.perf_counter() - start
    expected = sum(body.count(b"\n") + 1 for body in bodies)
    balanced("records in the answers", stored, expected)
    return expected / seconds, times


async def _answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return int(head.split(maxsplit=2)[1]), await reader.readexactly(length)


async def _check(bus: Bus, before: int, events: int) -> None:
    last = (await bus.stream(subject.INGEST)).last_sequence
    count = 0
    async for message in read(bus, subject.INGEST, "ingest.>", before + 1, last):
        count += int(message.headers[COUNT])
    balanced("events in the stream", count, events)
