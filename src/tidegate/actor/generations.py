"""Generations of a kind of entity: its changes derived anew from history, as by other rules, and one taking over.

Invariant: of the generations of a kind one decides on commands and new events. The others' progress records say that
they do not serve, and writing that down is what fences the one that did out, before the next one begins.

A later generation `n` keeps its changes on `log.<kind>.g<n>.<shard>`. What it derives from history carries the header
`AGAIN`: it is no news to anybody, so no alert is raised a second time. What people have commanded is in no event; it is
taken from the changes of the generation that serves, and decided on anew at its time among the events.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidegate import frame, history, subject
from tidegate.actor.entity import Command, Entity
from tidegate.actor.host import AGAIN, Bus, EntityProgress, EntityWork
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Outgoing
from tidegate.errors import FencedError
from tidegate.history import Archive
from tidegate.log import Log, lines_of, progress_message

__all__ = ["GenerationWork"]

_PEOPLE = "PEOPLE"
"""In positions, as if it were a stream: up to which line of the other generation's changes commands were taken over."""


def _place(sequence: int, line: int) -> int:
    return sequence << 20 | line


class GenerationWork(EntityWork):
    """One generation of a kind, in one shard; as the work of a cell it begins by taking over from the one before."""

    def __init__(
        self, bus: Bus, log: Log, entity: Entity[Any, Any, Any], shard: int, generation: int, *, limit: int = 8_000
    ) -> None:
        super().__init__(bus, log, entity, shard, limit=limit, name=subject.generation_of(entity.kind, generation))
        self.generation = generation
        self._deriving = False
        self._last_ms = 0
        """When the log stored the frame that was derived from last."""

    async def recover(self) -> Positions:
        """Raises FencedError while another generation serves."""
        await self.load()
        _, fact = await self._log.generation(self._entity.kind)
        if fact.active != self.generation:
            raise FencedError(self._cell, f"generation {fact.active} serves, not {self.generation}")
        if not self._progress.serves and fact.previous is not None:
            await self._take_over(subject.generation_of(self._entity.kind, fact.previous))
        return self._progress.positions

    async def load(self) -> None:
        """The states as of the last progress record, whether it serves or not."""
        await super().recover()

    async def _take_over(self, source: str) -> None:
        """Fence the other one out, take in what it had, and serve. What is interrupted, the next call goes on with."""
        sequence, found = await self._log.newest(source, self._shard, EntityProgress)
        if found is None:
            found = EntityProgress(created=self._progress.created, positions=dict.fromkeys(self._streams, 0))
        sealed = msgspec.structs.replace(found, serves=False)
        if found.serves:
            sequence = await self._log.append(source, self._shard, [], sealed, sequence)
        await self.derive(source, sequence, sealed)
        serving = msgspec.structs.replace(
            self._decided, serves=True, positions={name: sealed.positions[name] for name in self._streams}
        )
        # Should the other one serve again, it has to take over what people command from here on.
        resumable = msgspec.structs.replace(
            sealed, positions={**sealed.positions, _PEOPLE: _place(self._expected + 1, 0)}
        )
        note = progress_message(source, self._shard, resumable, sequence)
        self._expected = await self._log.append(self.name, self._shard, [note], serving, self._expected)
        self._progress = self._decided = serving
        self._folded = self._expected

    # -- deriving -----------------------------------------------------------------------------------------------

    async def derive(
        self,
        source: str,
        sequence: int,
        target: EntityProgress,
        archive: Archive | None = None,
        taken: Callable[[int], None] = lambda events: None,
    ) -> None:
        """Take in all that the generation called `source` had taken in as of its progress record at `sequence`.

        Events come from the log, or where it was trimmed from `archive`; `taken` is told how many at each commit.
        """
        self._progress = self._decided = msgspec.structs.replace(self._progress, serves=False)
        self._deriving = True
        try:
            await self._derive(source, sequence, target, archive, taken)
        finally:
            self._deriving = False

    async def _derive(
        self, source: str, sequence: int, target: EntityProgress, archive: Archive | None, taken: Callable[[int], None]
    ) -> None:
        people = await self._commands_of_people(source, sequence)
        batch: list[Delivered] = []
        events = 0
        first, last = self._progress.positions[subject.LOG] + 1, target.positions[subject.LOG]
        async with contextlib.aclosing(history.frames(self._log, str(self._shard), first, last, archive)) as frames:
            async for one in frames:
                while people and people[0].time_ms < one.time_ms:
                    batch.append(people.popleft())
                headers = {frame.COUNT: str(one.count), frame.DIGEST: str(one.digest)}
                to = subject.event(self._shard)
                batch.append(Delivered(subject.LOG, to, one.sequence, one.time_ms, 0, 0, one.payload, headers))
                events += one.count
                if events >= self.limit:
                    await self._step(batch)
                    taken(events)
                    batch, events = [], 0
        # An end without a payload: event time goes on as it has there, and nothing of its changes is left to look at.
        end = Delivered(_PEOPLE, "", _place(sequence, 0), target.watermark_ms, 0, 0, b"", {})
        await self._step([*batch, *people, end])
        taken(events)

    async def _commands_of_people(self, source: str, upto: int) -> deque[Delivered]:
        """What people have commanded since the last time, in order, as far as it changed anything."""
        found: deque[Delivered] = deque()
        done = self._progress.positions.get(_PEOPLE, 0)
        changes = self._log.read(subject.entity(source, self._shard), max(done >> 20, 1), upto)
        async with contextlib.aclosing(changes):
            async for message in changes:
                for number, line in enumerate(lines_of(message)):
                    place = _place(message.sequence, number)
                    if place <= done:
                        continue
                    change = self._codec.change(line)
                    for asked in self._entity.asked(change.events):
                        command = Command(change.id, msgspec.Raw(msgspec.json.encode(asked)), change.command)
                        payload = msgspec.json.encode(command)
                        found.append(Delivered(_PEOPLE, "", place, change.time_ms, 0, 0, payload, {}))
        return found

    async def _step(self, batch: Sequence[Delivered]) -> None:
        async with contextlib.aclosing(self.decide(batch)) as steps:
            async for step in steps:
                await self.commit(step)
                await self.evolve(step)

    def _take(self, message: Delivered, watermark: int, decided: Any) -> int:
        if self._deriving and not message.payload:
            watermark = max(watermark, message.time_ms)
            self._tell_the_time(watermark, "idle", decided)
            return watermark
        if self._deriving and message.stream == subject.LOG:
            watermark = self._idle_until(message.time_ms, watermark, decided)
        return super()._take(message, watermark, decided)

    def _idle_until(self, time_ms: int, watermark: int, decided: Any) -> int:
        """Between two frames far apart event time went on with the clock, as in a cell that has nothing to do."""
        idle_ms = int(1000 * (self.idle_seconds or 0))
        last, self._last_ms = self._last_ms, time_ms
        if idle_ms and last and watermark and (ticks := (time_ms - last) // idle_ms):
            watermark = max(watermark, last + ticks * idle_ms - (self._lag_ms or 0))
            self._tell_the_time(watermark, "idle", decided)
        return watermark

    def _messages(self, lines: Sequence[bytes]) -> list[Outgoing]:
        messages = super()._messages(lines)
        if self._deriving:
            for one in messages:
                one.headers[AGAIN] = "1"
        return messages
