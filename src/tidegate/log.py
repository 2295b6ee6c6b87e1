"""The event-sourced log: atomic, fenced appends; progress records; reading ranges; counting what is there.

Invariant: an append carries the outputs and the cell's progress record in one atomic batch, and the progress record
expects the sequence of the one before it. A second writer therefore stores nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from tidegate import frame, subject
from tidegate.bus import CONSUMER_NOT_FOUND, WRONG_LAST_SEQUENCE, Bus, Outgoing, Stored, StreamState
from tidegate.errors import BusError, FencedError, PositionError
from tidegate.event import DeadLetterFact
from tidegate.groupcommit import GroupCommit
from tidegate.projection import Generation, Position, Recorded, Tally
from tidegate.reader import read

__all__ = [
    "Log",
    "Progress",
    "change_messages",
    "check_position",
    "dead_messages",
    "event_messages",
    "lines_of",
    "progress_message",
    "recorded",
    "remade_message",
]

INTAKE = "intake"
"""The kind of the cells whose progress records count events."""
_OTHER_COURSE = (
    "the stream was restored from an older copy and has grown since, so this read model has what the log has not."
    " Restore the newer copy of the stream, or build this read model anew with `tidegate rebuild` (hot, warm, lake) or"
    " empty it (cold)."
)
_CHUNK_BYTES = 6 * 1024 * 1024
"""Uncompressed bytes per message at most: below the server's 8 MB even where nothing can be compressed."""


P = TypeVar("P", bound=msgspec.Struct)
Reader = Callable[..., AsyncGenerator[Stored, None]]
"""As `tidegate.reader.read`."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an intake cell has read its partition, and what became of the records; sums since the beginning."""

    stream: str
    created: str
    """Creation time of the input stream."""
    sequence: int
    """Sequence of the last input frame whose outputs are in the log."""
    frames: int = 0
    records: int = 0
    events: int = 0
    dead: int = 0
    filtered: int = 0
    time_ms: int = 0


