"""The bridge in this process, with a real broker, a real NATS and the real intake."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from msgspec.structs import replace

from tests.edges.world import until
from tests.kafka.broker import Broker
from tests.kafka.registry import registry
from tidegate import app, frame, streams, subject
from tidegate.actor.cell import Cell, running
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import Delivered
from tidegate.bus import Bus, connect
from tidegate.config import Kafka, KafkaInput, KafkaOutput, Settings
from tidegate.deadletters import DeadLetters
from tidegate.edges.kafka.bridge import Bridge, bridged
from tidegate.edges.kafka.formats import JsonReader
from tidegate.edges.kafka.frames import Packing
from tidegate.edges.kafka.positions import Positions
from tidegate.edges.kafka.producing import Batch, Producing
from tidegate.edges.kafka.writing import EVENT_ID, POSITION, OutputWork
from tidegate.errors import FencedError, TierUnavailableError
from tidegate.event import Taken
from tidegate.frame import Destination
from tidegate.intake import IntakeWork
from tidegate.local import doctor
from tidegate.log import Log, event_messages
from tidegate.pipeline.library import load_pipeline
from tidegate.reader import read

pytestmark = pytest.mark.anyio


class Place:
    """NATS with the streams, and an intake."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self.settings = settings
        self.bus = bus
        self.declared = app.declarations(settings)
        self.log = Log(bus, self.declared.shards)
        self.letters = DeadLetters(bus, self.log)

    @contextlib.asynccontextmanager
    async def bridge(self, kafka: Broker, **options: Any) -> AsyncIterator[Bridge]:
        """With a group of its own, unless one is given."""
        given = Kafka(brokers=kafka.address, session_timeout_seconds=1.0, request_timeout_seconds=3.0)
        given = replace(given, **{"group": uuid.uuid4().hex, **options})
        settings = replace(self.settings, kafka=given)
        async with bridged(settings, self.declared, self.bus) as one, running(one.cells):
            task = asyncio.create_task(one.inputs.run() if one.inputs else asyncio.sleep(0))
            try:
                yield one
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def frames(self, source: str) -> list[Any]:
        """Those of a source in the ingest stream."""
        state = await self.bus.stream(subject.INGEST)
        return [one async for one in read(self.bus, subject.INGEST, f"ingest.{source}.*", 1, state.last_sequence)]


@pytest.fixture
async def place(nats_server: Settings) -> AsyncIterator[Place]:
    async with connect(nats_server.nats_url) as bus:
        one = Place(nats_server, bus)
        await streams.apply(bus, one.declared)
        pipeline = load_pipeline(one.declared.shards)
        cells = []
        for partition in range(one.declared.partitions):
            consumer = PinnedConsumer(bus, subject.INGEST, f"intake-{partition}", [f"ingest.*.{partition}"])
            work = IntakeWork(bus, one.log, lambda: pipeline, partition, nats_server)
            cells.append(Cell(f"intake.{partition}", work, Mailbox(consumer)))
        async with running(cells):
            yield one


def row_of(bridge: Bridge, **wanted: Any) -> dict[str, Any]:
    rows = [row for rows in bridge.sections().values() for row in rows]
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})


async def position(bridge: Bridge, topic: str, at: int) -> None:
    async def there() -> bool:
        return row_of(bridge, topic=topic).get("position") == at

    await until(there, f"{topic} is taken in up to {at}")


