"""Events of the log into a topic: the work of a cell, one for each shard of each output.

Invariant: what the cell has written behind its last note in the log is read back from the ends of the topic before
anything is written again; and nothing is written except shortly after a note that only the cell's owner can make.

Kafka itself has no condition on a write that would keep an old owner out, short of transactions. So:
1. before a batch is sent, the cell notes in the log up to where all is written (`log.cell.kafka-<name>.<shard>`), with
   the expectation that nobody else has; each event goes out with its position in the log as a header;
2. whoever takes over makes such a note first, after which the old owner can make none; waits until what that one may
   still have under way has ended (_GRACE_SECONDS); reads the topic from the noted offsets to its end; and leaves out
   what it finds there.
What is left: a process that is stopped between its last look at the clock and the socket, and goes on much later.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tidegate import frame, subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Stored
from tidegate.config import Kafka, KafkaOutput
from tidegate.edges.kafka.formats import encoder
from tidegate.edges.kafka.producing import Batch, Producing
from tidegate.edges.kafka.registry import Registry
from tidegate.entities.fields import Fields
from tidegate.entities.selection import EventFilter, selecting
from tidegate.errors import PositionError, TierUnavailableError
from tidegate.history import complete
from tidegate.log import Log, recorded
from tidegate.projection import Position

__all__ = ["EVENT_ID", "POSITION", "OutputWork", "Written", "kind_of"]

POSITION = "tidegate-position"
"""Header of each record: `LOG/<creation time of the log>/<sequence>#<index>`."""
EVENT_ID = "tidegate-event-id"
_GRACE_SECONDS = 2.0
"""A batch is sent within this time after a note, or not at all."""
_NOTE_SECONDS = 300.0
"""Without anything to write, the ends of the topic are noted so often: they are read from there on."""
_PATHS = ("metadata.correlation_uid", "metadata.uid")
_ROUND = 16
"""Batches in one request at most: with less than 1 MB each it stays far below what a broker takes."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A cell's note."""

    position: Position
    """Up to here all that is wanted of the log is in the topic."""
    owner: str = ""
    """Who has made it; empty when it has ended in good order."""
    ends: dict[int, int] = {}
    """Partition -> an offset before which nothing is that the cell has written behind `position`."""
    events: int = 0
    """Written since the beginning."""
    topic_id: str = ""
    """Of the topic, where the broker has one."""


def kind_of(output: KafkaOutput) -> str:
    return f"kafka-{output.key}"


