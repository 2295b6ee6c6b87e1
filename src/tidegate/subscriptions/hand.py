"""What one member holds of the log: frames in hand, and how far each is settled.

Invariant: an event is in a batch only after all events before it in its frame are settled, and a frame is done when all
of its events are; so one number tells how far a frame has come.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from tidegate import frame
from tidegate.actor.sharing import Shared
from tidegate.entities.selection import Selector

__all__ = ["ALL", "Batch", "Hand", "Held", "Part", "events_of", "position_of"]


ALL = 2**31
"""A place behind all events of any frame."""
_REMEMBERED = 10_000


class Batch(list[dict[str, Any]]):
    """Events for a handler, each as it stands in the log: an OCSF record."""

    def __init__(self, events: Sequence[dict[str, Any]], at: str, attempt: int, commit: Callable[[], Awaitable[None]]):
        super().__init__(events)
        self.at = at
        """The first of them: `LOG/<sequence>#<index>`."""
        self.attempt = attempt
        """Which one this is, from 1."""
        self.committed = False
        self._commit: Callable[[], Awaitable[None]] | None = commit

    async def commit(self) -> None:
        """The events are processed and will not be delivered again; once said is enough.

        The server has heard of it when this returns, unless the connection is away; then it will, unless this process
        dies before. A crash may also repeat what was committed of a frame (1,000 events, say) in the last second.
        """
        if self._commit is not None and not self.committed:
            self.committed = True
            await self._commit()
        if not self.committed:
            raise RuntimeError(f"{self.at}: too late to commit, the attempt is over and counts as failed")

    def close(self) -> None:
        """The attempt is over."""
        self._commit = None


class Held:
    """A frame in hand."""

    __slots__ = ("alone", "chosen", "done", "lines", "shared", "suspect")

    def __init__(self, shared: Shared, select: Selector, place: int, *, suspect: bool = False, alone: str = "") -> None:
        """What comes before the index `place` is settled already."""
        self.shared = shared
        self.suspect = suspect
        """It was delivered so often that an event in it may be what its members die of: each is tried alone."""
        self.alone = alone
        """The event (`LOG/<sequence>#<index>`) that was being tried alone when somebody last said so."""
        self.lines = frame.inflate(shared.message.data, "zstd", 2**31).split(b"\n")[:-1]
        self.chosen = select(self.lines)
        self.done = bisect_left(self.chosen, place)
        """How many of the chosen ones are settled."""

    @property
    def place(self) -> int:
        """Index of the first event that is not settled."""
        return self.chosen[self.done] if self.done < len(self.chosen) else len(self.lines)


class Part(NamedTuple):
    """A run of the chosen events of one frame."""

    held: Held
    upto: int

    @property
    def size(self) -> int:
        return self.upto - self.held.done

    def lines(self) -> list[bytes]:
        """Events as they stand in the log."""
        return [self.held.lines[index] for index in self.held.chosen[self.held.done : self.upto]]


class Hand:
    """The frames that a member has, oldest delivery first."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        """Of the subscription: what is in hand counts only there."""
        self.frames: dict[int, Held] = {}
        """By sequence."""
        self.unconfirmed: dict[int, Shared] = {}
        """Done, and the server may not know."""
        self.done: OrderedDict[int, None] = OrderedDict()
        """The latest that are done: a server that was killed may have forgotten that it was told."""

    def places(self, every: bool) -> dict[int, int]:
        """Frame -> its first event that is not settled, of frames that are settled in part, or of `every` one."""
        places = {at: one.place for at, one in self.frames.items() if every or one.done}
        return places | dict.fromkeys(self.unconfirmed, ALL)

    def drop_stale(self, seconds: float) -> None:
        """Without word from the server for so long, frames are somebody else's."""
        limit = time.monotonic() - seconds
        for sequence in [at for at, one in self.frames.items() if one.shared.heard < limit]:
            del self.frames[sequence]

    def is_stale(self, parts: Sequence[Part], seconds: float) -> bool:
        """Whether any of them is of a frame that may be somebody else's."""
        return min(part.held.shared.heard for part in parts) < time.monotonic() - seconds

    def next_parts(self, size: int) -> list[Part]:
        """The next batch: at most `size` events, of one frame or several; one event of a frame that is suspect."""
        parts: list[Part] = []
        for held in self.frames.values():
            if size == 0 or (held.suspect and parts):
                break
            if held.suspect:
                return [Part(held, held.done + 1)]
            count = min(size, len(held.chosen) - held.done)
            parts.append(Part(held, held.done + count))
            size -= count
        return parts

    def settle(self, parts: Sequence[Part]) -> list[Held]:
        """The events are dealt with; returns the frames that are done with it."""
        finished = []
        for held, upto in parts:
            held.done = max(held.done, upto)
            if held.done == len(held.chosen):
                finished.append(held)
        return finished

    def finish(self, shared: Shared) -> None:
        """The frame is done: it leaves the hand, and the server is to hear of it."""
        self.frames.pop(shared.sequence, None)
        self.unconfirmed[shared.sequence] = shared
        self.done[shared.sequence] = None
        while len(self.done) > _REMEMBERED:
            self.done.popitem(last=False)


_EVENT = msgspec.json.Decoder(dict[str, Any])


def events_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The events, decoded anew: a handler may change what it is given."""
    return [_EVENT.decode(line) for part in parts for line in part.lines()]


def position_of(parts: Sequence[Part]) -> str:
    """The first event: `LOG/<sequence>#<index>`."""
    held = parts[0].held
    return f"{held.shared.stream}/{held.shared.sequence}#{held.place}"