async def test_what_cannot_be_read_is_a_dead_letter_with_its_place_and_the_rest_goes_on(
    place: Place, kafka: Broker
) -> None:
    topic, source = await kafka.topic(), f"k{uuid.uuid4().hex[:8]}"
    good = [msgspec.json.encode({"event_id": f"{source}-{n}", "data": {"n": n}}) for n in range(4)]
    values = [good[0], b"broken", None, b'{"a":\n', b"\n".join((good[1], b"[1", good[2])), b"", b"\xff\xfe", good[3]]
    headers = [
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tidegate-tenant", b"evil"),
    ]
    await kafka.send(topic, values, headers=headers)
    given = KafkaInput(topic=topic, source=source, tenant="acme")
    async with place.bridge(kafka, inputs=[given]) as bridge:
        await position(bridge, topic, len(values))
        shown = row_of(bridge, topic=topic)
        assert (shown["records"], shown["refused"], shown["empty"], shown["lag (messages)"]) == (7, 2, 1, 0)
    letters = await until(lambda: _letters(place, source, 5), "five dead letters")
    found = {letter.came_from.removeprefix(f"kafka/{topic}/0/"): letter.original for letter in letters}
    assert found == {"1": b"broken", "3": b'{"a":\n', "4": b"[1", "5": b"", "6": b"\xff\xfe"}
    assert {letter.tenant for letter in letters} == {"acme"}
    assert {letter.trace[3:35] for letter in letters} == {"0af7651916cd43dd8448eb211c80319c"}
    events = [event for event in await _events(place) if event["metadata"]["uid"].startswith(f"acme:{source}-")]
    assert sorted(event["metadata"]["uid"][-1] for event in events) == ["0", "1", "2", "3"]
    assert {event["metadata"]["tenant_uid"] for event in events} == {"acme"}


async def _letters(place: Place, source: str, count: int) -> list[Any]:
    found, total = await place.letters.find(source=source)
    return [one.letter for one in found] if total >= count else []


async def _events(place: Place) -> list[dict[str, Any]]:
    lines = [line async for message in place.log.read(subject.event("*")) for line in _lines(message)]
    return [msgspec.json.decode(line) for line in lines]


def _lines(message: Any) -> list[bytes]:
    return frame.split_lines(frame.inflate(message.payload, "zstd", 2**31))


async def test_a_dead_letter_keeps_its_place_when_it_is_tried_again(place: Place, kafka: Broker) -> None:
    topic, source = await kafka.topic(), f"k{uuid.uuid4().hex[:8]}"
    await kafka.send(topic, [b"{}", b"broken"])
    async with place.bridge(kafka, inputs=[KafkaInput(topic=topic, source=source)]) as bridge:
        await position(bridge, topic, 2)
    (letter,) = await until(lambda: _letters(place, source, 1), "a dead letter")
    await place.letters.redrive([letter.id])
    letters = await until(lambda: _letters(place, source, 2), "another one")
    assert {one.came_from for one in letters} == {f"kafka/{topic}/0/1"}


async def test_a_second_writer_of_a_partition_stores_nothing(place: Place) -> None:
    source, topic = f"k{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    packing = Packing(KafkaInput(topic=topic, source=source), JsonReader(), 0, 0)

    class Record:
        value, headers, offset = b'{"a":1}', (), 0

    (step,) = packing.steps([Record], Taken(next=0))
    one, other = Positions(place.bus, "g"), Positions(place.bus, "g")
    before = await one.read(topic, 0)
    assert before == await other.read(topic, 0)
    stored = await one.store(topic, 0, step, before.sequence)
    with pytest.raises(FencedError, match="another process"):
        await other.store(topic, 0, step, before.sequence)
    assert await other.read(topic, 0) == stored
    assert len(await place.frames(source)) == 1


async def test_reading_goes_on_where_it_ended_whatever_kafka_has_noted(place: Place, kafka: Broker) -> None:
    topic, source, group = await kafka.topic(), f"k{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    given = {"inputs": [KafkaInput(topic=topic, source=source)], "group": group}
    await kafka.send(topic, [b'{"a":1}'] * 30)
    async with place.bridge(kafka, **given) as bridge:
        await position(bridge, topic, 30)
    await kafka.send(topic, [b'{"a":2}'] * 5)
    async with place.bridge(kafka, **given) as bridge:
        assert bridge.inputs is not None
        bridge.inputs._commit = _nothing  # type: ignore  # as if it were killed before
        await position(bridge, topic, 35)
    async with place.bridge(kafka, **given) as bridge:
        await position(bridge, topic, 35)
        await asyncio.sleep(0.3)
    assert sum(int(one.headers[frame.COUNT]) for one in await place.frames(source)) == 35


async def _nothing(*_: object) -> None:
    return


