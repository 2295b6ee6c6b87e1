"""The work of a forward cell: copies of the frames of one shard for the subjects that a pipeline has routed them to.

Invariant: a frame is sent before the position moves past it, so every copy is sent at least once, and after a crash
perhaps twice, under the same message id. A stream that takes the subject drops the second one within its window.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence

import msgspec

from tidegate import frame, subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Bus
from tidegate.log import Log, check_position

__all__ = ["KIND", "ForwardProgress", "ForwardWork"]

KIND = "forward"
_KEPT = (frame.CONTENT_TYPE, frame.CONTENT_ENCODING, frame.SCHEMA, frame.COUNT, frame.DIGEST, frame.TRACEPARENT)
_MOST_UNNOTED = 5_000
"""Frames for no subject that a new owner looks at again at most; only their headers are read."""


class ForwardProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a forward cell has read its shard."""

    created: str
    """Creation time of the log."""
    sequence: int
    sent: int = 0
    """Copies since the beginning."""


class ForwardWork(Work):
    """Sends what is routed of `shard`. Its consumer brings headers only."""

    limit = 500
    """Frames in a batch."""

    def __init__(self, bus: Bus, log: Log, shard: int) -> None:
        self._bus = bus
        self._log = log
        self._shard = shard
        self._expected = 0
        self._unnoted = 0
        self.progress = ForwardProgress(created="", sequence=0)

    def weigh(self, message: Delivered) -> int:
        return 1

    async def recover(self) -> Positions:
        """Raises PositionError when the log is not the one that the last progress record speaks of."""
        self._expected, found = await self._log.newest(KIND, self._shard, ForwardProgress)
        state = await self._log.state()
        if found is not None:
            check_position(state, found.created, found.sequence)
        self.progress = found or ForwardProgress(created=state.created, sequence=0)
        self._unnoted = 0
        return {subject.LOG: self.progress.sequence}

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        routed = [(one, to.split(",")) for one in batch if (to := one.headers.get(frame.SUBJECTS))]
        yield Step(batch, routed, time.monotonic())

    async def commit(self, step: Step) -> None:
        sent = 0
        for one, subjects in step.decided:
            whole = await self._bus.message_at(subject.LOG, one.sequence)
            if whole is None:  # trimmed, or purged, since
                telemetry.emit(telemetry.ForwardMissed(cell=f"{KIND}.{self._shard}", sequence=one.sequence))
                continue
            headers = {name: whole.headers[name] for name in _KEPT if name in whole.headers}
            for to in subjects:
                headers["Nats-Msg-Id"] = f"{subject.LOG}/{self.progress.created}/{one.sequence}/{to}"
                await self._bus.send(to, whole.payload, headers=headers)
                sent += 1
        self._unnoted += len(step.batch)
        after = msgspec.structs.replace(self.progress, sequence=step.batch[-1].sequence, sent=self.progress.sent + sent)
        if sent or self._unnoted >= _MOST_UNNOTED:
            # The answer says that the server has the copies as well: they went before, on the same connection.
            self._expected = await self._log.append(KIND, self._shard, [], after, self._expected)
            self._unnoted = 0
        self.progress = after
