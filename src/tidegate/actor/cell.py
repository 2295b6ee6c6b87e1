"""The loop that every cell runs: own, recover, then pull and decide, commit, acknowledge.

Invariant: a cell moves on only from the position that its commits themselves carry; whatever goes wrong, it lets go,
waits, and starts again from that position, so that nothing is lost or doubled at any point of interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import anyio
import msgspec

from tidegate import telemetry
from tidegate.actor.ownership import Delivered, OwnershipLostError, PinnedConsumer
from tidegate.errors import BusError, BusUnavailableError, FencedError, PositionError, TierUnavailableError

__all__ = ["Cell", "CellStatus", "Step", "Work"]


FIRST_PAUSE = 0.05


class Step(NamedTuple):
    """A batch, and what is to be committed for it."""

    batch: Sequence[Delivered]
    decided: Any
    began: float
    """When its last message had come, by `time.monotonic`."""


class Work(Protocol):
    """What a kind of cell does with its input."""

    limit: int
    """A batch is full when its weights reach this."""
    linger_seconds: float
    """How long the first message of a batch may wait for more."""

    def weigh(self, message: Delivered) -> int:
        """How much of `limit` a message takes up."""

    async def recover(self) -> int:
        """The sequence up to which the input is in the committed output, read from where the output is."""

    def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """What to commit for the batch, in one step or several; commits nothing.

        Runs one step ahead: while a step is committed, the next one is decided.
        """

    async def commit(self, step: Step) -> None:
        """Store the step's outputs and the position in one atomic step. Raises FencedError if another has moved it."""


class CellStatus(msgspec.Struct, kw_only=True):
    """What a cell is doing, for people."""

    cell: str
    state: Literal["starting", "standby", "running", "waiting", "refused"] = "starting"
    position: int = 0
    pending: int = 0
    """Messages not yet pulled, as of the last one pulled."""
    frames: int = 0
    problem: str = ""


class Cell:
    """Runs one Work on one pinned consumer until cancelled."""

    def __init__(self, name: str, work: Work, consumer: PinnedConsumer) -> None:
        self._work = work
        self._consumer = consumer
        self.status = CellStatus(cell=name)
        self._pause = FIRST_PAUSE
        self._down: tuple[str, float] | None = None
        """The tier that is away, and since when."""

    async def run(self) -> None:
        """Run until cancelled; every failure is reported and followed by a new start, after a growing pause."""
        try:
            while True:
                pause = await self._attempt()
                await asyncio.sleep(pause)
        finally:
            # Also while all of the process is being cancelled: others shall take over at once.
            with anyio.move_on_after(2, shield=True):
                await self._consumer.release()

    async def _attempt(self) -> float:
        """Own the cell until something goes wrong; returns how many seconds to wait before the next attempt."""
        cell, status = self.status.cell, self.status
        try:
            await self._own()
        except OwnershipLostError as error:
            telemetry.emit(telemetry.OwnershipLost(cell=cell))
            status.state, status.problem = "standby", str(error)
            return 0.05
        except FencedError as error:
            telemetry.emit(telemetry.CellFenced(cell=cell, reason=str(error)))
            status.state, status.problem = "waiting", str(error)
            wait = 0.5
        except PositionError as error:
            telemetry.emit(telemetry.CellStopped(cell=cell, reason=str(error)))
            status.state, status.problem = "refused", str(error)
            wait = 10.0
        except TierUnavailableError as error:
            wait = self._next_pause()
            telemetry.emit(telemetry.TierUnavailable(tier=error.tier, error=error.problem, retry_in_seconds=wait))
            status.state, status.problem = "waiting", str(error)
            self._down = self._down or (error.tier, time.monotonic())
        except (BusUnavailableError, BusError) as error:
            wait = self._next_pause()
            telemetry.emit(telemetry.CellWaiting(cell=cell, error=str(error), retry_in_seconds=wait))
            status.state, status.problem = "waiting", str(error)
        # Whoever can do better may have it.
        await self._consumer.release()
        return wait

    def _next_pause(self) -> float:
        self._pause = min(self._pause * 2, 5.0)
        return self._pause

    async def _own(self) -> None:
        """Until something goes wrong.

        1. wait for the pin; 2. read the position; 3. reset the consumer to it; 4. take and decide, commit,
        acknowledge, again. The next step is decided while one is committed: the one takes the processor, the other
        waits for a disk.
        """
        work, consumer, status = self._work, self._consumer, self.status
        await consumer.ensure()
        if status.state == "starting":
            status.state = "standby"
        await consumer.acquire(work.recover)
        telemetry.emit(telemetry.OwnershipGained(cell=status.cell))
        status.position = await work.recover()
        await consumer.reset(status.position)
        status.state, status.problem = "running", ""
        telemetry.emit(telemetry.CellStarted(cell=status.cell, position=status.position))
        steps = self._steps()
        ahead = asyncio.ensure_future(anext(steps))
        try:
            while True:
                step = await ahead
                ahead = asyncio.ensure_future(anext(steps))
                await work.commit(step)
                last = step.batch[-1]
                await consumer.ack(last)
                self._progressed(last, len(step.batch))
        finally:
            ahead.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ahead])
                await steps.aclose()

    async def _steps(self) -> AsyncGenerator[Step, None]:
        work, consumer = self._work, self._consumer
        while True:
            batch = await consumer.take(limit=work.limit, weigh=work.weigh, linger_seconds=work.linger_seconds)
            async with contextlib.aclosing(work.decide(batch)) as steps:
                async for step in steps:
                    yield step

    def _progressed(self, last: Delivered, frames: int) -> None:
        status = self.status
        status.position, status.pending = last.sequence, last.pending
        status.frames += frames
        self._pause = FIRST_PAUSE
        if self._down is not None:
            tier, since = self._down
            self._down = None
            telemetry.emit(telemetry.TierRecovered(tier=tier, outage_seconds=time.monotonic() - since))
