"""Kafka: from a topic into the ingest stream, and from the log into a topic.

Invariant: a run counts only if exactly what was in the one is in the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec.structs import replace

from tidegate import frame, subject
from tidegate.actor.cell import Cell, Step, running
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import Delivered
from tidegate.app import declarations
from tidegate.bench.broker import broker, topic
from tidegate.bench.material import commits, records
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bus import Bus, connect
from tidegate.config import Kafka, KafkaInput, KafkaOutput, Settings
from tidegate.edges.kafka.client import options, stopped
from tidegate.edges.kafka.formats import JsonReader
from tidegate.edges.kafka.producing import Batch, Producing
from tidegate.edges.kafka.reading import Inputs
from tidegate.edges.kafka.writing import POSITION, OutputWork, kind_of
from tidegate.errors import BalanceError
from tidegate.log import Log, Progress
from tidegate.pipeline.library import load_pipeline
from tidegate.reader import read
from tidegate.subject import Declarations

__all__ = ["inward", "outward"]

BAR = 40_000
PARTITIONS = 4
PATIENCE_SECONDS = 60.0
SOURCE = "bench"


async def _until(done: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise BalanceError(f"not within {PATIENCE_SECONDS:g} s: {what}") from None


async def _send(producing: Producing, to: str, values: Sequence[bytes]) -> float:
    """Seconds until all are in the topic, in batches as large as it takes, one a partition under way."""
    batches: list[list[Batch]] = [[Batch()] for _ in range(PARTITIONS)]
    for number, value in enumerate(values):
        into = batches[number % PARTITIONS]
        if not into[-1].add(0, b"%d" % number, value, []):
            into.append(Batch())
            into[-1].add(0, b"%d" % number, value, [])
    await producing.partitions(to)
    start = time.perf_counter()
    for turn in range(max(map(len, batches))):
        await producing.send(to, {one: some[turn] for one, some in enumerate(batches) if turn < len(some)})
    return time.perf_counter() - start


# -- in ----------------------------------------------------------------------------------------------------------------


class _TimedInputs(Inputs):
    """Notes when it began to take records, and how long each batch took."""

    began = math.inf
    ended = 0.0
    messages = 0
    latencies: list[float]

    async def _take(self, one: TopicPartition, records: Sequence[Any]) -> None:
        start = time.monotonic()
        self.began = min(self.began, start)
        await super()._take(one, records)
        self.ended = time.monotonic()
        self.latencies.append(self.ended - start)
        self.messages += len(records)


async def inward(settings: Settings, *, events: int = 200_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    given = records(events)
    reader = JsonReader()
    expected = [line for value in given for line in reader.read(value)]  # an array is the records in it
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url, name="tidegate bench") as bus,
        broker(settings.kafka, external=external) as kafka,
    ):
        producing = Producing(kafka)
        try:
            name = await topic(kafka, PARTITIONS)
            await _send(producing, name, given)
            runs, limit_runs, latencies = [], [], []
            await fresh_streams(bus, declared, place, first=True)
            for _ in rounds(seconds):
                await fresh_streams(bus, declared, place, first=False)
                one = await _taken(bus, declared, kafka, name, events)
                await _check_taken(bus, expected)
                runs.append(events / (one.ended - one.began))
                latencies += one.latencies
                limit_runs.append(events / await _fetched(kafka, name, events))
        finally:
            await producing.aclose()
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="kafka-in",
        events=events,
        runs=runs,
        limit="the same topic read by aiokafka's consumer, and nothing done with it",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a batch of up to {kafka.batch_records:,} records of a partition, from its arrival until it is stored",
        fsync="frames and position are synced to disk in one atomic step (nats sync_interval: always)",
        bytes_per_event=sum(map(len, given)) / events,
        began=began,
        place=place.text,
        note=f"one event a record, {PARTITIONS} partitions; joining the group is not counted",
    )


async def _taken(bus: Bus, declared: Declarations, kafka: Kafka, name: str, events: int) -> _TimedInputs:
    here = replace(kafka, group=uuid.uuid4().hex, inputs=[KafkaInput(topic=name, source=SOURCE)])
    one = _TimedInputs(here, bus, declared.partitions, None)
    one.latencies = []
    task = asyncio.create_task(one.run())
    try:
        await _until(lambda: one.messages >= events, "all records are taken in")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return one


async def _check_taken(bus: Bus, expected: Sequence[bytes]) -> None:
    count = digest = 0
    last = (await bus.stream(subject.INGEST)).last_sequence
    async for message in read(bus, subject.INGEST, f"ingest.{SOURCE}.*", 1, last):
        encoding = message.headers.get(frame.CONTENT_ENCODING, "")
        _, lines = frame.open_frame(message.payload, message.headers[frame.CONTENT_TYPE], encoding, 2**31)
        count += len(lines)
        digest += frame.digest_of(lines)
    balanced("records in the ingest stream", (count, digest), (len(expected), frame.digest_of(expected)))


async def _fetched(kafka: Kafka, name: str, events: int) -> float:
    """Seconds for reading the topic."""
    consumer = AIOKafkaConsumer(
        **options(kafka), auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 1024 * 1024
    )
    count = 0
    try:
        await consumer.start()
        consumer.assign([TopicPartition(name, one) for one in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        start = time.perf_counter()
        while count < events:
            found = await consumer.getmany(timeout_ms=100, max_records=kafka.batch_records)
            count += sum(map(len, found.values()))
        return time.perf_counter() - start
    finally:
        await stopped(consumer)


# -- out ---------------------------------------------------------------------------------------------------------------


class _TimedOutput(OutputWork):
    """Notes when it had its first events and how long each batch took."""

    began = math.inf
    ended = 0.0
    latencies: list[float]

    def weigh(self, message: Delivered) -> int:
        # The last frame closes its batch: with nothing more to come, waiting for more would measure the waiting.
        return self.limit if message.pending == 0 else super().weigh(message)

    async def commit(self, step: Step) -> None:
        await super().commit(step)
        if step.decided is not None:
            self.began = min(self.began, step.began)
            self.ended = time.monotonic()
            self.latencies.append(self.ended - step.began)


async def outward(settings: Settings, *, events: int = 200_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of about `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    async with (
        servers(["nats"], settings, external=external) as place,
        connect(place.settings.nats_url, name="tidegate bench") as bus,
        broker(settings.kafka, external=external) as kafka,
    ):
        producing = Producing(kafka)
        try:
            await fresh_streams(bus, declared, place, first=True)
            log = Log(bus, declared.shards)
            lines = await _fill(log, declared, events, settings.intake.batch_records)
            runs, limit_runs, latencies = [], [], []
            for _ in rounds(seconds):
                works = await _written(bus, log, kafka, producing, len(lines))
                start, end = min(one.began for one in works), max(one.ended for one in works)
                runs.append(len(lines) / (end - start))
                latencies += [wait for one in works for wait in one.latencies]
                limit_runs.append(len(lines) / await _send(producing, await topic(kafka, PARTITIONS), lines))
        finally:
            await producing.aclose()
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="kafka-out",
        events=len(lines),
        runs=runs,
        limit="the same events at hand, in the same batches: nothing read, decoded, keyed or noted",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a batch of up to {kafka.batch_records:,} events of a shard, from its last frame until all is stored",
        fsync="each batch is acknowledged by all replicas in sync (acks=all), after a note synced to disk in the log",
        bytes_per_event=sum(map(len, lines)) / len(lines),
        began=began,
        place=place.text,
        note=f"{declared.shards} shards into {PARTITIONS} partitions, JSON",
    )


async def _fill(log: Log, declared: Declarations, events: int, batch_records: int) -> list[bytes]:
    """The log, with about so many events; returns them."""
    expected, progress = 0, Progress(stream=subject.INGEST, created="", sequence=0)
    lines: list[bytes] = []
    for one in commits(events, load_pipeline(declared.shards), declared.shards, batch_records):
        expected = await log.append("intake", 0, one.messages, progress, expected)
        for message in one.messages:
            if message.subject.startswith(subject.event("*")[:-1]):
                lines += frame.split_lines(frame.inflate(message.payload, "zstd", 2**31))
    return lines


async def _written(bus: Bus, log: Log, kafka: Kafka, producing: Producing, events: int) -> list[_TimedOutput]:
    """The cells of one output, from the beginning of the log to its end."""
    output = KafkaOutput(topic=await topic(kafka, PARTITIONS))
    works = [_TimedOutput(kafka, output, log, shard, producing, None) for shard in range(log.shards)]
    cells = []
    for work in works:
        work.latencies = []
        consumer = PinnedConsumer(
            bus, subject.LOG, subject.consumer(kind_of(output), work.shard), [subject.event(work.shard)]
        )
        cells.append(Cell(f"{kind_of(output)}.{work.shard}", work, Mailbox(consumer)))
    async with running(cells):
        await _until(lambda: sum(one.written.events for one in works) >= events, "all events are written")
    places = []
    async with contextlib.aclosing(producing.since(output.topic, {})) as found:
        places = [dict(record.headers)[POSITION] async for record in found]
    balanced("events in the topic, and different ones", (len(places), len(set(places))), (events, events))
    for work in works:
        await log.forget_consumer(subject.consumer(kind_of(output), work.shard))
    return works