def _chunks(lines: Sequence[bytes]) -> list[Sequence[bytes]]:
    if sum(map(len, lines)) <= _CHUNK_BYTES:
        return [lines]
    chunks: list[Sequence[bytes]] = []
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > _CHUNK_BYTES:
            chunks.append(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    return [*chunks, chunk]


def _sealed(
    to: str, schema: str, lines: Sequence[bytes], cause: str, traceparent: str, more: Mapping[str, str] | None = None
) -> list[Outgoing]:
    own = {frame.CAUSE: cause, **(more or {})}
    if traceparent:
        own[frame.TRACEPARENT] = traceparent
    return [_frame(to, schema, chunk, own) for chunk in _chunks(lines)]


def _frame(to: str, schema: str, lines: Sequence[bytes], own: Mapping[str, str]) -> Outgoing:
    headers = {
        frame.CONTENT_TYPE: frame.NDJSON,
        frame.CONTENT_ENCODING: "zstd",
        frame.SCHEMA: schema,
        frame.COUNT: str(len(lines)),
        frame.DIGEST: str(frame.digest_of(lines)),
        **own,
    }
    return Outgoing(to, frame.seal(lines), headers)


def event_messages(
    shard: int, lines: Sequence[bytes], cause: str, traceparent: str = "", destination: frame.Destination | None = None
) -> list[Outgoing]:
    """Frames for `log.event.<shard>` that hold `lines` (OCSF events as JSON); none for no lines."""
    more = destination.headers() if destination else None
    return _sealed(subject.event(shard), "ocsf_event.v1", lines, cause, traceparent, more) if lines else []


def remade_message(number: int, shard: int, replaces: int, lines: Sequence[bytes], tiers: str) -> Outgoing:
    """What stands for the event frame at sequence `replaces`, in a set of remade frames; perhaps nothing."""
    own = {frame.REPLACES: str(replaces), **({frame.TIERS: tiers} if tiers else {})}
    return _frame(subject.remade(number, shard), "ocsf_event.v1", lines, own)


def dead_messages(shard: int, facts: Sequence[DeadLetterFact], cause: str, traceparent: str = "") -> list[Outgoing]:
    """Frames for `log.dead.<shard>`."""
    if not facts:
        return []
    lines = [msgspec.json.encode(fact) for fact in facts]
    return _sealed(subject.dead(shard), "dead_letter.v1", lines, cause, traceparent)


def change_messages(kind: str, shard: int, lines: Sequence[bytes]) -> list[Outgoing]:
    """Frames for `log.<kind>.<shard>` that hold changes of entities as JSON; none for no lines."""
    return _sealed(subject.entity(kind, shard), "change.v1", lines, "", "") if lines else []


def progress_message(kind: str, shard: int | str, progress: msgspec.Struct, expected: int) -> Outgoing:
    """A cell's progress record, which only follows the one at sequence `expected` (0 for none)."""
    headers = {
        "Nats-Expected-Last-Subject-Sequence": str(expected),
        # Keep only the newest progress record of each cell.
        "Nats-Rollup": "sub",
        frame.SCHEMA: "progress.v1",
    }
    return Outgoing(subject.cell(kind, shard), msgspec.json.encode(progress), headers)


def lines_of(message: Stored) -> list[bytes]:
    """The records of a frame of the log, each as JSON."""
    return frame.inflate(message.payload, "zstd", 2**31).split(b"\n")[:-1]


def recorded(message: Stored) -> Recorded:
    """An event frame as projections take it."""
    return Recorded(
        sequence=message.sequence,
        shard=subject.shard_from(message.subject),
        time_ms=message.time_ms,
        count=int(message.headers[frame.COUNT]),
        digest=int(message.headers[frame.DIGEST]),
        payload=message.payload,
        traceparent=message.headers.get(frame.TRACEPARENT, ""),
        tiers=message.headers.get(frame.TIERS, ""),
    )


class Log:
    """The stream LOG, through a bus."""

    def __init__(self, bus: Bus, shards: int, read: Reader = read) -> None:
        self._bus = bus
        self.shards = shards
        self._read = read
        self._group = GroupCommit(bus)

    async def state(self) -> StreamState:
        return await self._bus.stream(subject.LOG)

    async def progress(self, kind: str, shard: int | str) -> tuple[int, Progress | None]:
        """The newest progress record of an intake cell and its sequence; (0, None) before the first."""
        return await self.newest(kind, shard, Progress)

    async def newest(self, kind: str, shard: int | str, shape: type[P]) -> tuple[int, P | None]:
        """The newest progress record of a cell and its sequence; (0, None) before the first."""
        message = await self._bus.last_message(subject.LOG, subject.cell(kind, shard))
        if message is None:
            return 0, None
        return message.sequence, msgspec.json.decode(message.payload, type=shape)

    async def append(
        self, kind: str, shard: int | str, messages: Sequence[Outgoing], progress: msgspec.Struct, expected: int
    ) -> int:
        """Store `messages` and the progress record atomically. Returns the sequence of the progress record.

        `expected` is the sequence of the cell's previous progress record (0 for none). Raises FencedError, with
        nothing stored, when that is no longer the newest. At most 999 messages.
        """
        try:
            return await self._group.append([*messages, progress_message(kind, shard, progress, expected)])
        except BusError as error:
            if error.code == WRONG_LAST_SEQUENCE:
                raise FencedError(f"{kind}.{shard}", "another process has committed to this cell") from error
            raise

    async def append_facts(self, messages: Sequence[Outgoing]) -> None:
        """Store facts that belong to no cell (a redrive), atomically."""
        await self._bus.publish_atomic(messages)

    async def read(
        self, subjects: str, first: int = 1, last: int | None = None, *, headers_only: bool = False
    ) -> AsyncGenerator[Stored, None]:
        """All messages on `subjects` from `first` to `last` (default: the end as of now), in order."""
        if last is None:
            last = (await self.state()).last_sequence
        async with contextlib.aclosing(
            self._read(self._bus, subject.LOG, subjects, first, last, headers_only=headers_only)
        ) as messages:
            async for message in messages:
                yield message

    async def tally(self) -> Tally:
        """Count and digest of all events in the log, recomputed from the stored payloads."""
        count = digest = 0
        async for message in self.read(subject.event("*")):
            lines = recorded(message).lines()
            count += len(lines)
            digest += frame.digest_of(lines)
        return Tally(count=count, digest=digest % 2**64)

    async def generation(self, tier: str) -> tuple[int, Generation]:
        """Which generation of a read model serves, and the sequence of that fact; (0, the first one) before any."""
        message = await self._bus.last_message(subject.LOG, subject.generation(tier))
        if message is None:
            return 0, Generation()
        return message.sequence, msgspec.json.decode(message.payload, type=Generation)

    async def set_generation(self, tier: str, new: Generation, expected: int) -> int:
        """Make `new` the fact. Raises FencedError when the one at sequence `expected` is no longer the newest."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected), frame.SCHEMA: "generation.v1"}
        try:
            ack = await self._bus.publish(subject.generation(tier), msgspec.json.encode(new), headers)
        except BusError as error:
            if error.code == WRONG_LAST_SEQUENCE:
                raise FencedError(f"generation.{tier}", "another command has changed it; look at it again") from error
            raise
        return ack.seq

    async def forget_consumer(self, name: str, stream: str = subject.LOG) -> None:
        """Delete a durable consumer. Safe to repeat."""
        try:
            await self._bus.api(f"CONSUMER.DELETE.{stream}.{name}")
        except BusError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise

    async def forget(self, subjects: str) -> int:
        """Purge all messages on `subjects`; returns how many there were."""
        return await self._bus.purge(subject.LOG, subjects)

    async def events_taken_in(self) -> int:
        """Events ever logged, as the intake's progress records count them: also those trimmed since."""
        # Each by itself: a consumer would miss a record that a newer one replaces while it reads.
        subjects = await self._bus.subjects(subject.LOG, subject.cell(INTAKE, "*"))
        records = [await self.progress(INTAKE, one.rsplit(".", 1)[1]) for one in subjects]
        return sum(progress.events for _, progress in records if progress)

    async def last_event_sequences(self) -> dict[int, int]:
        """For each shard the sequence of its newest event frame (0 for none)."""
        found = {}
        for shard in range(self.shards):
            message = await self._bus.last_message(subject.LOG, subject.event(shard))
            found[shard] = message.sequence if message else 0
        return found

    async def check(self, position: Position | None) -> StreamState:
        """The log's state, if `position` belongs to it.

        Raises PositionError when the stream is another one, ends before the position, or has there not the frame that
        was taken in: one that was restored from an older copy and has grown since.
        """
        state = await self.state()
        if position is not None:
            check_position(state, position.created, position.sequence)
            await self._check_frame(state, position)
        return state

    async def _check_frame(self, state: StreamState, position: Position) -> None:
        """The last frame taken in must still be there as it was, unless it was trimmed: nothing else removes one."""
        sequence = position.sequence
        if sequence < state.first_sequence:
            return
        message = await self._bus.message_at(subject.LOG, sequence)
        if message is None or not message.subject.startswith(subject.event("*")[:-1]):
            if sequence < (await self.state()).first_sequence:
                return
            raise PositionError(f"the position {sequence} names no event frame of stream {state.name}: {_OTHER_COURSE}")
        found = int(message.headers[frame.DIGEST])
        if position.frame_digest not in (None, found):
            raise PositionError(
                f"the position {sequence} was taken after a frame with digest {position.frame_digest:016x}, but stream"
                f" {state.name} has another one there ({found:016x}): {_OTHER_COURSE}"
            )


def check_position(state: StreamState, created: str, sequence: int) -> None:
    """Raises PositionError unless (created, sequence) is a position in the stream of `state`."""
    if created != state.created:
        raise PositionError(
            f"the position belongs to a stream {state.name} created {created}, but the one there now was created"
            f" {state.created}: it was deleted and made again, or restored. Point at the right server, or empty"
            " this read model to build it anew."
        )
    if sequence > state.last_sequence:
        raise PositionError(
            f"the position {sequence} lies beyond the end of stream {state.name} ({state.last_sequence}): the stream"
            " was restored from an older copy. Restore the newer copy, or empty this read model to build it anew."
        )