async def test_a_topic_that_is_missing_is_named_and_waited_for(place: Place, kafka: Broker) -> None:
    topic, output = uuid.uuid4().hex, uuid.uuid4().hex
    options = {"inputs": [KafkaInput(topic=topic, source="k")], "outputs": [KafkaOutput(topic=output)]}
    async with place.bridge(kafka, **options) as bridge:
        await until(_shows(bridge, f"there is no topic {topic}; create it"), "the input's topic is named")
        await place.bus.publish_atomic(event_messages(0, [_event("x", 0)], "test"))
        await until(_shows(bridge, f"there is no topic '{output}'; create it"), "the output's topic is named")
        await kafka.topic(name=topic)
        await kafka.topic(name=output)
        await kafka.send(topic, [b"{}"])
        await position(bridge, topic, 1)

        async def written() -> bool:
            return len(await kafka.records(output)) > 0

        await until(written, "the event is written")


def _shows(bridge: Bridge, text: str) -> Callable[[], Any]:
    async def shown() -> bool:
        return any(text in row.get("problem", "") for rows in bridge.sections().values() for row in rows)

    return shown


@pytest.mark.parametrize(("count", "ids"), [(40, True), (5, True), (5, False)])
async def test_a_topic_that_was_made_anew_is_not_mistaken_for_the_old_one(
    place: Place, kafka: Broker, monkeypatch: pytest.MonkeyPatch, count: int, ids: bool
) -> None:
    """Neither while it ends before the stored offset, nor, by its id, when it has grown past it."""
    if not ids:
        monkeypatch.setattr("tidegate.edges.kafka.reading.topic_ids", _no_ids)
    topic, source, group = await kafka.topic(), f"k{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    given = {"inputs": [KafkaInput(topic=topic, source=source)], "group": group}
    await kafka.send(topic, [b'{"a":1}'] * 30)
    async with place.bridge(kafka, **given) as bridge:
        await position(bridge, topic, 30)
    await remade(kafka, topic)
    await kafka.send(topic, [b'{"a":2}'] * count)
    async with place.bridge(kafka, **given) as bridge:
        await until(_shows(bridge, "made anew"), "it is refused")
        assert "set kafka.group to another name" in row_of(bridge, topic=topic)["problem"]
        await asyncio.sleep(0.3)
    assert sum(int(one.headers[frame.COUNT]) for one in await place.frames(source)) == 30
    async with place.bridge(kafka, **{**given, "group": uuid.uuid4().hex}) as bridge:
        await position(bridge, topic, count)


async def _no_ids(*_: object) -> dict[str, str]:
    return {}


