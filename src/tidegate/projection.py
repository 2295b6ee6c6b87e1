"""What a projection gets, what a read model promises, and how positions are written down.

Invariant: a read model changes its data and its position in one atomic step, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from tidegate import frame

__all__ = ["Generation", "Position", "ReadModel", "Rebuildable", "Record", "Recorded", "Tally"]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a cell of a read model has come, and what it has taken in so far."""

    stream: str
    created: str
    """Creation time of the stream: a stream that was deleted and made again is another one."""
    sequence: int
    """Stream sequence of the last frame taken in; 0 for none."""
    count: int = 0
    """Events taken in since the beginning."""
    digest: int = 0
    """Sum, modulo 2^64, of the CRC-32 of each event's JSON."""
    frame_digest: int | None = None
    """The digest of the last frame taken in: what the log must have at `sequence`. None where it was not noted yet."""

    def after(self, frames: Sequence[Recorded]) -> Position:
        """The position once `frames` (in order, all beyond this position) are in."""
        return msgspec.structs.replace(
            self,
            sequence=frames[-1].sequence,
            count=self.count + sum(one.count for one in frames),
            digest=(self.digest + sum(one.digest for one in frames)) % 2**64,
            frame_digest=frames[-1].digest,
        )


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a read model, or in the log: how many events, and the sum, modulo 2^64, of their CRC-32."""

    count: int
    digest: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Which generation of a read model serves, as the log says on `log.generation.<tier>`."""

    active: int = 1
    previous: int | None = None
    """What `rebuild rollback` goes back to."""
    building: int | None = None
    """What a rebuild is filling, or was when it ended early: the next one carries it on."""
    next: int = 2
    """The number of the next new one: no number is given twice."""
    time_ms: int = 0
    by: str = ""
    what: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it stands in a read model."""

    index: int
    """Its place in its frame."""
    crc: int
    event_id: str


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of events as it stands in the log (`log.event.<shard>`)."""

    sequence: int
    shard: int
    time_ms: int
    """When the log stored it, milliseconds since 1970."""
    count: int
    digest: int
    payload: bytes
    """zstd NDJSON of OCSF events, as stored."""
    traceparent: str = ""

    def lines(self) -> list[bytes]:
        """The events, each as JSON."""
        return frame.inflate(self.payload, "zstd", 2**31).split(b"\n")[:-1]


class ReadModel(Protocol):
    """A tier: takes frames in, each exactly once. Every implementation passes `tests/tiers/contract.py`.

    A cell is one independent position: `0`..`<shards-1>` where a tier works by shard, `all` where it does not.
    All methods raise TierUnavailableError while the server behind cannot be used; the caller tries again.
    """

    name: str
    by_shard: bool
    """Whether there is a cell for each shard, or a single one for all of them."""

    async def open(self) -> None:
        """Connect, and create what is missing (indexes, tables). Safe to call again."""

    async def aclose(self) -> None:
        """Let go of all connections."""

    async def position(self, cell: str) -> Position | None:
        """Where the cell stands, as stored with the data; None before the first frame."""

    def project(self, frames: Sequence[Recorded]) -> Any:
        """What `frames` (at least one, ascending) become here: the writes, in the model's own form.

        Pure: no I/O and nothing remembered. It runs in a worker thread, ahead of the `apply` of the writes before.
        """

    async def apply(self, cell: str, writes: Any, expected: Position | None, new: Position) -> None:
        """Take in what `project` has returned and move the cell from `expected` to `new`, atomically.

        Raises FencedError, with nothing visible changed, when the stored position is not `expected`.
        """

    async def tally(self) -> Tally:
        """Count and digest of what is really there, all cells together, read from the data and not from positions."""


class Rebuildable(ReadModel, Protocol):
    """A read model of which several generations can be kept, compared with the log frame by frame, and dropped."""

    keeps_ms: int | None
    """How long an event is kept, counted from when the log stored it at the earliest; None: for ever."""

    async def frames(self, first: int, last: int, *, deep: bool = True) -> dict[int, Tally]:
        """What is really there of each frame of the log with first <= sequence <= last.

        With `deep`, an event that what the model keeps besides (lists, counts) does not fit counts as another one.
        """

    async def records(self, sequence: int) -> list[Record]:
        """What is really there of one frame."""

    async def repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        """Put `frames` in anew in place of what is there of them, and take out the frames `extra`.

        Positions stay. Safe to repeat.
        """

    async def generations(self) -> list[int]:
        """The generations that hold anything, ascending."""

    async def drop(self) -> None:
        """Remove this generation, position included. Safe to repeat."""
