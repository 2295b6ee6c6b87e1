"""Fan-out: what is logged, to many WebSocket connections at once, each of which gets all of it.

Invariant: a run counts only if each reader has got every event.
"""

from __future__ import annotations

import asyncio
import time

from tidegate import frame, subject
from tidegate.app import declarations
from tidegate.bench.material import Commit, commits
from tidegate.bench.processes import running
from tidegate.bench.readers import BUFFER, Readers
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import own_streams, servers
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.edges import ws_messages
from tidegate.local.servers import HOST
from tidegate.log import Log, Progress
from tidegate.pipeline.library import load_pipeline
from tidegate.service import Item

__all__ = ["run"]

READERS = 100
BAR = 20_000
_WINDOW = BUFFER // 2
"""Events that the slowest reader may be behind."""
_COMMIT = 2000


async def run(settings: Settings, *, events: int = 40_000, seconds: float = 5.0, external: bool = False) -> Report:
    """Runs of about `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    shards = declared.shards
    given = commits(events, load_pipeline(shards), shards, _COMMIT)
    lines = [line for one in given for line in _lines(one)]
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url) as bus,
        own_streams(bus, declared, place),
        running("event-streaming", place.settings) as process,
    ):
        log = Log(bus, shards)
        writer = _Writer(log)
        runs, limit_runs, latencies = [], [], []
        for _ in rounds(seconds):
            async with Readers.started(process.port, READERS, "websocket") as readers:
                start = time.monotonic()
                latencies += await writer.write(given, readers)
                balanced("events of the slowest reader", readers.slowest, len(lines))
                runs.append(len(lines) / (time.monotonic() - start))
            limit_runs.append(await _plain(lines))
        memory = process.most_memory()
    size = sum(map(len, lines))
    return made(
        bench="websocket",
        events=len(lines),
        runs=runs,
        limit=f"the same bytes, encoded before, over {READERS} plain sockets",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a commit of {_COMMIT} records, from its append until each reader has it, with "
        f"{_WINDOW} events under way",
        fsync="events are delivered once they are in the log, on disk",
        bytes_per_event=size / len(lines),
        began=began,
        place=place.text,
        note=f"to each of {READERS} readers: {sum(runs) / len(runs) * READERS:,.0f} deliveries/s,"
        f" {sum(runs) / len(runs) * READERS * size / len(lines) / 1e6:,.0f} MB/s; the process had {memory} MB at most",
    )


class _Writer:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._expected = 0

    async def write(self, given: list[Commit], readers: Readers) -> list[float]:
        """Seconds from the append of each commit until all readers had it."""
        progress = Progress(stream=subject.INGEST, created="", sequence=0)
        written = 0
        waiting: list[tuple[int, float]] = []
        times: list[float] = []

        async def until(events: int) -> None:
            await readers.have(events)
            while waiting and waiting[0][0] <= readers.slowest:
                times.append(time.monotonic() - waiting.pop(0)[1])

        for one in given:
            started = time.monotonic()
            self._expected = await self._log.append("bench", 0, one.messages, progress, self._expected)
            written += one.events
            waiting.append((written, started))
            await until(written - _WINDOW)
        await until(written)
        return times


def _lines(one: Commit) -> list[bytes]:
    messages = [message for message in one.messages if message.subject.startswith("log.event.")]
    return [line for message in messages for line in frame.split_lines(frame.inflate(message.payload, "zstd", 2**31))]


async def _plain(lines: list[bytes]) -> float:
    """Events per second, to all readers."""
    head = ws_messages.events_head("s", 0)
    first = b"\x01" + bytes([len(head)]) + head
    items = [Item("1-1", line) for line in lines]
    pieces = [piece for at in range(0, len(items), 500) for _, piece in ws_messages.events(items[at : at + 500])]
    begin, done = asyncio.Event(), asyncio.Event()

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begin.wait()
        for piece in pieces:
            writer.writelines([first, piece])
            await writer.drain()
        await done.wait()
        writer.close()

    server = await asyncio.start_server(send, HOST, 0)
    try:
        async with Readers.started(server.sockets[0].getsockname()[1], READERS, "plain") as readers:
            await asyncio.sleep(0.2)
            start = time.monotonic()
            begin.set()
            await readers.have(len(lines))
            return len(lines) / (time.monotonic() - start)
    finally:
        done.set()
        server.close()
        await asyncio.sleep(0.1)
