"""Fan-out: what is logged, to many WebSocket connections at once, each of which gets all of it, compressed or not.

Invariant: a run counts only if each reader has got every event, as it is in the log and in the order of the log.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from msgspec import Struct
from msgspec.structs import asdict

from tidegate import frame, subject
from tidegate.app import declarations
from tidegate.bench.material import Commit, commits
from tidegate.bench.processes import Running, running
from tidegate.bench.readers import BUFFER, CHECKING, How, Readers, digest
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import own_streams, servers
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.edges import framing, ws_messages
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
_PLAIN_SHARE = 4
"""One commit of so many goes to the readers uncompressed, too."""


class Way(Struct, frozen=True, kw_only=True):
    """What was measured with compression, or without it."""

    events_per_second: int
    limit_events_per_second: int
    wire_bytes_per_event: int
    """To each reader, heads of frames included."""
    wire_megabytes_per_second: int
    """To all of them."""
    runs: list[int]


class FanOut(Report, frozen=True, kw_only=True):
    """With the figures of both ways; those of `Report` are of the compressed one."""

    receivers: str
    compressed: Way
    plain: Way


async def run(settings: Settings, *, events: int = 40_000, seconds: float = 5.0, external: bool = False) -> FanOut:
    """Runs of about `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    shards = declared.shards
    given = commits(events, load_pipeline(shards), shards, _COMMIT)
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url) as bus,
        own_streams(bus, declared, place),
        running("event-streaming", place.settings) as process,
    ):
        log = Log(bus, shards)
        compressed = await _Measured.made("deflate", given, log, process)
        plain = await _Measured.made("plain", given[: -(-len(given) // _PLAIN_SHARE)], log, process)
        for _ in rounds(seconds):
            await compressed.round()
            await plain.round()
        memory = process.most_memory()
    report = made(
        bench="websocket",
        events=len(compressed.lines),
        runs=compressed.runs,
        limit=f"the same frames, made before, over {READERS} plain sockets",
        limit_runs=compressed.limit_runs,
        bar=BAR,
        latencies=compressed.latencies,
        latency=f"a commit of {_COMMIT} records, from its append until each reader has it, with "
        f"{_WINDOW} events under way",
        fsync="events are delivered once they are in the log, on disk",
        bytes_per_event=sum(map(len, compressed.lines)) / len(compressed.lines),
        began=began,
        place=place.text,
    )
    one, other = compressed.way(), plain.way()
    note = (
        f"to each of {READERS} readers, {one.wire_bytes_per_event} on the wire, {one.wire_megabytes_per_second:,} MB/s"
        f" to all; not compressed {other.events_per_second:,} events/s (plain sockets"
        f" {other.limit_events_per_second:,}), {other.wire_bytes_per_event} bytes each on the wire,"
        f" {other.wire_megabytes_per_second:,} MB/s; the process had {memory} MB at most"
    )
    receivers = (
        f"{READERS} WebSocket connections from one process, which agree upon permessage-deflate; {CHECKING} of them"
        " inflate each message: the first to get it checks each event (its bytes against those that were logged, its"
        " position against the one before), the others that theirs is the same to the byte; the other"
        f" {READERS - CHECKING} take each frame, check its head, its length and its first bytes against those that were"
        " looked at, and count its events once these are checked; without compression it is the same but for inflating"
    )
    return FanOut(**asdict(report) | {"note": note}, receivers=receivers, compressed=one, plain=other)


class _Measured:
    """Runs of one way, and of its limit."""

    def __init__(self, how: How, given: list[Commit], log: Log, process: Running) -> None:
        self._deflate = how == "deflate"
        self._given = given
        self._log = log
        self._process = process
        self.lines = [line for one in given for line in _lines(one)]
        self._frames: list[list[bytes]] = []
        self.runs: list[float] = []
        self.limit_runs: list[float] = []
        self.latencies: list[float] = []
        self._received: list[float] = []

    @classmethod
    async def made(cls, how: How, given: list[Commit], log: Log, process: Running) -> _Measured:
        """With the frames for the limit."""
        one = cls(how, given, log, process)
        head = ws_messages.events_head("s", 0)
        items = [Item(f"1-{number}", line) for number, line in enumerate(one.lines)]
        for at in range(0, len(items), 500):
            for _, rest in await ws_messages.events(items[at : at + 500], 15 if one._deflate else 0):
                one._frames.append([framing.beginning(head, rest.deflated), rest.frame])
        return one

    async def round(self) -> None:
        """One run of each. Raises BalanceError where an event is missing, or is another."""
        how: How = "deflate" if self._deflate else "plain"
        async with Readers.started(self._process.port, READERS, how) as readers:
            start = time.monotonic()
            self.latencies += await _write(self._log, self._given, readers)
            self.runs.append(self._rate(readers, start))
            self._received.append(readers.told.received / READERS / len(self.lines))
        self.limit_runs.append(await self._plain())

    def _rate(self, readers: Readers, start: float) -> float:
        seconds = time.monotonic() - start
        balanced("events of the slowest reader", readers.told.slowest, len(self.lines))
        balanced("digest of the events", readers.told.digest, digest(self.lines))
        return len(self.lines) / seconds

    async def _plain(self) -> float:
        """Events per second, to all readers."""
        begin, done = asyncio.Event(), asyncio.Event()

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await begin.wait()
            for frames in self._frames:
                writer.writelines(frames)
                await writer.drain()
            await done.wait()
            writer.close()

        server = await asyncio.start_server(send, HOST, 0)
        try:
            port = server.sockets[0].getsockname()[1]
            how: How = "deflate-sockets" if self._deflate else "plain-sockets"
            async with Readers.started(port, READERS, how) as readers:
                await asyncio.sleep(0.2)
                start = time.monotonic()
                begin.set()
                await readers.have(len(self.lines))
                return self._rate(readers, start)
        finally:
            done.set()
            server.close()
            await asyncio.sleep(0.1)

    def way(self) -> Way:
        """The medians."""
        rate, size = statistics.median(self.runs), statistics.median(self._received)
        return Way(
            events_per_second=round(rate),
            limit_events_per_second=round(statistics.median(self.limit_runs)),
            wire_bytes_per_event=round(size),
            wire_megabytes_per_second=round(rate * size * READERS / 1e6),
            runs=[round(one) for one in self.runs],
        )


async def _write(log: Log, given: list[Commit], readers: Readers) -> list[float]:
    """Seconds from the append of each commit until all readers had it."""
    progress = Progress(stream=subject.INGEST, created="", sequence=0)
    expected, _ = await log.progress("bench", 0)
    written = 0
    waiting: list[tuple[int, float]] = []
    times: list[float] = []

    async def until(events: int) -> None:
        await readers.have(events)
        while waiting and waiting[0][0] <= readers.told.slowest:
            times.append(time.monotonic() - waiting.pop(0)[1])

    for one in given:
        started = time.monotonic()
        written += one.events
        expected = await log.append("bench", 0, one.messages, progress, expected)
        waiting.append((written, started))
        await until(written - _WINDOW)
    await until(written)
    return times


def _lines(one: Commit) -> list[bytes]:
    messages = [message for message in one.messages if message.subject.startswith("log.event.")]
    return [line for message in messages for line in frame.split_lines(frame.inflate(message.payload, "zstd", 2**31))]
