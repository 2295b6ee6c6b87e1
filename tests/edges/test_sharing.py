"""Readers that share a feed: however slow each is and whatever is logged when, it gets what is its own to get."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service import Batch, Feed, Item, Sharing, Slow, sharing


class _Log:
    """In memory, with feeds as `following` makes them."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.frames = self.feeds = 0
        self._grown = asyncio.Condition()

    async def append(self, events: int) -> None:
        self.frames += 1
        self.items += [Item(f"{self.frames}-{index}", b"{}") for index in range(events)]
        async with self._grown:
            self._grown.notify_all()

    async def end(self) -> int:
        await asyncio.sleep(0)
        return self.frames

    @contextlib.asynccontextmanager
    async def subscribe(self, start: Any, most: int) -> AsyncIterator[Feed]:
        after = (self.frames, 10**9) if start == "now" else tuple(map(int, start.split("-")))
        given = sum(place(item.position) <= after for item in self.items)

        class _Feed:
            async def next(_, most: int) -> Batch:  # noqa: N805
                nonlocal given
                async with self._grown:
                    await self._grown.wait_for(lambda: len(self.items) > given)
                found = self.items[given : given + most]
                given += len(found)
                return Batch(found)

        self.feeds += 1
        try:
            yield cast("Feed", _Feed())
        finally:
            await asyncio.sleep(0)
            self.feeds -= 1


def place(position: str) -> tuple[int, ...]:
    return tuple(map(int, position.split("-")))


async def encoded(items: Sequence[Item]) -> list[tuple[int, list[str]]]:
    """In pieces of three."""
    await asyncio.sleep(0)
    parts = [items[at : at + 3] for at in range(0, len(items), 3)]
    return [(len(part), [item.position for item in part]) for part in parts]


class _Reader(NamedTuple):
    joins: int
    """After so many frames."""
    most: int
    slow: Slow
    pace: list[int]
    """Turns of the loop that it lets go by after each piece; the last for all that follow."""


readers = st.builds(
    _Reader,
    st.integers(0, 6),
    st.integers(1, 12),
    st.sampled_from(["hold", "skip"]),
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
)


@given(
    many=st.lists(readers, min_size=1, max_size=4),
    frames=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=14),
)
def test_each_reader_gets_what_is_logged_once_it_has_joined_and_all_share_again_in_the_end(
    many: list[_Reader], frames: list[tuple[int, int]]
) -> None:
    async def read(one: _Reader, log: _Log, shared: Sharing[list[str]], joined: asyncio.Event) -> None:
        got: list[str] = []
        missed = 0
        async with shared.join("all", log.subscribe, log.end, one.most, one.slow) as live:
            begin = live.last
            joined.set()
            for pace in itertools.chain(one.pace, itertools.repeat(one.pace[-1])):
                left_out, piece = await live.next()
                missed += left_out
                got += piece
                if got[-1] == last:
                    break
                for _ in range(pace):
                    await asyncio.sleep(0)
            due = [item.position for item in log.items if place(item.position) > begin]
            if one.slow == "hold":
                assert (missed, got) == (0, due)
            else:
                assert got == sorted(set(got), key=place)
                assert missed + len(got) == len(due)
            with pytest.raises(TimeoutError):  # nothing further comes
                await asyncio.wait_for(live.next(), 0.001)
            assert not live.alone

    async def run() -> None:
        log, shared = _Log(), Sharing(encoded)
        all_joined: list[asyncio.Event] = []
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for number, (events, turns) in enumerate(frames):
                for one in many:
                    if one.joins == number or number == len(frames) - 1 < one.joins:
                        all_joined.append(asyncio.Event())
                        group.create_task(read(one, log, shared, all_joined[-1]))
                if number == len(frames) - 1:
                    for event in all_joined:
                        await event.wait()
                await log.append(events)
                for _ in range(turns):
                    await asyncio.sleep(0)
        assert log.feeds == 0

    last = f"{len(frames)}-{frames[-1][0] - 1}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "_MOST", 10)
        patch.setattr(sharing, "_BATCH", 5)
        asyncio.run(run())
