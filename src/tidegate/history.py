"""The whole history of a cell: from the cold archive where the log was trimmed, then from the log; and proofs of it.

Invariant: the seam is the log's first sequence; what lies before comes from the archive, the rest from the log, so no
frame is read twice, and none is missing when `complete` says so.

Seen on nats-server 2.15: the first sequence of a stream also moves when a rollup removes an old progress record, so it
alone proves no loss. What does: the intake's progress records count every event ever logged.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

import msgspec

from tidegate import subject
from tidegate.errors import PositionError
from tidegate.log import Log, recorded
from tidegate.projection import Position, ReadModel, Recorded, is_for

__all__ = ["Archive", "Entry", "cells_of", "complete", "consumer_of", "frames", "ledger", "refuse_if_trimmed"]


class Archive(Protocol):
    """What is needed of the cold read model."""

    async def position(self, cell: str) -> Position | None: ...

    def get_range(self, shard: str, first: int, last: int) -> AsyncIterator[Recorded]: ...


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A frame without its events."""

    sequence: int
    shard: int
    time_ms: int
    count: int
    digest: int
    tiers: str = ""

    def is_for(self, tier: str) -> bool:
        """As of `Recorded`."""
        return is_for(self.tiers, tier)


def cells_of(model: ReadModel, shards: int) -> dict[str, str]:
    """The cells of a read model, each with the subject that it follows."""
    if model.by_shard:
        return {str(shard): subject.event(shard) for shard in range(shards)}
    return {"all": subject.event("*")}


def consumer_of(tier: str, cell: str, generation: int) -> str:
    """The durable consumer by which a cell of a generation follows the log."""
    return f"{tier}-{cell}" if generation == 1 else f"{tier}-{cell}-g{generation}"


async def frames(
    log: Log, cell: str, first: int, last: int, archive: Archive | None = None
) -> AsyncGenerator[Recorded, None]:
    """The event frames of a cell with first <= sequence <= last, in order."""
    seam = (await log.state()).first_sequence
    if archive is not None and first < seam:
        async for one in _archived(log, cell, first, min(last, seam - 1), archive):
            yield one
    subjects = subject.event("*") if cell == "all" else subject.event(int(cell))
    async with contextlib.aclosing(log.read(subjects, max(first, seam), last)) as messages:
        async for message in messages:
            yield recorded(message)


async def _archived(log: Log, cell: str, first: int, last: int, archive: Archive) -> AsyncGenerator[Recorded, None]:
    """Frames of one shard, or of all of them merged by their sequence."""
    shards = [str(shard) for shard in range(log.shards)] if cell == "all" else [cell]
    walks = {shard: archive.get_range(shard, first, last) for shard in shards}
    ahead = {shard: one for shard, walk in walks.items() if (one := await anext(walk, None)) is not None}
    while ahead:
        shard = min(ahead, key=lambda name: ahead[name].sequence)
        yield ahead[shard]
        following = await anext(walks[shard], None)
        if following is None:
            del ahead[shard]
        else:
            ahead[shard] = following


async def ledger(log: Log, cell: str, first: int, last: int, archive: Archive | None = None) -> list[Entry]:
    """What the frames of a cell hold, by their own headers; of the log's, no payload is read."""
    seam = (await log.state()).first_sequence
    found: list[Entry] = []
    if archive is not None and first < seam:
        found += [_entry(one) async for one in _archived(log, cell, first, min(last, seam - 1), archive)]
    subjects = subject.event("*") if cell == "all" else subject.event(int(cell))
    messages = log.read(subjects, max(first, seam), last, headers_only=True)
    return found + [_entry(recorded(message)) async for message in messages]


def _entry(one: Recorded) -> Entry:
    return Entry(
        sequence=one.sequence,
        shard=one.shard,
        time_ms=one.time_ms,
        count=one.count,
        digest=one.digest,
        tiers=one.tiers,
    )


async def complete(log: Log, positions: dict[str, Position | None]) -> tuple[int, int]:
    """Events that the cells have or can still read from the log, and events ever logged.

    Fewer than ever were: some were trimmed before the cells had them. `positions` are all those of one read model.
    """
    ever = await log.events_taken_in()  # first: what comes meanwhile only adds to the other side
    within_reach = 0
    for cell, position in positions.items():
        rest = await ledger(log, cell, position.sequence + 1 if position else 1, (await log.state()).last_sequence)
        within_reach += (position.count + position.left_out if position else 0) + sum(one.count for one in rest)
    return within_reach, ever


async def refuse_if_trimmed(log: Log, model: ReadModel, cell: str, position: Position | None) -> None:
    """Raises PositionError when frames between the position and the log's beginning were trimmed away unread.

    Counting, which takes a pass over the headers, is needed only where the log begins beyond the position.
    """
    state = await log.state()
    at = position.sequence if position else 0
    if state.first_sequence <= at + 1:
        return
    positions = {one: await model.position(one) for one in cells_of(model, log.shards)}
    within_reach, ever = await complete(log, positions)
    if within_reach < ever:
        raise PositionError(
            f"{model.name}.{cell} stands at {at}, but stream {state.name} begins at {state.first_sequence}:"
            f" {ever - within_reach} events of {ever} were trimmed before this read model took them in. Run"
            f" `tidegate rebuild {model.name} --from-archive`."
        )
