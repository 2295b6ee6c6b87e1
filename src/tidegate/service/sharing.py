"""Live subscriptions that want the same events share one feed, and what is made of its batches is made once for all.

Invariant: each reader gets what it would get from a feed of its own. One that is too slow to be held for leaves the
others, so that it holds nobody back; it joins them again where it can take what they have got lately, and until then
goes on behind what it has got with a feed of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, NamedTuple, TypeVar

from tidegate.errors import RefusedError
from tidegate.service.following import Feed, Item, Slow, Start

__all__ = ["Encode", "Live", "Sharing"]

T = TypeVar("T")
_BATCH = 500
_MOST = 2000
"""Events that are held for a shared feed, and as many that it has given out lately."""
_NOWHERE = (0, 0)
_LAST = 999_999_999
"""No frame has an event at such an index."""

Encode = Callable[[Sequence[Item]], Awaitable[list[tuple[int, T]]]]
"""Makes pieces of events: how many are in each, in order, and what is sent."""
Subscribe = Callable[[Start, int], AbstractAsyncContextManager[Feed]]
"""A feed of one's own, from a start, that holds so many events."""


class _Piece(NamedTuple, Generic[T]):
    items: Sequence[Item]
    made: T


class Live(Generic[T]):
    """One reader."""

    def __init__(self, source: _Source[T], most: int, slow: Slow) -> None:
        self._source = source
        self._most = most
        self._slow = slow
        self._queue: deque[_Piece[T]] = deque()
        self._held = self._left_out = 0
        self._wake = asyncio.Event()
        self.last = _NOWHERE
        """The place of the last event that it has got, or that was there before."""
        self.alone = True
        """Whether it has left the others, or has not joined them yet."""
        self._feed: Feed | None = None
        self._own = contextlib.AsyncExitStack()

    def put(self, pieces: Iterable[_Piece[T]]) -> None:
        """Of the shared feed."""
        for one in pieces:
            count = len(one.items)
            if self._queue and self._held + count > self._most:
                if self._slow == "hold":
                    self.alone = True
                    break
                while self._queue and self._held + count > self._most:
                    passed = self._queue.popleft().items
                    self._held -= len(passed)
                    self._left_out += len(self._news(passed))
            self._queue.append(one)
            self._held += count
        self._wake.set()

    async def next(self) -> tuple[int, T]:
        """How many events were left out before it, and the next piece."""
        while True:
            while not self._queue:
                if self.alone:
                    await self._catch_up()
                else:
                    self._wake.clear()
                    await self._wake.wait()
            one = self._queue.popleft()
            self._held -= len(one.items)
            items = self._news(one.items)
            if items is not one.items:
                self._queue.extendleft(reversed(await _pieces(self._source.encode, items)))
                self._held += len(items)
                continue
            self.last = _place(one.items[-1])
            left_out, self._left_out = self._left_out, 0
            return left_out, one.made

    def _news(self, items: Sequence[Item]) -> Sequence[Item]:
        """What of these it has not got yet."""
        if _place(items[0]) > self.last:
            return items
        return [item for item in items if _place(item) > self.last]

    def join(self) -> bool:
        """Take what the others have got lately and get from now on, if nothing is between that and `last`."""
        if self._source.before > self.last:
            return False
        self.alone = False
        self.put(one for one in self._source.recent if _place(one.items[-1]) > self.last)
        if not self.alone:
            self._source.readers.add(self)
        return True

    async def _catch_up(self) -> None:
        """Join the others again, or else take what comes next from the feed of its own."""
        if self.join():
            await self.close()
            return
        if self._feed is None:
            start = f"{self.last[0]}-{self.last[1]}"
            self._feed = await self._own.enter_async_context(self._source.subscribe(start, self._most))
        items = (await self._feed.next(_BATCH)).items
        self._queue.extend(await _pieces(self._source.encode, items))
        self._held += len(items)

    async def close(self) -> None:
        """End the feed of its own."""
        self._feed = None
        await self._own.aclose()


class _Source(Generic[T]):
    """A shared feed."""

    def __init__(self, subscribe: Subscribe, encode: Encode[T]) -> None:
        self.subscribe = subscribe
        self.encode = encode
        self.readers: set[Live[T]] = set()
        self.users = 0
        self.recent: deque[_Piece[T]] = deque()
        """What was given to the readers lately, and `before` is the place of the last event before that."""
        self.before = _NOWHERE
        self._kept = 0
        self.begun = asyncio.Event()
        self.error: RefusedError | None = None
        self.task = asyncio.create_task(self._run(), name="feed of many")

    async def _run(self) -> None:
        try:
            async with self.subscribe("now", _MOST) as feed:
                self.begun.set()
                while True:
                    self._give(await _pieces(self.encode, (await feed.next(_BATCH)).items))
                    # As many as there are to serve may have become writable.
                    await asyncio.sleep(0)
        except RefusedError as error:
            self.error = error
            self.begun.set()

    def _give(self, pieces: Sequence[_Piece[T]]) -> None:
        for one in pieces:
            self.recent.append(one)
            self._kept += len(one.items)
        while self._kept > _MOST:
            passed = self.recent.popleft().items
            self._kept -= len(passed)
            self.before = _place(passed[-1])
        for reader in [*self.readers]:
            reader.put(pieces)
            if reader.alone:
                self.readers.discard(reader)


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
        reader = Live(source, most, slow)
        source.users += 1
        try:
            await source.begun.wait()
            if source.error is not None:
                raise source.error
            reader.last = await end(), _LAST
            reader.join()
            yield reader
        finally:
            source.readers.discard(reader)
            await reader.close()
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


def _place(item: Item) -> tuple[int, int]:
    sequence, _, index = item.position.partition("-")
    return int(sequence), int(index)
