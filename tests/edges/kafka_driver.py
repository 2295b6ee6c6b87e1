"""The driver of Kafka: records of topics become events, and events records of topics.

Nobody is answered here, and no key is shown: whose a topic is, the bridge's settings say. So what other edges answer is
looked up: events in the log, and dead letters where others refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from msgspec.structs import replace

from tests.edges.drivers import Events, Reader
from tests.edges.world import World, app_lines, until
from tests.kafka.broker import Broker
from tidegate import app, subject
from tidegate.actor.cell import running
from tidegate.bus import connect
from tidegate.config import Kafka, KafkaInput, KafkaOutput
from tidegate.deadletters import DeadLetters
from tidegate.edges.kafka.bridge import Bridge, bridged
from tidegate.edges.kafka.writing import POSITION
from tidegate.event import DeadLetter

__all__ = ["KafkaDriver"]

TENANTS = {"root": None, "acme": "acme", "globex": "globex"}
"""Whose records a topic has, by the key that stands for them in the suite."""


class KafkaDriver:
    """A bridge with an input for each of `sources` and key, and an output for each key; a topic has one partition."""

    name = "kafka"

    def __init__(self, world: World, broker: Broker, sources: Sequence[str]) -> None:
        self._world = world
        self._broker = broker
        self._run = uuid.uuid4().hex[:8]
        self._stack = contextlib.AsyncExitStack()
        self._inputs = [
            KafkaInput(topic=self._topic(key, source), source=source, tenant=tenant)
            for source in sources
            for key, tenant in TENANTS.items()
        ]
        self._outputs = [KafkaOutput(topic=self._topic(key, "out"), tenant=tenant) for key, tenant in TENANTS.items()]
        self._sent = dict.fromkeys((one.topic for one in self._inputs), 0)
        self._bridge: Bridge
        self._producer: AIOKafkaProducer
        self._letters: DeadLetters

    def _topic(self, key: str, what: str) -> str:
        return f"{self._run}.{key}.{what}"

    async def __aenter__(self) -> KafkaDriver:
        enter = self._stack.enter_async_context
        admin = AIOKafkaAdminClient(bootstrap_servers=self._broker.address)
        await admin.start()
        topics = [one.topic for one in self._inputs] + [one.topic for one in self._outputs]
        await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
        await admin.close()
        bus = await enter(connect(self._world.settings.nats_url))
        given = Kafka(
            brokers=self._broker.address,
            group=self._run,
            inputs=self._inputs,
            outputs=self._outputs,
            session_timeout_seconds=1.0,
            request_timeout_seconds=3.0,
        )
        settings = replace(self._world.settings, kafka=given)
        self._bridge = await enter(bridged(settings, app.declarations(settings), bus))
        await enter(running(self._bridge.cells))
        assert self._bridge.inputs is not None
        task = asyncio.create_task(self._bridge.inputs.run())
        self._stack.push_async_callback(_ended, task)
        self._producer = AIOKafkaProducer(bootstrap_servers=self._broker.address, acks="all", max_request_size=2**24)
        await enter(self._producer)
        self._letters = DeadLetters(bus, self._world.log)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # -- publishing ---------------------------------------------------------------------------------------------

    async def produce(self, key: str, source: str, *values: bytes, **headers: str) -> None:
        """One record for each of `values`."""
        topic = self._topic(key, source)
        given = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
        futures = [await self._producer.send(topic, value, headers=given) for value in values]
        await asyncio.gather(*futures)
        self._sent[topic] += len(values)

    async def taken_in(self) -> None:
        """Returns when the bridge has taken all that was produced, and the intake has decided on it."""

        async def all_taken() -> bool:
            rows = {row["topic"]: row.get("position", 0) for row in self._bridge.sections()["kafka in"]}
            return all(rows.get(topic, 0) == count for topic, count in self._sent.items())

        await until(all_taken, "all records are taken in", 20)
        bus = self._letters._bus
        ends = [await bus.last_message(subject.INGEST, f"ingest.*.{partition}") for partition in range(4)]

        async def all_decided() -> bool:
            found = [(await self._world.log.progress("intake", partition))[1] for partition in range(4)]
            return all(
                end is None or (one is not None and one.sequence >= end.sequence)
                for end, one in zip(ends, found, strict=True)
            )

        await until(all_decided, "the intake has seen all of them", 20)

    async def outcome(self) -> tuple[dict[str, Events], dict[str, list[DeadLetter]]]:
        """All events and all dead letters in the log, by source."""
        events: dict[str, Events] = defaultdict(list)
        letters: dict[str, list[DeadLetter]] = defaultdict(list)
        async for message in self._world.log.read(subject.event("*")):
            for line in app_lines(message.payload):
                event = json.loads(line)
                events[event["metadata"].get("log_source", "")].append(event)
        for found in (await self._letters.find(limit=100_000))[0]:
            letters[found.letter.source].append(found.letter)
        return events, letters

    # -- subscribing --------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def subscribe(self, key: str, behind: str = "") -> AsyncIterator[Reader]:
        """What the output of `key` gets, from now on, or behind the event at a position (as other edges have it)."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._broker.address, fetch_max_wait_ms=50)
        topic = self._topic(key, "out")
        async with consumer:
            consumer.subscribe([topic])
            while not consumer.assignment():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if behind:
                await consumer.seek_to_beginning()
            else:
                await consumer.seek_to_end()

            class Taking:
                async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
                    found: list[tuple[str, dict[str, Any]]] = []
                    async with asyncio.timeout(15):
                        async for record in consumer:
                            place = dict(record.headers)[POSITION].decode().rpartition("/")[2].replace("#", "-")
                            if not behind or _order(place) > _order(behind):
                                found.append((place, json.loads(record.value)))
                            if len(found) == count:
                                return found
                    return found

            yield Taking()


def _order(position: str) -> tuple[int, int]:
    sequence, _, index = position.removeprefix("LOG/").partition("-")
    return int(sequence), int(index) if index else 2**31


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
