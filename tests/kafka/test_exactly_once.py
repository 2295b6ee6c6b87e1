"""Bridges, NATS and the broker are killed (-9), paused and started again; then each record is there exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.kafka.broker import Broker, HoleError, broker
from tests.system.harness import System, system, until
from tidegate import frame
from tidegate.config import Kafka, KafkaInput, KafkaOutput
from tidegate.edges.kafka.writing import EVENT_ID
from tidegate.reader import read

pytestmark = pytest.mark.anyio
PARTITIONS = 4


def settings(one: Broker, topics: tuple[str, str]) -> Kafka:
    return Kafka(
        brokers=one.address,
        inputs=[KafkaInput(topic=topics[0], source="billing")],
        outputs=[KafkaOutput(topic=topics[1])],
        session_timeout_seconds=2.0,
        request_timeout_seconds=3.0,
        batch_records=50,
    )


class Load:
    """Sends numbered envelopes until it is stopped."""

    def __init__(self, one: Broker, topic: str) -> None:
        self._broker = one
        self._topic = topic
        self._ending = asyncio.Event()
        self.sent = 0

    async def run(self) -> None:
        async with self._broker.producer() as producer:
            while not self._ending.is_set():
                waiting = []
                for number in range(self.sent, self.sent + 40):
                    envelope = {"event_id": f"e-{number}", "correlation_id": f"c-{number % 7}", "data": {"n": number}}
                    partition = number % 7 % PARTITIONS
                    waiting.append(await producer.send(self._topic, msgspec.json.encode(envelope), partition=partition))
                await asyncio.gather(*waiting)
                self.sent += 40
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            self._ending.set()
            await task


async def taken(one: System) -> Counter[str]:
    """How often each record is in the ingest stream."""
    found: Counter[str] = Counter()
    async with one.bus() as bus:
        state = await bus.stream("INGEST")
        async for message in read(bus, "INGEST", "ingest.*.*", 1, state.last_sequence):
            encoding = message.headers.get(frame.CONTENT_ENCODING, "")
            _, lines = frame.open_frame(message.payload, message.headers[frame.CONTENT_TYPE], encoding, 2**31)
            found.update(msgspec.json.decode(line)["event_id"] for line in lines)
    return found


async def all_there_once(one: System, kafka: Broker, topic: str, sent: int) -> None:
    """In the ingest stream and in the output's topic, there in the order of each correlation."""
    expected = Counter(f"e-{number}" for number in range(sent))

    async def arrived() -> bool:
        return len(await kafka.records(topic)) >= sent

    await until(arrived, 40, f"{sent} events are in {topic}")
    await asyncio.sleep(0.5)  # what came twice would come now
    assert await taken(one) == expected
    records = await kafka.records(topic)
    ids = [dict(record.headers)[EVENT_ID].decode() for record in records]
    assert Counter(ids) == expected
    for correlation in range(7):
        numbers = [int(name[2:]) for name in ids if int(name[2:]) % 7 == correlation]
        assert numbers == sorted(numbers)


async def test_each_record_comes_and_goes_exactly_once_while_two_bridges_and_nats_are_killed(tmp_path: Path) -> None:
    dice = random.Random(5)
    with broker(tmp_path) as kafka, system(tmp_path, kafka=Kafka(brokers=kafka.address)) as one:
        topics = await kafka.topic(PARTITIONS), await kafka.topic(3)
        one.change(kafka=settings(kafka, topics))
        nats = one.serve("nats")
        await one.ready()
        async with one.bus():
            pass
        one.run("transformation-pipeline")
        bridges = [one.run("kafka", name=f"kafka-{number}") for number in (1, 2)]
        await one.ready()
        load = Load(kafka, topics[0])
        async with load.running():
            await asyncio.sleep(2)
            for number in range(4):
                target = bridges[number % 2] if number != 2 else nats
                target.kill()
                await asyncio.sleep(dice.uniform(0, 0.7))
                target.start()
                await target.ready()
                await asyncio.sleep(dice.uniform(0.5, 2.5))
        await all_there_once(one, kafka, topics[1], load.sent)
        assert load.sent > 1000


async def test_nothing_is_lost_or_doubled_while_the_broker_is_paused_killed_and_started_again(tmp_path: Path) -> None:
    for number in range(3):
        with contextlib.suppress(HoleError):
            await paused_killed_and_started_again(tmp_path / str(number))
            return
    pytest.skip("killed three times, the broker has each time come back with an end that it has no records up to")


async def paused_killed_and_started_again(tmp_path: Path) -> None:
    with system(tmp_path) as one:
        nats, s3 = one.serve("nats"), one.serve("s3")
        await asyncio.gather(nats.ready(), s3.ready())
        async with one.bus():
            pass
        with broker(tmp_path, storage="s3://tansu/", variables=await bucket(one)) as kafka:
            topics = await kafka.topic(PARTITIONS), await kafka.topic(3)
            one.change(kafka=settings(kafka, topics))
            one.run("transformation-pipeline")
            load = Load(kafka, topics[0])
            async with load.running():
                await asyncio.sleep(3)
            bridge = one.run("kafka")

            async def begun() -> bool:
                return len(await kafka.records(topics[1])) > 0

            await until(begun, 30, "the first events are written")
            kafka.signal(signal.SIGSTOP)
            await asyncio.sleep(4)  # longer than requests to it may take
            kafka.signal(signal.SIGCONT)
            await asyncio.sleep(0.3)
            kafka.kill()

            async def noticed() -> bool:
                return "no broker answers" in str(await bridge.status())

            await until(noticed, 15, "the bridge says that no broker answers")
            kafka.start()
            kafka.ready()
            again = Load(kafka, topics[0])
            again.sent = load.sent
            async with again.running():
                await asyncio.sleep(2)
            await all_there_once(one, kafka, topics[1], again.sent)


async def bucket(one: System) -> dict[str, str]:
    """Makes a bucket for a broker; what tells the broker where it is."""
    import aioboto3

    s3 = one.settings.s3
    keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key, "region_name": s3.region}
    async with aioboto3.Session(**keys).client("s3", endpoint_url=one.settings.s3_endpoint) as client:
        await client.create_bucket(Bucket="tansu")
    variables = {"AWS_ENDPOINT": one.settings.s3_endpoint, "AWS_ALLOW_HTTP": "true", "AWS_DEFAULT_REGION": s3.region}
    return {name.upper(): value for name, value in keys.items() if name != "region_name"} | variables
