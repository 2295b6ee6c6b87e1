"""How far each partition has been taken in: stored in the ingest stream, in one atomic batch with the frames.

Invariant: a step is stored only behind the one before it. Whoever has read an older position stores nothing, so after
any interruption, and while two processes believe that they own a partition, no record is lost or doubled.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tidegate import frame, subject
from tidegate.bus import WRONG_LAST_SEQUENCE, Bus, Outgoing
from tidegate.edges.kafka.frames import Step
from tidegate.errors import BusError, FencedError
from tidegate.event import Taken

__all__ = ["Place", "Positions"]

_TIDY = 200
"""Older positions are removed after so many steps."""


class Place(NamedTuple):
    """Where a partition stands."""

    sequence: int
    """Of the position in the ingest stream; 0 for none."""
    taken: Taken | None


class Positions:
    """The positions of one consumer group."""

    def __init__(self, bus: Bus, group: str) -> None:
        self._bus = bus
        self._group = group
        self._steps = 0

    def _subject(self, topic: str, partition: int) -> str:
        # A dot would begin another token; no topic and no group has a `=` in its name.
        return subject.taken("kafka", f"{self._group}/{topic}/{partition}".replace(".", "="))

    async def read(self, topic: str, partition: int) -> Place:
        """The newest. Raises BusUnavailableError."""
        found = await self._bus.last_message(subject.INGEST, self._subject(topic, partition))
        if found is None:
            return Place(0, None)
        return Place(found.sequence, msgspec.json.decode(found.payload, type=Taken))

    async def store(self, topic: str, partition: int, step: Step, expected: int) -> Place:
        """Store the step behind the position at sequence `expected`. Raises FencedError when it is not the newest."""
        name = self._subject(topic, partition)
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            # nats-server 2.12: kept beyond the stream's max_age. A partition may be idle for longer than that.
            "Nats-TTL": "never",
            frame.SCHEMA: "taken.v1",
        }
        position = Outgoing(name, msgspec.json.encode(step.taken), headers)
        try:
            ack = await self._bus.publish_atomic([*step.messages, position])
        except BusError as error:
            if error.code == WRONG_LAST_SEQUENCE:
                problem = "another process has taken records of this partition in meanwhile"
                raise FencedError(f"kafka {topic}/{partition}", problem) from error
            raise
        self._steps += 1
        if self._steps % _TIDY == 1:
            await self._bus.purge(subject.INGEST, name, ack.seq)
        return Place(ack.seq, step.taken)
