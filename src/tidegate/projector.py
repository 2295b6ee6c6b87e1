"""The work of a projection cell: event frames of the log into one read model.

Invariant: the position comes from the read model itself, and moves only together with its data.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Sequence

import anyio
import anyio.to_thread

from tidegate import subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Stored
from tidegate.frame import COUNT
from tidegate.history import refuse_if_trimmed
from tidegate.log import Log, recorded
from tidegate.projection import Position, ReadModel

__all__ = ["ProjectionWork"]


class ProjectionWork(Work):
    """Feeds one cell of one read model. `limit` and `linger_seconds` shape its batches, in events."""

    def __init__(self, log: Log, model: ReadModel, cell: str, *, limit: int, linger_seconds: float) -> None:
        self._log = log
        self._model = model
        self._cell = cell
        self.limit = limit
        self.linger_seconds = linger_seconds
        self._stored: Position | None = None
        self._created = ""

    def weigh(self, message: Delivered) -> int:
        return int(message.headers.get(COUNT, "1"))

    async def recover(self) -> Positions:
        """Raises PositionError when the read model was built from another log than the one there now, or frames were
        trimmed before it had them."""
        await self._model.open()
        self._stored = await self._model.position(self._cell)
        state = await self._log.check(self._stored)
        await refuse_if_trimmed(self._log, self._model, self._cell, self._stored)
        self._created = state.created
        return {subject.LOG: self._stored.sequence if self._stored else 0}

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        began = time.monotonic()
        frames = [recorded(Stored(one.subject, one.sequence, one.time_ms, one.payload, one.headers)) for one in batch]
        mine = [one for one in frames if one.is_for(self._model.name)]
        writes = await anyio.to_thread.run_sync(self._model.project, mine, limiter=_one_at_a_time())
        yield Step(batch, (frames, writes), began)

    async def commit(self, step: Step) -> None:
        frames, writes = step.decided
        before = self._stored or Position(stream=subject.LOG, created=self._created, sequence=0)
        tier = self._model.name
        after = before.after(frames, tier)
        parents = list(dict.fromkeys(one.traceparent for one in frames if one.traceparent))
        with telemetry.span(
            f"{tier} apply",
            parent=parents[0] if parents else None,
            links=parents[1:],
            attributes={"tidegate.cell": f"{tier}.{self._cell}", "tidegate.frames": len(frames)},
        ) as span:
            await self._model.apply(self._cell, writes, self._stored, after)
            span.set(**{"tidegate.events": after.count - before.count, "tidegate.sequence": after.sequence})
            self._stored = after
            telemetry.emit(
                telemetry.ProjectionApplied(
                    tier=tier,
                    cell=self._cell,
                    frames=len(frames),
                    events=after.count - before.count,
                    seconds=time.monotonic() - step.began,
                    lag=step.batch[-1].pending,
                )
            )


@functools.cache
def _one_at_a_time() -> anyio.CapacityLimiter:
    """Python code of several cells at once would only wait for the interpreter's lock."""
    return anyio.CapacityLimiter(1)
