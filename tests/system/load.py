"""A load of events whose ids are known, and what of it is found in the log.

Invariant: an id counts as published only when the server has acknowledged it; each record has exactly one id.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from typing import Self

import msgspec

from tests.system.harness import until
from tidegate import frame
from tidegate.bus import Bus
from tidegate.errors import PublishError
from tidegate.event import DeadLetter, DeadLetterFact, Envelope
from tidegate.generator import Generator
from tidegate.log import Log, recorded
from tidegate.publisher import Event, Publisher
from tidegate.subject import Declarations

__all__ = ["Found", "Load", "in_log"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledged ids held against those found somewhere."""

    acknowledged: int
    lost: int = 0
    doubled: int = 0
    """How many are there more than once too often."""
    strangers: int = 0
    """Found, but never published."""


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


class Load:
    """Publishes without a pause longer than `pause_seconds`: envelopes of all sources, with ids of their own.

    One in fifty is no JSON and has to end as a dead letter, exactly once like the others.
    """

    _loads = 0

    def __init__(self, bus: Bus, *, batch: int = 60, pause_seconds: float = 0.02) -> None:
        Load._loads += 1
        self.prefix = f"load-{Load._loads}"
        self._bus = bus
        self._batch = batch
        self._pause = pause_seconds
        self._made = 0
        self._records = Generator(Load._loads, malformed_share=0)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.acknowledged: set[str] = set()
        self.broken: set[str] = set()
        """Those of them that are to be dead letters."""
        self.uncertain: set[str] = set()
        """Neither acknowledged nor surely refused: may be there once."""
        self.last: dict[int, int] = {}
        """Partition -> the highest sequence of a receipt."""

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
        async with Publisher(bus=self._bus, source="load", frame_records=20) as publisher:
            while not self._stopping.is_set():
                events, ids, broken = self._make()
                try:
                    receipts = await publisher.publish_many(events)
                except PublishError:
                    self.uncertain |= ids
                else:
                    self.acknowledged |= ids
                    self.broken |= broken
                    for one in receipts:
                        self.last[one.partition] = max(one.sequence, self.last.get(one.partition, 0))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._pause)

    def _make(self) -> tuple[list[Event], set[str], set[str]]:
        events: list[Event] = []
        ids, broken = set(), set()
        for record in self._records.records(self._batch):
            self._made += 1
            name = f"{self.prefix}-{self._made}"
            ids.add(name)
            if self._made % 50:
                events.append(Envelope(event_id=name, source=record.source, data=msgspec.Raw(record.data)))
            else:
                events.append(f"<broken {name}>")
                broken.add(name)
        return events, ids, broken

    def compare(self, ids: Counter[str], among: set[str]) -> Found:
        """How `ids`, all from one place that shall hold `among`, compare with what was published."""
        mine = Counter({name: count for name, count in ids.items() if name.startswith(f"{self.prefix}-")})
        return Found(
            acknowledged=len(among),
            lost=len(among - mine.keys()),
            doubled=sum(count - 1 for count in mine.values()),
            strangers=len(mine.keys() - among - self.uncertain),
        )

    async def found_in(self, log: Log) -> tuple[Found, Found]:
        """Of the events and of the dead letters in the log."""
        events: Counter[str] = Counter()
        async for message in log.read("log.event.*"):
            events.update(ids_of(recorded(message).lines()))
        dead: Counter[str] = Counter()
        async for message in log.read("log.dead.*"):
            for line in frame.split_lines(frame.inflate(message.payload, "zstd", 2**31)):
                fact = _FACT.decode(line)
                if isinstance(fact, DeadLetter) and (match := _BROKEN.match(fact.original)):
                    dead[match[1].decode()] += 1
        return self.compare(events, self.acknowledged - self.broken), self.compare(dead, self.broken)

    @property
    def perfect(self) -> tuple[Found, Found]:
        """What `found_in` must give."""
        return (
            Found(acknowledged=len(self.acknowledged) - len(self.broken)),
            Found(acknowledged=len(self.broken)),
        )


async def in_log(bus: Bus, declared: Declarations, load: Load, timeout_seconds: float = 60) -> None:
    """Returns when everything that was acknowledged has been through the intake."""
    log = Log(bus, declared.shards)

    async def done() -> bool:
        for partition, sequence in load.last.items():
            _, progress = await log.progress("intake", partition)
            if progress is None or progress.sequence < sequence:
                return False
        return True

    await until(done, timeout_seconds, "the intake has taken in all that was acknowledged")
