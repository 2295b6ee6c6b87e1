"""A publisher in a process of its own, which a benchmark steers over standard input.

Invariant: it never has more events under way than it was allowed, and reports only what was acknowledged.

`python -m tidegate.bench.feed URL EVENTS` prints `ready` when its records are made, then takes a job a line:

    {"total": N, "rate": 0}     publish N events as fast as `upto` lines (the number of the last event allowed) let it
    {"total": N, "rate": R}     publish N events, R a second, in frames of what comes in 10 ms

and answers each with a line that says when each frame was handed over, by its sequence in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator

import msgspec

from tidegate.bench.material import FRAME_RECORDS, RawRecords, raw_frames
from tidegate.bus import connect
from tidegate.errors import PublishError
from tidegate.generator import SOURCES
from tidegate.local.servers import end_with_parent
from tidegate.publisher import Publisher

__all__ = ["Fed", "Feeder", "Job"]

TICK_SECONDS = 0.01


class Job(msgspec.Struct, frozen=True, kw_only=True):
    total: int = 0
    rate: float = 0.0
    upto: int = 0


class Fed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job."""

    events: int
    """Acknowledged."""
    sent: dict[int, float]
    """Sequence of a frame -> `time.monotonic()` just before it was given to the publisher; one clock a machine."""


class Feeder:
    """The other end: starts the process, steers it, reads its answers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, url: str, events: int) -> AsyncIterator[Feeder]:
        """The process, ready to publish; gone when the block ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tidegate.bench.feed", url, str(events)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        try:
            feeder = cls(process)
            await feeder._line()
            yield feeder
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())

    def start(self, job: Job) -> None:
        """Begin a job, or allow more of the running one."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")

    async def done(self) -> Fed:
        """Wait for the end of the job."""
        return msgspec.json.decode(await self._line(), type=Fed)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise PublishError(f"the publishing process ended with status {await self._process.wait()}")
        return line


class _Jobs:
    """Standard input as jobs."""

    def __init__(self) -> None:
        self.upto = 0
        self.more = asyncio.Event()
        self.queue: asyncio.Queue[Job | None] = asyncio.Queue()

    async def read(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            job = msgspec.json.decode(line, type=Job)
            self.upto = job.upto
            self.more.set()
            if job.total:
                self.queue.put_nowait(job)
        self.queue.put_nowait(None)


async def _feed(url: str, events: int) -> None:
    frames = itertools.cycle(raw_frames(events))
    jobs = _Jobs()
    async with connect(url, name="tidegate bench feed") as bus, contextlib.AsyncExitStack() as stack:
        publishers = {
            source: await stack.enter_async_context(Publisher(bus=bus, source=source, frame_records=FRAME_RECORDS))
            for source in SOURCES
        }

        async def publish(one: RawRecords, sent: dict[int, float]) -> int:
            start = time.monotonic()
            receipts = await publishers[one.source].publish_many(one.records)
            for receipt in receipts:
                sent[receipt.sequence] = start
            return len(receipts)

        print("ready", flush=True)  # noqa: T201 - the answer to the process that started this one
        reading = asyncio.create_task(jobs.read())
        while (job := await jobs.queue.get()) is not None:
            sent: dict[int, float] = {}
            started = 0
            tasks: list[asyncio.Task[int]] = []
            begin = time.monotonic()
            rest: RawRecords | None = None
            while started < job.total:
                one, rest = rest or next(frames), None
                take = job.total - started
                if job.rate:
                    due = begin + len(tasks) * TICK_SECONDS
                    take = min(take, max(1, int((len(tasks) + 1) * TICK_SECONDS * job.rate) - started))
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                else:
                    while started + min(take, len(one.records)) > jobs.upto:
                        jobs.more.clear()
                        await jobs.more.wait()
                if take < len(one.records):
                    one, rest = (
                        RawRecords(one.source, one.records[:take]),
                        RawRecords(one.source, one.records[take:]),
                    )
                started += len(one.records)
                tasks.append(asyncio.create_task(publish(one, sent)))
            stored = sum(await asyncio.gather(*tasks))
            print(msgspec.json.encode(Fed(events=stored, sent=sent)).decode(), flush=True)  # noqa: T201
        await reading


if __name__ == "__main__":
    end_with_parent()
    import uvloop

    uvloop.run(_feed(sys.argv[1], int(sys.argv[2])))
