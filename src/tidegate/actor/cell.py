"""The loop that every cell runs: own, recover, then pull, decide, commit, evolve, acknowledge.

Invariant: a cell moves on only from the position that its commits themselves carry; whatever goes wrong, it lets go,
waits, and starts again from that position, so that nothing is lost or doubled at any point of interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from traceback import format_exc
from typing import Any, Literal, NamedTuple, Protocol

import anyio
import msgspec

from tidegate import telemetry
from tidegate.actor.mailbox import Mailbox, Positions, shown
from tidegate.actor.pulling import Delivered, OwnershipLostError
from tidegate.errors import (
    BusError,
    BusUnavailableError,
    FencedError,
    PositionError,
    TidegateError,
    TierUnavailableError,
)

__all__ = ["POINTS", "Cell", "CellStatus", "Step", "Work", "running"]

FIRST_PAUSE = 0.05
GIVE_WAY_SECONDS = 2.0
"""For another client to be pinned; one that waits is with the next message."""
POINTS = ("pull", "decide", "commit", "evolve", "ack")
"""The steps of the loop; a cell can be interrupted after each. What a projection commits is the `apply` of its tier."""

_MOST_FAILURES = 5
_FAILURES_WITHIN_SECONDS = 60.0
"""More unexpected errors than this in so short a time end the process: it is broken, and says so."""


class Step(NamedTuple):
    """A batch, and what is to be committed for it."""

    batch: Sequence[Delivered]
    decided: Any
    began: float
    """When its last message had come, by `time.monotonic`."""


class Work(Protocol):
    """What a kind of cell does with its input. To be derived from: what few need does nothing."""

    limit: int
    """A batch is full when its weights reach this."""
    linger_seconds: float = 0.0
    """How long the first message of a batch may wait for more."""
    idle_seconds: float | None = None
    """After so long without a message, an empty batch is decided on; None: never."""

    def weigh(self, message: Delivered) -> int:
        """How much of `limit` a message takes up."""

    async def recover(self) -> Positions:
        """Up to where the inputs are in the committed output, read from where the output is.

        Whatever was decided and not committed is forgotten.
        """

    def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """What to commit for the batch, in one step or several; commits nothing.

        Runs one step ahead: while a step is committed, the next one is decided.
        """

    async def commit(self, step: Step) -> None:
        """Store the step's outputs and the position in one atomic step. Raises FencedError if another has moved it."""

    async def evolve(self, step: Step) -> None:
        """The step is committed: make its outcome the state, and answer who asked for it."""
        return

    async def aclose(self) -> None:
        """The cell ends in good order, and may still be owned."""
        return

    async def let_go(self) -> None:
        """The cell is owned no longer, or will not be in a moment: end what runs beside the loop."""
        return


class CellStatus(msgspec.Struct, kw_only=True):
    """What a cell is doing, for people."""

    cell: str
    state: Literal["starting", "standby", "running", "waiting", "refused"] = "starting"
    positions: dict[str, int] = {}
    """Stream -> sequence up to which it is taken in."""
    pending: int = 0
    """Messages not yet pulled, as of the last one pulled."""
    frames: int = 0
    problem: str = ""


