"""A load of events whose ids are known, and what of it is found in the log.

Invariant: an id counts as published only when the server has acknowledged it; each record has exactly one id, and the
ids of one load end in rising numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Self

import msgspec

from tidegate import frame, subject
from tidegate.bus import Bus
from tidegate.errors import PublishError
from tidegate.event import DeadLetter, DeadLetterFact, Envelope
from tidegate.generator import Generator
from tidegate.log import Log, recorded
from tidegate.publisher import Event, Publisher, Receipt

__all__ = ["Found", "Load", "Published", "ids_of"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledged ids held against those found somewhere."""

    acknowledged: int
    lost: int = 0
    doubled: int = 0
    """How many are there more than once too often."""
    strangers: int = 0
    """Found, but never published."""
    reordered: int = 0
    """In the log, within a shard, behind an event of the same load that was stored after it in the same partition."""


class _Metadata(msgspec.Struct):
    uid: str


class _Event(msgspec.Struct):
    metadata: _Metadata


_EVENT = msgspec.json.Decoder(_Event)
_FACT = msgspec.json.Decoder(DeadLetterFact)
_BROKEN = re.compile(rb"^<broken (load-\d+-\d+)>$")


def ids_of(lines: list[bytes]) -> list[str]:
    """The ids of events in OCSF."""
    return [_EVENT.decode(line).metadata.uid for line in lines]


class Published:
    """What became of the ids of one load, which begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.acknowledged: set[str] = set()
        self.broken: set[str] = set()
        """Those of them that are to be dead letters."""
        self.uncertain: set[str] = set()
        """Neither acknowledged nor surely refused: may be there once."""
        self.places: dict[str, tuple[int, int]] = {}
        """Id -> partition and sequence of its receipt."""

    def compare(self, ids: Counter[str], among: set[str], shards: Iterable[list[str]] = ()) -> Found:
        """How `ids`, all from one place that shall hold `among`, compare with what was published.

        `shards` are the ids of the log in order, shard by shard.
        """
        mine = Counter({name: count for name, count in ids.items() if name.startswith(f"{self.prefix}-")})
        return Found(
            acknowledged=len(among),
            lost=len(among - mine.keys()),
            doubled=sum(count - 1 for count in mine.values()),
            strangers=len(mine.keys() - among - self.uncertain),
            reordered=sum(map(self._reordered, shards)),
        )

    def _reordered(self, ids: list[str]) -> int:
        count = 0
        furthest: dict[int, tuple[int, int]] = {}
        for name in ids:
            if name not in self.places:
                continue
            partition, sequence = self.places[name]
            here = (sequence, int(name.rpartition("-")[2]))
            if here < furthest.get(partition, here):
                count += 1
            else:
                furthest[partition] = here
        return count

    @property
    def perfect(self) -> tuple[Found, Found]:
        """What `found_in` must give."""
        return (
            Found(acknowledged=len(self.acknowledged) - len(self.broken)),
            Found(acknowledged=len(self.broken)),
        )

    async def found_in(self, log: Log) -> tuple[Found, Found]:
        """Of the events and of the dead letters in the log."""
        shards: defaultdict[int, list[str]] = defaultdict(list)
        async for message in log.read(subject.event("*")):
            one = recorded(message)
            shards[one.shard] += ids_of(one.lines())
        dead: Counter[str] = Counter()
        async for message in log.read(subject.dead("*")):
            for line in frame.split_lines(frame.inflate(message.payload, "zstd", 2**31)):
                fact = _FACT.decode(line)
                if isinstance(fact, DeadLetter) and (match := _BROKEN.match(fact.original)):
                    dead[match[1].decode()] += 1
        events = Counter(name for ids in shards.values() for name in ids)
        return (
            self.compare(events, self.acknowledged - self.broken, shards.values()),
            self.compare(dead, self.broken),
        )


class Load(Published):
    """Publishes without a pause longer than `pause_seconds`: envelopes of all sources, with ids of their own.

    One in fifty is no JSON and has to end as a dead letter, exactly once like the others. With a `partition`, all go
    there, and those of one source must be stored in the order in which they were published.
    """

    _loads = 0

    def __init__(self, bus: Bus, *, batch: int = 60, pause_seconds: float = 0.02, partition: int | None = None) -> None:
        Load._loads += 1
        super().__init__(f"load-{Load._loads}")
        self._bus = bus
        self._batch = batch
        self._pause = pause_seconds
        self._partition = partition
        self.made = 0
        """Records published, acknowledged or not."""
        self._records = Generator(Load._loads, malformed_share=0)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last: dict[int, int] = {}
        """Partition -> the highest sequence of a receipt."""
        self.overtaken = 0
        """Stored before one of the same source that was published earlier, though order was asked for."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Returns when all that was begun is acknowledged."""
        self._stopping.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task

    async def _run(self) -> None:
        newest: dict[str, int] = {}
        async with Publisher(bus=self._bus, source="load", frame_records=20, partition=self._partition) as publisher:
            while not self._stopping.is_set():
                events, ids, broken = self._make()
                try:
                    receipts = await publisher.publish_many(events)
                except PublishError:
                    self.uncertain.update(ids)
                else:
                    self.acknowledged.update(ids)
                    self.broken |= broken
                    self._note(events, ids, receipts, newest)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._pause)

    def _note(self, events: list[Event], ids: list[str], receipts: list[Receipt], newest: dict[str, int]) -> None:
        for event, name, one in zip(events, ids, receipts, strict=True):
            self.places[name] = (one.partition, one.sequence)
            self.last[one.partition] = max(one.sequence, self.last.get(one.partition, 0))
            if self._partition is not None:
                source = (event.source if isinstance(event, Envelope) else None) or ""
                self.overtaken += one.sequence < newest.get(source, 0)
                newest[source] = max(one.sequence, newest.get(source, 0))

    def _make(self) -> tuple[list[Event], list[str], set[str]]:
        events: list[Event] = []
        ids: list[str] = []
        broken = set()
        for record in self._records.records(self._batch):
            self.made += 1
            name = f"{self.prefix}-{self.made}"
            ids.append(name)
            if self.made % 50:
                events.append(Envelope(event_id=name, source=record.source, data=msgspec.Raw(record.data)))
            else:
                events.append(f"<broken {name}>")
                broken.add(name)
        return events, ids, broken
