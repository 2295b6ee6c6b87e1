"""One member of a subscription's group: hands batches to the handler, and does with them what its policy says.

Invariant: an event is settled (processed, a dead letter, skipped) or it stays with the server. A member that ends, in
whatever way, leaves what it has in hand to the others: at once when it can still say so, else after the member timeout.

Progress inside a frame is kept here, and told to the entity about once a second and when frames are given back. So a
batch that was committed comes again only after a crash: those of one frame, since the last report.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.msg import Msg

from tidegate import subject, telemetry
from tidegate.bus import Bus, Stored
from tidegate.entities.subscription import Definition, Failure, Subscription, Totals
from tidegate.errors import BusError, BusUnavailableError
from tidegate.log import Log, lines_of
from tidegate.subscriptions.burial import bury
from tidegate.subscriptions.hand import Batch, Hand, Held, Part, events_of, position_of
from tidegate.subscriptions.holding import Holding
from tidegate.subscriptions.manager import KIND, SubscriptionManager

__all__ = ["Handler", "Member"]

Handler = Callable[[Batch], Awaitable[None]]

_LOOK_SECONDS = 10.0
"""Changes of the entity are heard of as they are logged; one that was missed is seen after so long."""
_REPORTED = "subscription.reported.v1"


class Member:
    """Works on one subscription until it is deleted, `stop` is called, or it is cancelled."""

    def __init__(
        self, manager: SubscriptionManager, bus: Bus, log: Log, uid: str, state: Subscription, handler: Handler
    ) -> None:
        self._manager = manager
        self._bus = bus
        self._log = log
        self._uid = uid
        self._handler = handler
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.state = state
        """As last looked at."""
        self.problem = ""
        """Why nothing is done at the moment; "" when all is well."""
        self._news = asyncio.Event()
        """The state is to be looked at anew."""
        self._wake = asyncio.Event()
        """There is something to do other than what is being done."""
        self._stopping = False
        self._holding = Holding(manager, bus, uid, self.name, self._wake)
        self.reporter = self._holding.reporter

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises PositionError when the position is of another log, and what a bug raises."""
        heard = await self._bus.subscribe(subject.entity(KIND, "*"), self._hear)
        undo = self._bus.on_reconnect(self._news.set)
        helpers = [asyncio.create_task(one) for one in (self._watch(), self._holding.keep(), self.reporter.run())]
        try:
            await self._work()
        finally:
            undo()
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._bus.unsubscribe(heard)
            await self._holding.release()

    def stop(self) -> None:
        """End once the batch that is being processed is settled."""
        self._stopping = True
        self._wake.set()

    async def _work(self) -> None:
        pause = 0.1
        while not self._stopping:
            self._wake.clear()
            try:
                match self.state.status:
                    case "paused":
                        await self._holding.release()
                        await self._rest(_LOOK_SECONDS)
                    case "active":
                        await self._holding.open(self.state)
                        await self._next()
                    case _:
                        return
                pause, self.problem = 0.1, ""
            except (BusError, BusUnavailableError) as error:
                self.problem = str(error)
                telemetry.emit(
                    telemetry.SubscriptionWaiting(subscription=self._uid, error=str(error), retry_in_seconds=pause)
                )
                await self._holding.close()
                self._news.set()
                await self._rest(pause)
                pause = min(pause * 2, 5.0)

    async def _rest(self, seconds: float) -> None:
        """So long, or until there is something else to do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    @property
    def _interrupted(self) -> bool:
        return self._stopping or self.state.status != "active" or self.state.epoch != self._holding.hand.epoch

    # -- what the entity says -----------------------------------------------------------------------------------

    async def _hear(self, message: Msg) -> None:
        """A change of some subscription is being logged. Only a hint: whether it was stored, the entity knows."""
        for line in lines_of(Stored(message.subject, 0, 0, message.data, {})):
            change = _CHANGES.decode(line)
            if change.id == self._uid and any(event["type"] != _REPORTED for event in change.events):
                self._news.set()

    async def _watch(self) -> None:
        """Keep the state up to date. While no entity answers, the work goes on as it was."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()
            self._news.clear()
            with contextlib.suppress(BusError, BusUnavailableError):
                state = await self._manager.look(self._uid)
                before, self.state = self.state, state
                if any(getattr(before, name) != getattr(state, name) for name in ("status", "epoch", "definition")):
                    self._wake.set()

    # -- batches ------------------------------------------------------------------------------------------------

    async def _next(self) -> None:
        hand, definition = self._holding.hand, self.state.definition
        hand.drop_stale(definition.member_timeout_seconds)
        if not hand.frames:
            await self._holding.take(definition.max_batch_size)
        if hand.frames and not self._interrupted:
            await self._process(hand, hand.next_parts(definition.max_batch_size))
            # A handler that never waits would keep all others from running.
            await asyncio.sleep(0)

    async def _process(self, hand: Hand, parts: Sequence[Part]) -> None:
        """Until the batch is settled, or something else is to be done: then it stays in hand."""
        definition, policy = self.state.definition, self.state.definition.on_error
        at, count = position_of(parts), sum(part.size for part in parts)
        failure: Failure | None = None
        if (held := parts[0].held).suspect:
            failure = self._suspicion(held, at)
            self._tell(failure)
            if failure.next != "alone":
                await self._give_up(hand, parts, failure)
                return
            # Before it is tried: afterwards there may be nobody left to tell.
            await self.reporter.flush()
        for attempt in itertools.count(1):
            commit = partial(self._holding.settle, hand, parts, Totals(processed=count))
            error, committed = await self._attempt(definition, parts, at, attempt, commit)
            if not error:
                if failure is not None:
                    self.reporter.failed(replace(failure, next="recovered"))
                return
            delay = policy.delay_seconds(attempt)
            last = attempt > policy.retries
            failure = Failure(
                member=self.name,
                at=at,
                events=count,
                error=error,
                attempt=attempt,
                attempts=policy.retries + 1,
                next="committed" if committed else policy.then if last else "retry",
                next_seconds=0.0 if committed or last else delay,
            )
            self._tell(failure)
            match failure.next:
                case "retry":
                    if not await self._patience(delay) or hand.is_stale(parts, definition.member_timeout_seconds):
                        return
                case "committed":
                    return
                case _:
                    await self._give_up(hand, parts, failure)
                    return

    def _tell(self, failure: Failure) -> None:
        telemetry.emit(
            telemetry.BatchFailed(
                subscription=self._uid,
                at=failure.at,
                error=failure.error,
                attempt=failure.attempt,
                next=failure.next,
            )
        )
        self.reporter.failed(failure)

    def _suspicion(self, held: Held, at: str) -> Failure:
        """Of the next event of a frame that was delivered too often: it is tried alone, once."""
        policy, deliveries = self.state.definition.on_error, held.shared.deliveries
        again = held.alone == at
        return Failure(
            member=self.name,
            at=at,
            events=1,
            error="the process that tried this event alone ended without a word"
            if again
            else f"delivered {deliveries} times, and never finished",
            attempt=deliveries - 1,
            attempts=policy.retries + 1,
            next=policy.then if again else "alone",
        )

    async def _give_up(self, hand: Hand, parts: Sequence[Part], failure: Failure) -> None:
        """As the policy says."""
        if failure.next == "pause":
            for part in parts:
                # Whoever resumes the subscription wants it to be tried again.
                part.held.alone = ""
            await self._pause()
            return
        if failure.next == "dead_letter":
            await bury(self._log, self._uid, parts, failure.error, failure.attempt)
        await self._holding.settle(hand, parts, Totals(failed=sum(part.size for part in parts)))

    async def _attempt(
        self,
        definition: Definition,
        parts: Sequence[Part],
        at: str,
        attempt: int,
        commit: Callable[[], Awaitable[None]],
    ) -> tuple[str, bool]:
        """One call of the handler; returns what went wrong, "" for nothing, and whether the batch is committed."""
        error = ""
        limit = asyncio.timeout(definition.processing_timeout_seconds)
        batch = Batch([], at, attempt, commit)
        began = time.monotonic()
        try:
            batch.extend(events_of(parts))
            began = time.monotonic()
            async with limit:
                await self._handler(batch)
        except (Exception, asyncio.CancelledError) as problem:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # not the handler: this member is to end
            error = f"{type(problem).__name__}: {problem}"
            if limit.expired():
                error = f"took longer than {definition.processing_timeout_seconds:g} s and was cancelled"
        seconds = time.monotonic() - began
        self.reporter.count(Totals(batches=1, seconds=seconds))
        if not error and definition.auto_commit:
            await batch.commit()
        elif not error and not batch.committed:
            error = "the handler returned without commit()"
        batch.close()
        telemetry.emit(
            telemetry.BatchProcessed(subscription=self._uid, events=len(batch) if not error else 0, seconds=seconds)
        )
        return error[:_ERROR_CHARS], batch.committed

    async def _patience(self, seconds: float) -> bool:
        """Wait before a retry; returns whether it is still to be made by this member."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._interrupted:
            self._wake.clear()
            await self._rest(left)
        return not self._interrupted

    async def _pause(self) -> None:
        """The report that pauses the subscription must have arrived before anything else is done."""
        while not self._stopping:
            try:
                await self.reporter.flush()
            except (BusError, BusUnavailableError):
                await asyncio.sleep(0.5)
            else:
                break
        self.state = replace(self.state, status="paused")
        self._news.set()


class _Change(Struct, frozen=True):
    id: str
    events: list[dict[str, Any]]


_CHANGES = msgspec.json.Decoder(_Change)
_ERROR_CHARS = 500