class Cell:
    """Runs one Work on one mailbox until cancelled. `passing` is called with each of POINTS as the loop passes it."""

    def __init__(
        self, name: str, work: Work, mailbox: Mailbox, passing: Callable[[str], None] = lambda point: None
    ) -> None:
        self._work = work
        self._mailbox = mailbox
        self._passing = passing
        self.status = CellStatus(cell=name)
        self._pause = FIRST_PAUSE
        self._failures: list[float] = []
        self._down: tuple[str, float] | None = None
        """The tier that is away, and since when."""
        self._giving_way = False
        self._waiting = anyio.CancelScope()
        """Around waiting for a step."""

    async def run(self) -> None:
        """Run until cancelled; every failure is reported and followed by a new start, after a growing pause, which ends
        early when the connection comes back.

        Raises what a bug in the work raises, when that comes too often.
        """
        try:
            while True:
                pause = await self._attempt()
                if await self._mailbox.pause(pause):
                    self._pause = FIRST_PAUSE
        finally:
            # Also while all of the process is being cancelled: others shall take over at once.
            with anyio.move_on_after(5, shield=True):
                if self.status.state == "running":
                    with contextlib.suppress(TidegateError):
                        await self._work.aclose()
                await self._mailbox.release()

    def give_way(self) -> None:
        """If it runs, let another process own it after this step; if none does, it goes on here after a moment."""
        if self.status.state == "running":
            self._giving_way = True
            self._waiting.cancel()

    async def _attempt(self) -> float:
        """Own the cell until something goes wrong; returns how many seconds to wait before the next attempt."""
        cell, status = self.status.cell, self.status
        self._giving_way = False
        try:
            await self._own()
            telemetry.emit(telemetry.CellGaveWay(cell=cell))
            status.state, status.problem = "standby", ""
            wait = GIVE_WAY_SECONDS
            with contextlib.suppress(TidegateError):
                await self._work.aclose()
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
        except Exception as error:
            now = time.monotonic()
            self._failures = [at for at in self._failures if now - at < _FAILURES_WITHIN_SECONDS] + [now]
            if len(self._failures) > _MOST_FAILURES:
                raise
            wait = self._next_pause()
            reason = f"{type(error).__name__}: {error}"
            telemetry.emit(telemetry.CellFailed(cell=cell, error=reason, retry_in_seconds=wait, stack=format_exc()))
            status.state, status.problem = "waiting", reason
        # Whoever can do better may have it.
        await self._mailbox.release()
        return wait

    def _next_pause(self) -> float:
        self._pause = min(self._pause * 2, 5.0)
        return self._pause

    async def _own(self) -> None:
        """Until something goes wrong, or it is to give way.

        1. wait for the pin; 2. read the positions; 3. reset the inputs to them; 4. take and decide, commit, evolve,
        acknowledge, again. The next step is decided while one is committed: the one takes the processor, the other
        waits for a disk.
        """
        work, mailbox, status = self._work, self._mailbox, self.status
        await mailbox.ensure()
        if status.state == "starting":
            status.state = "standby"
        await mailbox.acquire(work.recover)
        telemetry.emit(telemetry.OwnershipGained(cell=status.cell))
        positions = await work.recover()
        await mailbox.reset(positions)
        status.positions = dict(positions)
        status.state, status.problem = "running", ""
        telemetry.emit(telemetry.CellStarted(cell=status.cell, position=shown(positions)))
        steps = self._steps()
        ahead = asyncio.ensure_future(anext(steps))
        try:
            while True:
                step = None
                with anyio.CancelScope() as self._waiting:
                    if self._giving_way:
                        return
                    step = await ahead
                if step is None:
                    return
                ahead = asyncio.ensure_future(anext(steps))
                await work.commit(step)
                self._passing("commit")
                await work.evolve(step)
                self._passing("evolve")
                await mailbox.ack(step.batch)
                self._passing("ack")
                self._progressed(step.batch)
        finally:
            ahead.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ahead])
                await steps.aclose()
                await work.let_go()

    async def _steps(self) -> AsyncGenerator[Step, None]:
        work = self._work
        while True:
            batch = await self._mailbox.take(
                limit=work.limit,
                weigh=work.weigh,
                linger_seconds=work.linger_seconds,
                idle_seconds=work.idle_seconds,
            )
            self._passing("pull")
            async with contextlib.aclosing(work.decide(batch)) as steps:
                async for step in steps:
                    self._passing("decide")
                    yield step

    def _progressed(self, batch: Sequence[Delivered]) -> None:
        status = self.status
        for message in batch:
            status.positions[message.stream] = message.sequence
            status.pending = message.pending
        status.frames += len(batch)
        self._pause = FIRST_PAUSE
        if self._down is not None:
            tier, since = self._down
            self._down = None
            telemetry.emit(telemetry.TierRecovered(tier=tier, outage_seconds=time.monotonic() - since))


@contextlib.asynccontextmanager
async def running(cells: Sequence[Cell]) -> AsyncIterator[None]:
    """The cells run until the block ends."""
    tasks = [asyncio.create_task(cell.run()) for cell in cells]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
