"""What a member tells the entity: how much it has done, how far it has come, what went wrong.

Invariant: every count reaches the entity once: a report is sent again under the same id until it is answered, and what
comes meanwhile waits for the next one. Reports are about once a second, failures at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable

from tidegate.entities.subscription import Failure, Report, Totals
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError

__all__ = ["Reporter"]

_EVERY_SECONDS = 1.0


class Reporter:
    """Collects, and sends with `send(report, command_id)`. `position()` gives epoch, floor and places as of now."""

    def __init__(
        self,
        send: Callable[[Report, str], Awaitable[None]],
        position: Callable[[], Awaitable[tuple[int, int, dict[int, int]]]],
    ) -> None:
        self._send = send
        self._position = position
        self.totals = Totals()
        """Since the beginning."""
        self._news = Totals()
        self._failure: Failure | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._open: tuple[str, Report] | None = None
        self._turn = asyncio.Lock()

    def count(self, more: Totals) -> None:
        """These events' fate is decided, or the handler was called."""
        self.totals = self.totals.plus(more)
        self._news = self._news.plus(more)
        self._changed.set()

    def moved(self) -> None:
        """The position is worth telling."""
        self._changed.set()

    def failed(self, failure: Failure) -> None:
        """To be told at once; a newer one takes the place of one that is not told yet."""
        self._failure = failure
        self._changed.set()
        self._urgent.set()

    async def run(self) -> None:
        """Until cancelled. What cannot be sent now is sent later."""
        while True:
            await self._changed.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_SECONDS):
                    await self._urgent.wait()
            try:
                await self.flush()
            except (BusError, BusUnavailableError):
                await asyncio.sleep(_EVERY_SECONDS)

    async def flush(self) -> None:
        """Returns once all that was collected before is in the log, or was refused by an entity that is there no more.

        Raises BusUnavailableError.
        """
        async with self._turn:
            await self._push()
            if self._changed.is_set():
                epoch, floor, places = await self._position()
                self._changed.clear()
                self._urgent.clear()
                report = Report(epoch=epoch, totals=self._news, floor=floor, places=places, failure=self._failure)
                self._news, self._failure = Totals(), None
                self._open = uuid.uuid4().hex, report
                await self._push()

    async def _push(self) -> None:
        if self._open is not None:
            command_id, report = self._open
            with contextlib.suppress(CommandRefusedError):
                await self._send(report, command_id)
            self._open = None
