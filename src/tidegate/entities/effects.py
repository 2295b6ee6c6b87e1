"""What follows outside when an entity goes through something: a mail, a ticket, a call. At most once.

Invariant: the position is in the log before a handler is called for what lies before it. Whatever is interrupted in
between loses the effect and never repeats it; a new reading of the log from its beginning has no effects at all.

Who must not lose any looks at the alerts, which the log keeps; the effect only draws attention to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from tidegate import subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.entities.alert import RAISED, Raised, happened
from tidegate.log import Log, check_position

__all__ = ["KIND", "EffectProgress", "EffectWork", "Handler"]

KIND = "effect-alert"

Handler = Callable[[str, Raised], Awaitable[None]]
"""Gets the id of the alert, and how it was raised."""

_RAISED = msgspec.json.Decoder(Raised)


class EffectProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an effects cell has read the changes of its alerts."""

    created: str
    """Creation time of the log."""
    sequence: int
    """Of the last frame whose effects have been, or will not be."""
    effects: int = 0
    """Handler calls that were due since the beginning; a crash may have kept some from happening."""


class EffectWork(Work):
    """Calls `handler` once for each alert that is raised in `shard`. What it raises is reported, and that is it.

    A handler has `timeout_seconds`. Alerts of before the first start have no effects.
    """

    limit = 100
    """Frames in a batch."""

    def __init__(self, log: Log, shard: int, handler: Handler, *, timeout_seconds: float = 30.0) -> None:
        self._log = log
        self._shard = shard
        self._handler = handler
        self._timeout = timeout_seconds
        self._cell = f"{KIND}.{shard}"
        self._expected = 0
        self.progress = EffectProgress(created="", sequence=0)
        self.called = 0
        """Handler calls by this object that ended well."""
        self.failed = 0

    def weigh(self, message: Delivered) -> int:
        return 1

    async def recover(self) -> Positions:
        """Raises PositionError when the log is not the one that the last progress record speaks of."""
        self._expected, found = await self._log.newest(KIND, self._shard, EffectProgress)
        state = await self._log.state()
        if found is None:
            # Written down at once: what is raised from now on is not history, even if this process ends now.
            found = EffectProgress(created=state.created, sequence=state.last_sequence)
            self._expected = await self._log.append(KIND, self._shard, [], found, 0)
        else:
            check_position(state, found.created, found.sequence)
        self.progress = found
        return {subject.LOG: found.sequence}

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """A step for each frame with effects, so that an interruption loses those of one frame at most."""
        part: list[Delivered] = []
        for message in batch:
            part.append(message)
            if raised := happened(message, RAISED, _RAISED):
                yield Step(part, raised, time.monotonic())
                part = []
        if part:
            yield Step(part, [], time.monotonic())

    async def commit(self, step: Step) -> None:
        """The position, and nothing else."""
        after = EffectProgress(
            created=self.progress.created,
            sequence=step.batch[-1].sequence,
            effects=self.progress.effects + len(step.decided),
        )
        self._expected = await self._log.append(KIND, self._shard, [], after, self._expected)
        self.progress = after

    async def evolve(self, step: Step) -> None:
        """The effects."""
        for alert_id, raised in step.decided:
            await self._call(alert_id, raised)

    async def _call(self, alert_id: str, raised: Raised) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                await self._handler(alert_id, raised)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            self.failed += 1
            problem = f"{type(error).__name__}: {error}"
            telemetry.emit(telemetry.EffectFailed(cell=self._cell, id=alert_id, error=problem))
        else:
            self.called += 1
            seconds = time.monotonic() - began
            telemetry.emit(telemetry.EffectCalled(cell=self._cell, id=alert_id, seconds=seconds))
