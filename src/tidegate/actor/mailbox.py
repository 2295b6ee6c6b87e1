"""What a cell reads from: one or more inputs, each bounded, the first of them the most urgent.

Invariant: of each input, what `take` returns is gapless and in order from the position given to `reset`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from tidegate.actor.pulling import Delivered
from tidegate.errors import TidegateError

__all__ = ["Input", "Mailbox", "OwnedInput", "Positions", "shown"]

Positions = Mapping[str, int]
"""Stream -> sequence up to which its input is committed."""


class Input(Protocol):
    """One stream, read from a position on; `pulling.PullConsumer` is one."""

    stream: str
    wake: asyncio.Event
    trouble: TidegateError | None

    async def reset(self, after: int) -> None: ...

    def pop(self) -> Delivered | None: ...

    async def ack(self, last: Delivered) -> None: ...

    async def release(self) -> None: ...


class OwnedInput(Input, Protocol):
    """One that only its owner reads; `ownership.PinnedConsumer` is one."""

    async def ensure(self) -> None: ...

    async def acquire(self, position: Callable[[], Awaitable[int]]) -> None: ...

    async def pause(self, seconds: float) -> bool: ...


_SHARE = 4
"""One part in so many of each batch is kept for the less urgent inputs: urgent ones shall not starve them."""


def shown(positions: Positions) -> str | int:
    """For people: `12`, or `COMMAND 3, LOG 12`."""
    if len(positions) == 1:
        return next(iter(positions.values()))
    return ", ".join(f"{stream} {sequence}" for stream, sequence in sorted(positions.items()))


class Mailbox:
    """Whoever the server pins on the first input owns the cell, and reads the others too. No two are of one stream."""

    def __init__(self, pinned: OwnedInput, *others: Input) -> None:
        self._pinned = pinned
        self._inputs: list[Input] = [pinned, *others]
        self._wake = asyncio.Event()
        for one in self._inputs:
            one.wake = self._wake

    async def ensure(self) -> None:
        """Make what must be there before it can be owned."""
        await self._pinned.ensure()

    async def acquire(self, positions: Callable[[], Awaitable[Positions]]) -> None:
        """Wait until this client owns the cell."""

        async def position() -> int:
            return (await positions())[self._pinned.stream]

        for one in self._inputs[1:]:
            await one.release()
        await self._pinned.acquire(position)

    async def pause(self, seconds: float) -> bool:
        """Returns after `seconds`, or at once when a lost connection comes back; whether it did."""
        return await self._pinned.pause(seconds)

    async def reset(self, positions: Positions) -> None:
        """Read on after `positions`."""
        for one in self._inputs:
            await one.reset(positions[one.stream])

    async def take(
        self,
        *,
        limit: int,
        weigh: Callable[[Delivered], int],
        linger_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> list[Delivered]:
        """The next messages, until their weights reach `limit` or the first has waited `linger_seconds`.

        None only after `idle_seconds` without any. Raises OwnershipLostError or BusUnavailableError.
        """
        batch: list[Delivered] = []
        weight = 0
        began = time.monotonic()
        deadline = None if idle_seconds is None else began + idle_seconds
        while True:
            empty = not batch
            for number, one in enumerate(self._inputs, start=1):
                room = limit if number == len(self._inputs) else limit - limit // _SHARE
                while weight < room and (message := one.pop()) is not None:
                    weight += weigh(message)
                    batch.append(message)
            if batch and empty:
                deadline = time.monotonic() + linger_seconds
            for one in self._inputs:
                if one.trouble is not None:
                    raise one.trouble
            now = time.monotonic()
            if weight >= limit or (deadline is not None and now >= deadline):
                return batch
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline is None else deadline - now):
                    await self._wake.wait()

    async def ack(self, batch: Sequence[Delivered]) -> None:
        """All of `batch`, and what came before, is committed."""
        last = {message.stream: message for message in batch}
        for one in self._inputs:
            if one.stream in last:
                await one.ack(last[one.stream])

    async def release(self) -> None:
        """Let another client own the cell, at once."""
        for one in reversed(self._inputs):
            await one.release()