async def test_a_topic_that_is_made_anew_while_it_is_read_is_noticed(
    place: Place, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.edges.kafka.reading._LOOK_SECONDS", 0.2)
    topic = await kafka.topic()
    await kafka.send(topic, [b'{"a":1}'] * 30)
    async with place.bridge(kafka, inputs=[KafkaInput(topic=topic, source="k")]) as bridge:
        await position(bridge, topic, 30)
        await remade(kafka, topic)
        await until(_shows(bridge, "from a topic with another id: this one was made anew"), "it is refused")


async def remade(kafka: Broker, topic: str) -> None:
    """Deletes it, and makes another one under its name."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    await kafka.topic(name=topic)


async def test_an_output_whose_topic_was_made_anew_is_not_written_on(place: Place, kafka: Broker) -> None:
    topic, run = await kafka.topic(), uuid.uuid4().hex[:8]
    given = {"outputs": [KafkaOutput(topic=topic, types=[run])], "group": "g"}
    await place.bus.publish_atomic(event_messages(1, [_event(run, n, code=run) for n in range(5)], "test"))
    async with place.bridge(kafka, **given):
        await until(lambda: _count(kafka, topic, 5), "five events")
        await asyncio.sleep(1.2)  # it is noted
    await remade(kafka, topic)
    await kafka.send(topic, [b"of others"] * 20)
    await place.bus.publish_atomic(event_messages(1, [_event(run, n, code=run) for n in range(5)], "test"))
    async with place.bridge(kafka, **given) as bridge:
        await until(_shows(bridge, f"{topic} has another id than the topic that was written to"), "it is refused")
    assert len(await kafka.records(topic)) == 20


def _event(uid: str, number: int, class_uid: int = 4003, code: str = "") -> bytes:
    metadata = {
        "version": "1.8.0",
        "product": {"name": "x"},
        "uid": f"{uid}-{number}",
        "correlation_uid": f"{uid}-c{number % 3}",
    }
    event = {"class_uid": class_uid, "category_uid": 4, "activity_id": 1, "type_uid": 400301, "severity_id": 1}
    return msgspec.json.encode(
        event | {"time": 1_700_000_000_000 + number, "metadata": metadata | {"event_code": code}}
    )


async def test_events_go_out_by_type_with_their_key_and_position(place: Place, kafka: Broker) -> None:
    topic, run = await kafka.topic(3), uuid.uuid4().hex[:8]
    lines = [_event(run, n, code=f"{run}.wanted" if n % 2 else "other") for n in range(40)]
    ack = await place.bus.publish_atomic(event_messages(2, lines, "test"))
    async with place.bridge(kafka, outputs=[KafkaOutput(topic=topic, types=[f"{run}.wanted"])]) as bridge:
        await until(lambda: _count(kafka, topic, 20), "twenty events")
        assert row_of(bridge, shard=2)["events"] == 20
    records = await kafka.records(topic)
    assert [record.value for record in records] != []
    by_key: dict[bytes, list[Any]] = {}
    for record in records:
        event = msgspec.json.decode(record.value)
        headers = dict(record.headers)
        assert record.key.decode() == event["metadata"]["correlation_uid"]
        assert headers[EVENT_ID].decode() == event["metadata"]["uid"]
        assert headers[POSITION].decode().split("/")[-1] == f"{ack.seq}#{event['time'] - 1_700_000_000_000}"
        assert record.timestamp == event["time"]
        by_key.setdefault(record.key, []).append((record.partition, event["time"]))
    assert {len({partition for partition, _ in some}) for some in by_key.values()} == {1}
    assert all(some == sorted(some) for some in by_key.values())


async def test_the_client_that_the_page_shows_works(place: Place, kafka: Broker) -> None:
    page = (Path(__file__).parents[2] / "docs/kafka.md").read_text(encoding="utf-8")
    (client,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    eve, detections = await kafka.topic(1), await kafka.topic(1)
    for shown, here in {
        "127.0.0.1:9092": kafka.address,
        '"eve"': f'"{eve}"',
        '"detections"': f'"{detections}"',
    }.items():
        assert shown in client
        client = client.replace(shown, here)
    inputs, outputs = [KafkaInput(topic=eve, source="app")], [KafkaOutput(topic=detections, types=["case.opened"])]
    async with place.bridge(kafka, inputs=inputs, outputs=outputs):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-u", "-c", client, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                line = await process.stdout.readline()
        finally:
            process.kill()
            _, errors = await process.communicate()
    assert line.startswith(b"b'case-7' b'LOG/"), errors


async def test_of_routed_events_a_topic_gets_those_that_are_for_it(place: Place, kafka: Broker) -> None:
    topic, run = await kafka.topic(2), uuid.uuid4().hex[:8]
    lines = [_event(run, n, code="x") for n in range(30)]
    to = (None, Destination(topics=frozenset({topic, "another"})), Destination(topics=frozenset({"another"})))
    for number, destination in enumerate(to):
        messages = event_messages(1, lines[10 * number : 10 * number + 10], "test", "", destination)
        await place.log.append_facts(messages)
    async with place.bridge(kafka, outputs=[KafkaOutput(topic=topic, routed=True)]) as bridge:
        await until(lambda: _count(kafka, topic, 10), "ten events")
        assert row_of(bridge, shard=1)["events"] == 10
    found = sorted(record.value for record in await kafka.records(topic))
    assert found == sorted(lines[10:20])


async def _count(kafka: Broker, topic: str, count: int) -> bool:
    return len(await kafka.records(topic)) >= count


async def test_who_takes_over_finds_what_is_written_and_the_one_before_writes_no_more(
    place: Place, kafka: Broker
) -> None:
    topic, run, shard = await kafka.topic(3), uuid.uuid4().hex[:8], 1
    given = Kafka(brokers=kafka.address, outputs=[KafkaOutput(topic=topic, types=[run])])
    first = (await place.log.state()).last_sequence + 1
    correlation = next(f"{run}-{n}" for n in range(100) if subject.shard_of(f"{run}-{n}", 4) == shard)
    for part in range(3):
        lines = [_event(correlation, 3 * (20 * part + n), code=run) for n in range(20)]
        lines = [line.replace(f"{correlation}-c0".encode(), correlation.encode()) for line in lines]
        await place.bus.publish_atomic(event_messages(shard, lines, "test"))
    frames = [
        Delivered(subject.LOG, one.subject, one.sequence, one.time_ms, 0, 0, one.payload, one.headers)
        async for one in place.log.read(subject.event(shard), first)
    ]
    producing = Producing(given)
    one, other = (OutputWork(given, given.outputs[0], place.log, shard, producing, None) for _ in range(2))
    try:
        await one.recover()
        assert await _committed(one, frames[:1]) == (20, 0)
        assert await _committed(one, frames[1:2]) == (20, 0)
        at = (await other.recover())[subject.LOG]
        assert at == frames[0].sequence  # what was written after its last note is in the topic only
        assert await _committed(other, [frame for frame in frames if frame.sequence > at]) == (20, 20)
        with pytest.raises(FencedError):
            await _committed(one, frames[2:])
    finally:
        await producing.aclose()
    numbers = [msgspec.json.decode(record.value)["time"] for record in await kafka.records(topic)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 60


async def _committed(work: OutputWork, batch: list[Delivered]) -> tuple[int, int]:
    """Events that were written, and that were found."""
    (step,) = [step async for step in work.decide(batch)]
    await work.commit(step)
    return step.decided[2], step.decided[3]


async def test_what_is_late_is_not_sent(kafka: Broker) -> None:
    topic = await kafka.topic()
    producing, batch = Producing(Kafka(brokers=kafka.address)), Batch()
    batch.add(0, b"k", b"v", [])
    try:
        await producing.partitions(topic)
        with pytest.raises(TierUnavailableError):
            await producing.send(topic, {0: batch}, until=time.monotonic() - 0.001)
    finally:
        await producing.aclose()
    assert await kafka.records(topic) == []


async def test_the_doctor_knows_of_kafka(kafka: Broker, settings: Settings) -> None:
    topic = await kafka.topic()
    given = Kafka(brokers=kafka.address, inputs=[KafkaInput(topic=topic, source="s")])
    assert await findings(settings, given) == {"reachable": ("ok", kafka.address), "topics": ("ok", topic)}
    absent = replace(given, outputs=[KafkaOutput(topic="gone")])
    assert (await findings(settings, absent))["topics"] == ("fail", "missing: gone")
    away = replace(given, brokers="127.0.0.1:9")
    assert "no broker answers at 127.0.0.1:9" in (await findings(settings, away))["reachable"][1]
    assert (await findings(settings, replace(given, brokers="x")))["settings"][0] == "fail"
    with registry() as one:
        assert (await findings(settings, replace(given, registry=one.url)))["registry"][
            0
        ] == "fail"  # it has no subjects
    assert (await findings(settings, replace(given, registry="http://127.0.0.1:9")))["registry"][0] == "fail"


async def findings(settings: Settings, given: Kafka) -> dict[str, tuple[str, str]]:
    report = doctor._Report("kafka")
    await doctor._kafka(replace(settings, kafka=given), report)
    return {one.check: (one.result, one.seen) for one in report.findings}


def test_a_bridge_without_brokers_waits_and_with_wrong_settings_says_so(tmp_path: Path) -> None:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "tidegate", "run", "kafka"]
    process = subprocess.Popen(command, env=base, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert "kafka.brokers (KAFKA_BROKERS) is not set" in process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0
    wrong = base | {"KAFKA_BROKERS": "127.0.0.1"}
    done = subprocess.run(command, env=wrong, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "kafka.brokers: '127.0.0.1' is not host:port" in done.stderr
    assert "Traceback" not in done.stderr
