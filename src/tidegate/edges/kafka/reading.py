"""Topics in: a member of a consumer group that takes records from where the ingest stream itself says they end.

Invariant: a partition is read from its stored position on, whatever Kafka has noted; after any doubt (an error, a
rebalance, another's write) the position is read anew before the next record is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from msgspec.structs import replace

from tidegate import telemetry
from tidegate.bus import Bus
from tidegate.config import Kafka
from tidegate.edges.kafka.client import KAFKA, options, started, stopped, told
from tidegate.edges.kafka.formats import Reader, reader
from tidegate.edges.kafka.frames import Packing
from tidegate.edges.kafka.identity import topic_ids
from tidegate.edges.kafka.positions import Place, Positions
from tidegate.edges.kafka.registry import Registry
from tidegate.errors import (
    BusError,
    BusUnavailableError,
    FencedError,
    PositionError,
    TidegateError,
    TierUnavailableError,
)
from tidegate.event import Taken

__all__ = ["Inputs"]

_LOOK_SECONDS = 3.0
"""How often it is looked which topics there are, and whether a broker answers."""
_COMMIT_SECONDS = 1.0
_AGAIN_SECONDS = 5.0
"""Before a partition that is refused is looked at again."""
_MOST_PAUSE = 5.0


class _Partition:
    """One partition that the group has given to this process."""

    def __init__(self, packing: Packing, reader: Reader) -> None:
        self.packing = packing
        self.reader = reader
        self.place: Place | None = None
        """None: to be read before anything else."""
        self.next = 0
        self.committed = 0
        """What Kafka was told."""
        self.problem = ""
        self.not_before = 0.0


class Inputs(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Takes all input topics in, together with the other members of the group."""

    def __init__(self, settings: Kafka, bus: Bus, partitions: int, registry: Registry | None) -> None:
        self._settings = settings
        self._bus = bus
        self._ingest_partitions = partitions
        self._positions = Positions(bus, settings.group)
        self._given = {one.topic: one for one in settings.inputs}
        self._readers = {one.topic: reader(one.format, registry) for one in settings.inputs}
        self._consumer: Any = None
        self._here: dict[TopicPartition, _Partition] = {}
        self._absent: set[str] = set()
        self._ids: dict[str, str] = {}
        """Of the topics that are there, as far as the broker has any."""
        self.problem = "starting"
        """Why nothing at all is read; empty: it is."""

    # -- what the group tells -----------------------------------------------------------------------------------

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        for one in revoked:
            self._here.pop(one, None)

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for one in assigned:
            # The same partition always leads to the same subject: its records stay in order.
            to = zlib.crc32(f"{one.topic}/{one.partition}".encode()) % self._ingest_partitions
            its = self._readers[one.topic]
            self._here[one] = _Partition(Packing(self._given[one.topic], its, one.partition, to), its)

    # -- the loop -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        pause = 0.1
        while True:
            began = time.monotonic()
            try:
                await self._membership()
            except (TierUnavailableError, BusError, BusUnavailableError) as error:
                pause = 0.1 if time.monotonic() - began > _MOST_PAUSE else min(pause * 2, _MOST_PAUSE)
                self.problem = str(error)
                telemetry.emit(telemetry.KafkaWaiting(problem=self.problem, retry_in_seconds=pause))
            await asyncio.sleep(pause)

    async def _membership(self) -> None:
        consumer = self._consumer = AIOKafkaConsumer(
            **options(self._settings),
            group_id=self._settings.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self._settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_seconds * 300),
            max_partition_fetch_bytes=4 * 1024 * 1024,
            isolation_level="read_committed",
        )
        try:
            with told(self._settings, "connecting"):
                await started(self._settings, consumer.start)
                await self._read(consumer)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._commit(consumer)
            await stopped(consumer)
            self._here.clear()

    async def _read(self, consumer: Any) -> None:
        looked = committed = -_LOOK_SECONDS
        while True:
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS:
                await self._look(consumer)
                looked = now
            if self._absent >= self._given.keys():
                await asyncio.sleep(0.2)
                continue
            await self._settle(consumer)
            found: dict[TopicPartition, Sequence[Any]] = {}
            # While the group is being shared out, it waits whatever timeout it is given. It takes records out of its
            # buffer after its last wait, so that none are lost when it is cancelled.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    found = await consumer.getmany(timeout_ms=100, max_records=self._settings.batch_records)
            if found:
                await asyncio.gather(*(self._take(one, records) for one, records in found.items()))
            if now - committed >= _COMMIT_SECONDS:
                await self._commit(consumer)
                committed = now

    async def _look(self, consumer: Any) -> None:
        """Read the topics that are there; say which are not. None is created by asking for all of them."""
        with told(self._settings, "listing topics"):
            there = await consumer.topics()
            self._ids = await topic_ids(consumer._client, sorted(self._given.keys() & there))
        absent = self._given.keys() - there
        if absent != self._absent or not consumer.subscription():
            present = sorted(self._given.keys() - absent)
            if present:
                consumer.subscribe(present, listener=self)
        self._absent = set(absent)
        if absent:
            names = ", ".join(sorted(absent))
            problem = f"{KAFKA}: there is no topic {names}; create it, or correct kafka.inputs"
            if problem != self.problem:
                telemetry.emit(telemetry.KafkaWaiting(problem=problem, retry_in_seconds=_LOOK_SECONDS))
            self.problem = problem
        else:
            self.problem = ""
        for one, here in list(self._here.items()):
            if here.place is not None and not self._remade(one, here, here.place):
                if (end := consumer.highwater(one)) is None:
                    continue
                if end < here.next:
                    self._beyond(one, here, end)
                else:
                    here.problem = ""

    # -- positions ----------------------------------------------------------------------------------------------

    async def _settle(self, consumer: Any) -> None:
        """Go to the stored position of each partition that has none here."""
        now = time.monotonic()
        for one, here in list(self._here.items()):
            if here.place is None and here.not_before <= now:
                try:
                    async with asyncio.timeout(self._settings.request_timeout_seconds * 2):
                        await self._go(consumer, one, here)
                except (BusError, BusUnavailableError) as error:
                    self._doubt(one, here, error, pause=0.5)

    async def _go(self, consumer: Any, one: TopicPartition, here: _Partition) -> None:
        place = await self._positions.read(one.topic, one.partition)
        first = (await consumer.beginning_offsets([one]))[one]
        if place.taken is not None:
            here.next = place.taken.next
        else:
            here.next = await consumer.committed(one) or first
        if self._here.get(one) is not here or one not in consumer.assignment() or self._remade(one, here, place):
            return
        self._note_gap(one, here, first)
        here.place = place
        consumer.seek(one, here.next)
        consumer.resume(one)

    @staticmethod
    def _note_gap(one: TopicPartition, here: _Partition, first: int) -> None:
        if here.next < first:
            telemetry.emit(
                telemetry.KafkaGap(topic=one.topic, partition=one.partition, lost=first - here.next, first=first)
            )
            here.next = first

    def _remade(self, one: TopicPartition, here: _Partition, place: Place) -> bool:
        """Whether the position is of another topic, of the same name: then it is refused."""
        stored = place.taken.topic_id if place.taken else ""
        if not stored or self._ids.get(one.topic, stored) == stored:
            return False
        error = PositionError(
            f"{one.topic}/{one.partition} was taken in up to {here.next}, but from a topic with another id: this one"
            " was made anew. To take in what is there now, set kafka.group to another name"
        )
        self._doubt(one, here, error, pause=_AGAIN_SECONDS)
        return True

    def _beyond(self, one: TopicPartition, here: _Partition, end: int) -> None:
        """The topic ends before what was taken in: aiokafka has gone to its beginning."""
        error = PositionError(
            f"{one.topic}/{one.partition} ends at {end}, but was taken in up to {here.next}: the topic was made anew or"
            " has lost records. To take in what is there now, set kafka.group to another name"
        )
        self._doubt(one, here, error, pause=_AGAIN_SECONDS)

    def _doubt(self, one: TopicPartition, here: _Partition, error: TidegateError, pause: float) -> None:
        here.place, here.problem = None, str(error)
        here.not_before = time.monotonic() + pause
        telemetry.emit(telemetry.KafkaWaiting(problem=here.problem, retry_in_seconds=pause))
        if self._here.get(one) is here and one in self._consumer.assignment():
            self._consumer.pause(one)

    # -- records ------------------------------------------------------------------------------------------------

    async def _take(self, one: TopicPartition, records: Sequence[Any]) -> None:
        here = self._here.get(one)
        if here is None or here.place is None:
            return  # they come again once the position is known
        if records[0].offset < here.next:
            self._beyond(one, here, self._consumer.highwater(one) or 0)
            return
        if records[0].offset > here.next:
            # Offsets are left out by compaction and by transactions; and where a topic has dropped its oldest.
            self._note_gap(one, here, (await self._consumer.beginning_offsets([one]))[one])
        try:
            await here.reader.prepare([record.value for record in records if record.value is not None])
            taken = here.place.taken or Taken(next=here.next)
            taken = replace(taken, topic_id=self._ids.get(one.topic, taken.topic_id))
            for step in here.packing.steps(records, taken):
                began = time.monotonic()
                before = here.place.taken or Taken(next=0)
                here.place = await self._positions.store(one.topic, one.partition, step, here.place.sequence)
                here.next, here.problem = step.taken.next, ""
                telemetry.emit(
                    telemetry.KafkaTaken(
                        topic=one.topic,
                        partition=one.partition,
                        messages=step.taken.messages - before.messages,
                        records=step.taken.records - before.records,
                        refused=step.taken.refused - before.refused,
                        empty=step.taken.empty - before.empty,
                        seconds=time.monotonic() - began,
                    )
                )
        except (BusError, BusUnavailableError, FencedError, TierUnavailableError) as error:
            self._doubt(one, here, error, pause=0.5)

    async def _commit(self, consumer: Any) -> None:
        """Tell Kafka too, for those who look there: what counts is what is stored."""
        moved = {
            one: here.next for one, here in self._here.items() if here.place is not None and here.next > here.committed
        }
        if moved:
            try:
                await consumer.commit(moved)
            except (KafkaError, IllegalStateError):
                return  # the group is being shared out anew, or no broker is there; the next time, then
            for one, offset in moved.items():
                if one in self._here:
                    self._here[one].committed = offset

    # -- status -------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """For people: where each partition stands."""
        rows: list[dict[str, Any]] = []
        for one, here in sorted(self._here.items()):
            end = None
            with contextlib.suppress(Exception):
                end = self._consumer.highwater(one)
            taken = here.place.taken if here.place and here.place.taken else Taken(next=here.next)
            rows.append(
                {
                    "topic": one.topic,
                    "partition": one.partition,
                    "position": here.next,
                    "lag (messages)": max(0, end - here.next) if end is not None else None,
                    "records": taken.records,
                    "refused": taken.refused,
                    "empty": taken.empty,
                    "problem": (here.problem or self.problem)[:200],
                }
            )
        if self.problem and not rows:
            rows.append({"topic": ", ".join(sorted(self._given)), "problem": self.problem[:200]})
        return rows
