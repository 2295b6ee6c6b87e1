"""Hot queries over HTTP: by id, by correlation id and by observable in turn, so many a second, and as fast as they go.

Invariant: a latency counts from the moment at which the request was due, so that a queue is part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

from tidegate import subject
from tidegate.app import declarations, read_models
from tidegate.bench.processes import running
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import own_streams, servers
from tidegate.bench.stores import STORES, empty
from tidegate.bench.tiers import fill
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.errors import BalanceError
from tidegate.head import decode_heads, seen_in
from tidegate.local.servers import HOST
from tidegate.log import Log, recorded

__all__ = ["run"]

RATE = 500
MOST_P99_MS = 20.0
_CONNECTIONS = 16
_SECONDS = 3.0


async def run(settings: Settings, *, events: int = 50_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of 3 seconds each over about `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    async with (
        servers(["nats", "redis"], settings, external=external) as place,
        connect(place.settings.nats_url) as bus,
        own_streams(bus, declared, place),
        empty(STORES["hot"], read_models(place.settings, ["hot"])["hot"], declared.shards, external=place.external),
        running("event-streaming", place.settings),
        running("storage-manager", place.settings, "--tiers", "hot") as process,
    ):
        log = Log(bus, declared.shards)
        await fill(log, settings, events)
        paths = await _paths(log)
        async with _connected(process.port) as clients:
            end = (await log.state()).last_sequence
            await clients[0].get(f"{next(paths)}&after=LOG/{end}")
            runs, limit_runs, latencies = [], [], []
            size = 0
            for _ in rounds(seconds):
                limit_runs.append(await _flat_out(clients, paths))
                rate, times, size = await _paced(clients, paths)
                runs.append(rate)
                latencies += times
    return made(
        bench="query",
        events=round(RATE * _SECONDS),
        runs=runs,
        limit=f"the same requests as fast as they go, over {_CONNECTIONS} connections",
        limit_runs=limit_runs,
        # What is offered is never quite reached: the last answers come after the end.
        bar=round(RATE * 0.95),
        latencies=latencies,
        latency=f"a query at {RATE} requests/s, from when it was due to its whole answer",
        fsync="nothing is written",
        bytes_per_event=size,
        began=began,
        place=place.text,
        note="events are requests here, and bytes those of their answers",
        most_p99_ms=MOST_P99_MS,
    )


async def _paths(log: Log) -> Iterator[str]:
    """Requests, for ever."""
    ids, correlations, values = [], [], []
    async for message in log.read(subject.event("*")):
        for head in decode_heads(recorded(message).lines())[::20]:
            ids.append(head.metadata.uid)
            correlations += [head.metadata.correlation_uid] if head.metadata.correlation_uid else []
            values += [*seen_in(head)][:1]
        if len(ids) > 3000:
            break

    def paths() -> Iterator[str]:
        given = zip(itertools.cycle(ids), itertools.cycle(correlations), itertools.cycle(values), strict=False)
        for one, correlation, value in given:
            yield f"/v1/events/{quote(one, safe='')}?tier=hot"
            yield f"/v1/events?tier=hot&limit=20&correlation_id={quote(correlation, safe='')}"
            yield f"/v1/events?tier=hot&limit=20&observable={quote(value, safe='')}"

    return paths()


class _Client:
    """One connection that is kept, for one request at a time: less work than a whole HTTP client does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def get(self, path: str) -> int:
        """Bytes of the answer, which has to be one with an event."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(size)
        if not head.startswith(b"http/1.1 200") or b'"class_uid"' not in body:
            raise BalanceError(f"{path}: {head[:40]!r} {body[:200]!r}")
        return size


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[list[_Client]]:
    clients = [_Client(*await asyncio.open_connection(HOST, port, limit=2**20)) for _ in range(_CONNECTIONS)]
    try:
        yield clients
    finally:
        for one in clients:
            one.writer.close()


async def _paced(clients: list[_Client], paths: Iterator[str]) -> tuple[float, list[float], int]:
    """Requests per second, the seconds that each took, and the bytes of an answer."""
    free: asyncio.Queue[_Client] = asyncio.Queue()
    for one in clients:
        free.put_nowait(one)
    times: list[float] = []
    sizes = 0

    async def ask(path: str, due: float) -> None:
        nonlocal sizes
        client = await free.get()
        sizes += await client.get(path)
        times.append(time.monotonic() - due)
        free.put_nowait(client)

    start = time.monotonic()
    total = round(RATE * _SECONDS)
    async with asyncio.TaskGroup() as group:
        for number in range(total):
            due = start + number / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(ask(next(paths), due))
    balanced("answers", len(times), total)
    return total / (time.monotonic() - start), times, sizes // total


async def _flat_out(clients: list[_Client], paths: Iterator[str]) -> float:
    """Requests per second."""
    until = time.monotonic() + _SECONDS / 3
    done = 0

    async def ask(client: _Client) -> None:
        nonlocal done
        while time.monotonic() < until:
            await client.get(next(paths))
            done += 1

    await asyncio.gather(*map(ask, clients))
    return done / (_SECONDS / 3)
