"""Writing batches to the partitions of a topic, and looking at what is at their ends.

Invariant: a batch is sent once. aiokafka's own producer sends again by itself when a connection breaks, and without
idempotence, which not every broker has, what was stored before the break is then there twice; so the requests are made
here, and whoever gets an error looks at the ends of the topic before he sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import LeaderNotAvailableError, NodeNotReadyError, RequestTimedOutError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from tidegate.config import Kafka
from tidegate.edges.kafka.client import KAFKA, missing, options, started, stopped, told
from tidegate.edges.kafka.identity import topic_ids
from tidegate.errors import TierUnavailableError

__all__ = ["Batch", "Producing"]

BATCH_BYTES = 900_000
"""Kafka's default for max.message.bytes is 1,048,588."""
_ALL = -1


class Batch:
    """Records for one partition, in Kafka's format (magic 2)."""

    def __init__(self) -> None:
        self._builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=BATCH_BYTES,
        )
        self.count = 0

    def add(self, time_ms: int, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> bool:
        """False: it is full. The first record is always taken."""
        if self._builder.append(self.count, timestamp=time_ms, key=key, value=value, headers=headers) is None:
            return False
        self.count += 1
        return True

    def encoded(self) -> bytes:
        """Once only."""
        return bytes(self._builder.build())


class Producing:
    """One client for all outputs of a process."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        self._client: Any = None
        self._lock = asyncio.Lock()

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await stopped(client)

    async def _connected(self) -> Any:
        async with self._lock:
            if self._client is None:
                client = AIOKafkaClient(**options(self._settings))
                try:
                    await started(self._settings, client.bootstrap)
                except BaseException:
                    await stopped(client)
                    raise
                self._client = client
            return self._client

    async def partitions(self, topic: str) -> list[int]:
        """Raises TierUnavailableError, also when the topic is not there."""
        with told(self._settings, f"looking at {topic}"):
            client = await self._connected()
            found = client.cluster.partitions_for_topic(topic)
            if not found:
                # Asked for by name, some brokers would make it.
                if topic not in (await client.fetch_all_metadata()).topics():
                    raise missing(topic)
                client.add_topic(topic)
                await client.force_metadata_update()
                found = client.cluster.partitions_for_topic(topic)
            if not found:
                raise missing(topic)
            return sorted(found)

    async def topic_id(self, topic: str) -> str:
        """Empty where the broker has none. Raises TierUnavailableError."""
        with told(self._settings, f"looking at {topic}"):
            return (await topic_ids(await self._connected(), [topic])).get(topic, "")

    async def send(self, topic: str, batches: Mapping[int, Batch], until: float = math.inf) -> dict[int, int]:
        """Partition -> offset of the first record of its batch, once all replicas in sync have it.

        What is not on its way by `until` (of `time.monotonic`) is not sent any more. Raises TierUnavailableError; then
        any of the batches may, or may still, be stored.
        """
        with told(self._settings, f"writing to {topic}"):
            client = await self._connected()
            by_leader: dict[int, list[tuple[int, bytes]]] = {}
            for partition, batch in batches.items():
                leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
                if leader is None or leader < 0:
                    await client.force_metadata_update()
                    raise LeaderNotAvailableError(f"{topic}/{partition}")
                by_leader.setdefault(leader, []).append((partition, batch.encoded()))
            answers = await asyncio.gather(
                *(self._ask(client, leader, topic, some, until) for leader, some in by_leader.items())
            )
        return {partition: offset for one in answers for partition, offset in one.items()}

    async def _ask(
        self, client: Any, leader: int, topic: str, batches: list[tuple[int, bytes]], until: float
    ) -> dict[int, int]:
        timeout_ms = int(self._settings.request_timeout_seconds * 1000)
        request = ProduceRequest(
            transactional_id=None, required_acks=_ALL, timeout=timeout_ms, topics=[(topic, batches)]
        )
        if not await client.ready(leader):
            raise NodeNotReadyError(f"broker {leader}")
        # From here to the socket nothing waits: only a process that is stopped within this step is late unnoticed.
        if time.monotonic() > until:
            raise RequestTimedOutError("too late to begin")
        response = await client.send(leader, request)
        offsets: dict[int, int] = {}
        for _, partitions in response.topics:
            for partition, code, offset, *_ in partitions:
                if code:
                    error = for_code(code)()
                    if getattr(error, "invalid_metadata", False):
                        client.force_metadata_update()
                    raise error
                offsets[partition] = offset
        return offsets

    # -- the ends -----------------------------------------------------------------------------------------------

    async def ends(self, topic: str) -> dict[int, int]:
        """Partition -> an offset that its next record will not be before."""
        async with self._looking(topic) as (consumer, places):
            return {one.partition: end for one, end in (await consumer.end_offsets(places)).items()}

    async def since(self, topic: str, starts: Mapping[int, int]) -> AsyncGenerator[Any, None]:
        """The records of all partitions, from these offsets (0 where there is none) to the present ends.

        Raises TierUnavailableError, and ValueError where a partition ends before its start.
        """
        async with self._looking(topic) as (consumer, places):
            firsts, lasts = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            wanted = {one: starts.get(one.partition, 0) for one in places}
            for one, start in wanted.items():
                consumer.seek(one, max(firsts[one], min(start, lasts[one])))
            # Seen with Tansu: asked for a partition's end, it tells the offset behind the *first* record of the last
            # batch. What comes along with records is right.
            ends: dict[TopicPartition, int] = {}
            left = set(places)
            moved = time.monotonic()
            while left:
                found = await consumer.getmany(timeout_ms=100)
                if found:
                    moved = time.monotonic()
                elif time.monotonic() - moved > self._settings.request_timeout_seconds:
                    # Seen with Tansu on S3, after a kill: it tells of a batch that it has not stored.
                    told_of = ", ".join(f"partition {one.partition} ends at {ends.get(one)}" for one in left)
                    raise TierUnavailableError(
                        KAFKA, f"{topic} cannot be read to its end: {told_of}, but no more comes"
                    )
                for one in left - ends.keys():
                    if (end := consumer.highwater(one)) is not None:
                        ends[one] = end
                        if wanted[one] > end:
                            raise ValueError(
                                f"{topic}/{one.partition} ends at {end}, but was written up to {wanted[one]}"
                            )
                for one, records in found.items():
                    for record in records:
                        if record.offset >= wanted[one]:
                            yield record
                # The position also passes what is no record, such as the marks of transactions.
                left = {one for one in left if one not in ends or await consumer.position(one) < ends[one]}

    @contextlib.asynccontextmanager
    async def _looking(self, topic: str) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
        places = [TopicPartition(topic, partition) for partition in await self.partitions(topic)]
        with told(self._settings, f"looking at the end of {topic}"):
            consumer = AIOKafkaConsumer(
                **options(self._settings),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=50,
            )
            try:
                await started(self._settings, consumer.start)
                consumer.assign(places)
                yield consumer, places
            finally:
                await stopped(consumer)