class OutputWork(Work):
    """Writes the events of one shard."""

    linger_seconds = 0.02
    idle_seconds = 1.0

    def __init__(
        self,
        settings: Kafka,
        output: KafkaOutput,
        log: Log,
        shard: int,
        producing: Producing,
        registry: Registry | None,
    ) -> None:
        self.limit = settings.batch_records
        self.output = output
        self.shard = shard
        self.written = Written(position=Position(stream=subject.LOG, created="", sequence=0))
        self._log = log
        self._producing = producing
        where = EventFilter(fields={"metadata.tenant_uid": output.tenant} if output.tenant else {})
        self._select = selecting(output.types, where)
        self._fields, self._row = Fields(_PATHS), Fields.getter(("time", *_PATHS))
        self._encoder = encoder(output, registry)
        self._me = uuid.uuid4().hex
        self._expected = 0
        self._is_new = False
        self._claimed = False
        self._doubt = False
        """Whether something that was sent may still be under way."""
        self._noted: Written | None = None
        self._noted_at = 0.0
        self._seen: set[tuple[int, int]] = set()

    def weigh(self, message: Delivered) -> int:
        return int(message.headers.get(frame.COUNT, "1"))

    async def recover(self) -> Positions:
        """Raises PositionError when the last note speaks of another log."""
        self._expected, found = await self._log.newest(kind_of(self.output), self.shard, Written)
        state = await self._log.check(found.position if found else None)
        empty = Position(stream=subject.LOG, created=state.created, sequence=0)
        self._is_new = found is None
        self.written = self._noted = found or Written(position=empty)
        self._claimed = False
        return {subject.LOG: self.written.position.sequence}

    # -- owning it ----------------------------------------------------------------------------------------------

    async def _claim(self) -> None:
        """Keep others out, and find out what is written already.

        Raises PositionError when frames were trimmed from the log unread, or the topic has lost what was written.
        """
        topic, before = self.output.topic, self.written
        await self._refuse_if_trimmed()
        if self._is_new:
            before = replace(before, ends=await self._producing.ends(topic))
        topic_id = await self._producing.topic_id(topic)
        if before.topic_id and topic_id and topic_id != before.topic_id:
            raise self._lost(f"{topic} has another id than the topic that was written to")
        self.written = replace(before, owner=self._me, topic_id=topic_id or before.topic_id)
        await self._note()
        if self._doubt or before.owner not in ("", self._me):
            await self._producing.ends(topic)  # a broker that was paused goes on before it answers
            await asyncio.sleep(_GRACE_SECONDS)
        try:
            self._seen = await self._found()
        except ValueError as error:
            raise self._lost(str(error)) from error
        self._doubt = False
        self._claimed = True

    @staticmethod
    def _lost(problem: str) -> PositionError:
        return PositionError(
            f"{problem}: the topic was made anew or has lost records. To write all of the log to what is there now,"
            " give this table of kafka.outputs another name"
        )

    async def _found(self) -> set[tuple[int, int]]:
        """(sequence, index) of what is in the topic behind the noted position."""
        place = re.compile(rf"{re.escape(self._place(0)[:-1])}(\d{{1,19}})#(\d{{1,9}})".encode(), re.ASCII)
        found = set()
        async with contextlib.aclosing(self._producing.since(self.output.topic, self.written.ends)) as records:
            async for record in records:
                if record.key is None or zlib.crc32(record.key) % self._log.shards != self.shard:
                    continue
                if match := place.fullmatch(dict(record.headers).get(POSITION, b"")):
                    sequence = int(match[1])
                    if sequence > self.written.position.sequence:
                        found.add((sequence, int(match[2])))
        return found

    async def _refuse_if_trimmed(self) -> None:
        """As `history.refuse_if_trimmed`."""
        if (await self._log.state()).first_sequence <= self.written.position.sequence + 1:
            return
        positions: dict[str, Position | None] = {}
        for shard in range(self._log.shards):
            _, note = await self._log.newest(kind_of(self.output), shard, Written)
            positions[str(shard)] = note.position if note else None
        within_reach, ever = await complete(self._log, positions)
        if within_reach < ever:
            raise PositionError(
                f"{ever - within_reach} events of {ever} were trimmed from the log before output {self.output.key} had"
                " them; to go on without them, give this table of kafka.outputs another name"
            )

    def _place(self, sequence: int) -> str:
        return f"{subject.LOG}/{self.written.position.created}/{sequence}"

    async def _note(self) -> None:
        """Raises FencedError when another has made one."""
        asked = time.monotonic()
        self._expected = await self._log.append(kind_of(self.output), self.shard, [], self.written, self._expected)
        self._noted, self._noted_at = self.written, asked

    # -- the steps ----------------------------------------------------------------------------------------------

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        began = time.monotonic()
        if not self._claimed:
            await self._claim()
        if not batch:
            yield Step(batch, None, began)
            return
        encode = await self._encoder()
        partitions = await self._producing.partitions(self.output.topic)
        waiting: dict[int, list[Batch]] = {one: [] for one in partitions}
        again = events = 0
        frames = [recorded(Stored(one.subject, one.sequence, one.time_ms, one.payload, one.headers)) for one in batch]
        for message, one in zip(batch, frames, strict=True):
            if self.output.routed and self.output.topic not in message.headers.get(frame.TOPICS, "").split(","):
                continue
            lines = one.lines()
            chosen = self._select(lines)
            rows = map(self._row, self._fields.read([lines[index] for index in chosen], one.time_ms))
            place = self._place(one.sequence)
            trace = [(frame.TRACEPARENT, one.traceparent.encode())] if one.traceparent else []
            for index, (time_ms, correlation, uid) in zip(chosen, rows, strict=True):
                if self._seen and (one.sequence, index) in self._seen:
                    again += 1
                    continue
                key = str(correlation).encode()
                # CRC-32, as librdkafka's partitioner `consistent`: events of a correlation stay in order.
                into = waiting[partitions[zlib.crc32(key) % len(partitions)]]
                headers = [(POSITION, f"{place}#{index}".encode()), (EVENT_ID, str(uid).encode()), *trace]
                value = encode(lines[index])
                if not into or not into[-1].add(time_ms, key, value, headers):
                    into.append(Batch())
                    into[-1].add(time_ms, key, value, headers)
                events += 1
            # Decoding a frame takes milliseconds: let the other cells in.
            await asyncio.sleep(0)
        yield Step(batch, (frames, _rounds(waiting), events, again), began)

    async def commit(self, step: Step) -> None:
        if step.decided is None:
            await self._rest()
            return
        frames, rounds, events, again = step.decided
        if rounds:
            await self._note()
        ends = dict(self.written.ends)
        for one in rounds:
            if time.monotonic() - self._noted_at > _GRACE_SECONDS / 2:
                await self._note()
            try:
                until = self._noted_at + _GRACE_SECONDS * 0.75
                offsets = await self._producing.send(self.output.topic, one, until)
            except (TierUnavailableError, asyncio.CancelledError):
                self._doubt = True
                raise
            for partition, offset in offsets.items():
                ends[partition] = max(ends.get(partition, 0), offset + one[partition].count)
        before = self.written
        self.written = replace(before, position=before.position.after(frames), ends=ends, events=before.events + events)
        telemetry.emit(
            telemetry.KafkaWritten(
                topic=self.output.topic,
                shard=self.shard,
                events=events,
                again=again,
                seconds=time.monotonic() - step.began,
            )
        )

    async def _rest(self) -> None:
        """There is nothing to write: note what was."""
        if self.written is not self._noted:
            await self._note()
        elif time.monotonic() - self._noted_at > _NOTE_SECONDS:
            self.written = replace(self.written, ends=await self._producing.ends(self.output.topic))
            await self._note()

    async def aclose(self) -> None:
        if self._claimed and not self._doubt:
            self.written = replace(self.written, owner="")
            await self._note()

    def row(self, lag: int, problem: str) -> dict[str, Any]:
        """For people."""
        return {
            "output": self.output.key,
            "topic": self.output.topic,
            "shard": self.shard,
            "position": self.written.position.sequence,
            "lag (frames)": lag,
            "events": self.written.events,
            "problem": problem[:200],
        }


def _rounds(waiting: dict[int, list[Batch]]) -> list[dict[int, Batch]]:
    """One batch a partition in each, in order."""
    rounds: list[dict[int, Batch]] = []
    for number in range(max(map(len, waiting.values()), default=0)):
        now = [(partition, batches[number]) for partition, batches in waiting.items() if len(batches) > number]
        rounds += [dict(now[first : first + _ROUND]) for first in range(0, len(now), _ROUND)]
    return rounds
