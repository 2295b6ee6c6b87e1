"""The loop that every cell runs: own, recover, then pull, decide and commit, acknowledge.

Invariant: a cell moves on only from the position that its commits themselves carry; whatever goes wrong, it lets go,
waits, and starts again from that position, so that nothing is lost or doubled at any point of interruption.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from tidegate import telemetry
from tidegate.actor.ownership import Delivered, OwnershipLostError, PinnedConsumer
from tidegate.errors import BusError, BusUnavailableError, FencedError, PositionError, TierUnavailableError

__all__ = ["Cell", "CellStatus", "Work"]


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

    async def process(self, batch: Sequence[Delivered]) -> None:
        """Decide and commit outputs and position in one atomic step. Raises FencedError if another has moved it."""


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

    async def run(self) -> None:
        """Run until cancelled; every failure is reported and followed by a new start, after a growing pause."""
        status = self.status
        pause = 0.1
        try:
            while True:
                frames = status.frames
                try:
                    await self._own()
                except OwnershipLostError as error:
                    telemetry.emit(telemetry.OwnershipLost(cell=status.cell, reason=str(error)))
                    status.state, status.problem = "standby", ""
                    wait = 0.05
                except FencedError as error:
                    telemetry.emit(telemetry.CellFenced(cell=status.cell, reason=str(error)))
                    status.state, status.problem = "waiting", str(error)
                    wait = 0.5
                except PositionError as error:
                    telemetry.emit(telemetry.CellStopped(cell=status.cell, reason=str(error)))
                    status.state, status.problem = "refused", str(error)
                    wait = 10.0
                except (TierUnavailableError, BusUnavailableError, BusError) as error:
                    if status.frames > frames:
                        pause = 0.1
                    status.state, status.problem = "waiting", str(error)
                    wait = pause
                    telemetry.emit(
                        telemetry.CellWaiting(cell=status.cell, error=str(error), retry_in_seconds=round(wait, 1))
                    )
                    pause = min(pause * 2, 5.0)
                if status.state == "refused" or status.state == "waiting":
                    await self._consumer.release()
                await asyncio.sleep(wait)
        finally:
            await asyncio.shield(self._consumer.release())

    async def _own(self) -> None:
        """1. wait for the pin; 2. read the position; 3. reset the consumer to it; 4. take, commit, acknowledge; again 4."""
        work, consumer, status = self._work, self._consumer, self.status
        await consumer.ensure()
        if status.state == "starting":
            status.state = "standby"
        await consumer.acquire()
        status.position = await work.recover()
        await consumer.reset(status.position)
        status.state, status.problem = "running", ""
        telemetry.emit(telemetry.OwnershipGained(cell=status.cell, position=status.position))
        while True:
            batch = await consumer.take(limit=work.limit, weigh=work.weigh, linger_seconds=work.linger_seconds)
            await work.process(batch)
            await consumer.ack(batch[-1])
            status.position = batch[-1].sequence
            status.pending = batch[-1].pending
            status.frames += len(batch)
