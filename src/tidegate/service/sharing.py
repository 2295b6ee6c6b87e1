"""Live subscriptions that want the same events share one feed, and what is made of its batches is made once for all.

Invariant: each reader gets what it would get from a feed of its own. One that is too slow to be held for leaves the
others, and goes on behind what it has got with a feed of its own, so that it holds nobody back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, NamedTuple, TypeVar

from tidegate.errors import RefusedError
from tidegate.service.following import Feed, Item, Slow, Start

__all__ = ["Encode", "Live", "Sharing"]

T = TypeVar("T")
_BATCH = 500
_MOST = 2000

Encode = Callable[[Sequence[Item]], Awaitable[list[tuple[int, T]]]]
"""Makes pieces of events: how many are in each, in order, and what is sent."""
Subscribe = Callable[[Start, int], AbstractAsyncContextManager[Feed]]
"""A feed of one's own, from a start, that holds so many events."""


class _Piece(NamedTuple, Generic[T]):
    items: Sequence[Item]
    made: T


class Live(Generic[T]):
    """One reader."""

    def __init__(self, subscribe: Subscribe, encode: Encode[T], most: int, slow: Slow) -> None:
        self._subscribe = subscribe
        self._encode = encode
        self._most = most
        self._slow = slow
        self._queue: deque[_Piece[T]] = deque()
        self._held = self._left_out = 0
        self._wake = asyncio.Event()
        self.after = 0
        """Nothing is given out up to this sequence of the log: it was there before."""
        self._last = ""
        self.alone = False
        """Whether it has left the others."""
        self._feed: Feed | None = None
        self.stack = contextlib.AsyncExitStack()

    def put(self, pieces: Sequence[_Piece[T]]) -> None:
        """Of the shared feed."""
        for one in pieces:
            count = len(one.items)
            if self._queue and self._held + count > self._most:
                if self._slow == "hold":
                    self.alone = True
                    break
                while self._queue and self._held + count > self._most:
                    passed = len(self._queue.popleft().items)
                    self._held -= passed
                    self._left_out += passed
            self._queue.append(one)
            self._held += count
        self._wake.set()

    async def next(self) -> tuple[int, T]:
        """How many events were left out before it, and the next piece."""
        while True:
            while not self._queue:
                if self.alone:
                    await self._take()
                else:
                    self._wake.clear()
                    await self._wake.wait()
            one = self._queue.popleft()
            self._held -= len(one.items)
            if _sequence(one.items[0]) <= self.after:
                if items := [item for item in one.items if _sequence(item) > self.after]:
                    self._queue.extendleft(reversed(await _pieces(self._encode, items)))
                    self._held += len(items)
                continue
            self._last = one.items[-1].position
            left_out, self._left_out = self._left_out, 0
            return left_out, one.made

    async def _take(self) -> None:
        if self._feed is None:
            start = self._last or f"LOG/{self.after}"
            self._feed = await self.stack.enter_async_context(self._subscribe(start, self._most))
        items = (await self._feed.next(_BATCH)).items
        self._queue.extend(await _pieces(self._encode, items))
        self._held += len(items)


class _Source(Generic[T]):
    """A shared feed."""

    def __init__(self, subscribe: Subscribe, encode: Encode[T]) -> None:
        self.readers: set[Live[T]] = set()
        self.users = 0
        self.begun = asyncio.Event()
        self.error: RefusedError | None = None
        self.task = asyncio.create_task(self._run(subscribe, encode), name="feed of many")

    async def _run(self, subscribe: Subscribe, encode: Encode[T]) -> None:
        try:
            async with subscribe("now", _MOST) as feed:
                self.begun.set()
                while True:
                    pieces = await _pieces(encode, (await feed.next(_BATCH)).items)
                    for reader in [*self.readers]:
                        reader.put(pieces)
                        if reader.alone:
                            self.readers.discard(reader)
                    # As many as there are to serve may have become writable.
                    await asyncio.sleep(0)
        except RefusedError as error:
            self.error = error
            self.begun.set()


class Sharing(Generic[T]):
    """All shared feeds of a process whose events are encoded in one way."""

    def __init__(self, encode: Encode[T]) -> None:
        self._encode = encode
        self._sources: dict[object, _Source[T]] = {}

    @contextlib.asynccontextmanager
    async def join(
        self, key: object, subscribe: Subscribe, end: Callable[[], Awaitable[int]], most: int, slow: Slow
    ) -> AsyncIterator[Live[T]]:
        """A reader of what is logged from now on; `end` says where the log ends. Under one key all want the same.

        Raises RefusedError as the feed does.
        """
        source = self._sources.get(key)
        if source is None or source.error is not None:
            source = self._sources[key] = _Source(subscribe, self._encode)
        reader = Live(subscribe, self._encode, most, slow)
        source.users += 1
        try:
            await source.begun.wait()
            if source.error is not None:
                raise source.error
            source.readers.add(reader)
            # Read when it is one of them already, so that nothing is between the two.
            reader.after = await end()
            async with reader.stack:
                yield reader
        finally:
            source.readers.discard(reader)
            source.users -= 1
            if not source.users:
                if self._sources.get(key) is source:
                    del self._sources[key]
                source.task.cancel()
                await asyncio.gather(source.task, return_exceptions=True)


async def _pieces(encode: Encode[T], items: Sequence[Item]) -> list[_Piece[T]]:
    made, start = [], 0
    for count, one in await encode(items):
        made.append(_Piece(items[start : start + count], one))
        start += count
    return made


def _sequence(item: Item) -> int:
    return int(item.position.partition("-")[0])
