"""The frames that a member holds, and what the server and the entity are told of them.

Invariant: the server hears of a frame that it is done only after all of its events are settled, and that it is being
worked on for as long as it is held; what is not told for the consumer's `ack_wait` is no longer ours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from tidegate import subject
from tidegate.actor.sharing import Shared, SharedConsumer
from tidegate.bus import Bus
from tidegate.entities.selection import selecting
from tidegate.entities.subscription import Definition, Failure, Subscription, Totals
from tidegate.errors import BusError, BusUnavailableError
from tidegate.frame import COUNT
from tidegate.subscriptions.hand import ALL, Hand, Held, Part
from tidegate.subscriptions.manager import SubscriptionManager, consumer_of
from tidegate.subscriptions.reporting import Reporter

__all__ = ["Holding"]

_WAIT_SECONDS = 5.0
_FETCH_BYTES = 256 * 1024
"""About 3,000 events: enough to work on, and little to wait for where other members idle."""


class Holding:
    """What the member `name` of the subscription `uid` holds. `wake` ends waiting for more."""

    def __init__(self, manager: SubscriptionManager, bus: Bus, uid: str, name: str, wake: asyncio.Event) -> None:
        self._manager = manager
        self._bus = bus
        self._uid = uid
        self._name = name
        self._wake = wake
        self._leaving = False
        self._consumer: SharedConsumer | None = None
        self._definition = Definition()
        self._select = selecting(self._definition.types, self._definition.where)
        self._alone = ""
        """The event that somebody was last known to try alone."""
        self.hand = Hand(0)
        self.reporter = Reporter(partial(manager.report, uid), self._position)

    # -- the consumer -------------------------------------------------------------------------------------------

    async def open(self, state: Subscription) -> None:
        """Read by the consumer of the state's epoch, unless that is what is done already.

        Raises PositionError when the position is of another log.
        """
        if state.definition != self._definition:
            self._definition = state.definition
            self._select = selecting(state.definition.types, state.definition.where)
        if self._consumer is not None and self.hand.epoch == state.epoch:
            return
        await self.close()
        if self.hand.epoch != state.epoch:
            # What was in hand is of a position that counts no more.
            self.hand = Hand(state.epoch)
        await self._manager.ensure(self._uid, state)
        self._consumer = SharedConsumer(self._bus, subject.LOG, consumer_of(self._uid, state.epoch), self._wake)

    async def close(self) -> None:
        """Read no more, until it is opened again; what is in hand stays."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.aclose()

    # -- frames -------------------------------------------------------------------------------------------------

    async def take(self, limit: int) -> None:
        """Fetch frames, at most `limit`; none when none come for a while, or `wake` is set."""
        hand, consumer = self.hand, self._consumer
        assert consumer is not None
        found = await consumer.fetch(limit, _FETCH_BYTES, _WAIT_SECONDS)
        places = await self._places(found)
        unwanted = []
        for shared in found:
            place = places.get(shared.sequence, 0)
            if place == ALL or shared.sequence in hand.done:
                hand.finish(shared)
                continue
            suspect = shared.deliveries > self._definition.on_error.retries + 1
            held = Held(shared, self._select, place, suspect=suspect, alone=self._alone if suspect else "")
            if held.done == len(held.chosen):
                unwanted.append(held)
            else:
                hand.frames[shared.sequence] = held
        await self._finish(hand, unwanted, Totals())

    async def _places(self, found: Sequence[Shared]) -> dict[int, int]:
        """How far others have come with frames that were delivered before."""
        again = [one for one in found if one.deliveries > 1 and one.sequence not in self.hand.done]
        if not again:
            return {}
        places: dict[int, int] = {}
        with contextlib.suppress(BusError, BusUnavailableError):
            state = await self._manager.look(self._uid)
            last = state.last_failure
            self._alone = last.at if last is not None and last.next == "alone" else ""
            if state.epoch == self.hand.epoch:
                places = state.places | {one.sequence: ALL for one in again if one.sequence <= state.floor}
        if lost := [one for one in again if one.sequence not in places]:
            first = lost[0]
            self.reporter.failed(
                Failure(
                    member=self._name,
                    at=f"{first.stream}/{first.sequence}",
                    events=sum(int((one.message.headers or {}).get(COUNT, 1)) for one in lost),
                    error=f"{len(lost)} frames were not finished by the member that had them; delivered again",
                    next="redelivery",
                )
            )
        return places

    async def settle(self, hand: Hand, parts: Sequence[Part], totals: Totals) -> None:
        """The events are dealt with, and counted in `totals`."""
        await self._finish(hand, hand.settle(parts), totals)

    async def _finish(self, hand: Hand, frames: Sequence[Held], totals: Totals) -> None:
        """These frames are done. The server hears of it now, or from `keep` once it can."""
        filtered = sum(len(one.lines) - len(one.chosen) for one in frames)
        if filtered or totals.processed or totals.failed:
            self.reporter.count(totals.plus(Totals(filtered=filtered)))
        for one in frames:
            hand.finish(one.shared)
        with contextlib.suppress(BusUnavailableError):
            await self._acknowledge(hand)

    async def _acknowledge(self, hand: Hand) -> None:
        messages = list(hand.unconfirmed.values())
        # Of an older epoch: that consumer is gone, and nobody needs to know.
        if messages and self._consumer is not None and hand is self.hand:
            await self._consumer.acknowledge(messages)
            for one in messages:
                hand.unconfirmed.pop(one.sequence, None)
            self.reporter.moved()

    async def keep(self) -> None:
        """Tell the server that what is in hand is being worked on, however long handlers take."""
        while True:
            seconds = self._definition.member_timeout_seconds
            await asyncio.sleep(seconds / 4)
            hand = self.hand
            # First: what another may have by now is not to be claimed again.
            hand.drop_stale(seconds)
            with contextlib.suppress(BusUnavailableError):
                if self._consumer is not None and hand.frames:
                    await self._consumer.acknowledge([one.shared for one in hand.frames.values()], b"+WPI")
                await self._acknowledge(hand)

    async def _position(self) -> tuple[int, int, dict[int, int]]:
        """Epoch, floor and places, for a report."""
        hand, floor = self.hand, 0
        with contextlib.suppress(BusError):
            name = consumer_of(self._uid, hand.epoch)
            info = await self._bus.api(f"CONSUMER.INFO.{subject.LOG}.{name}")
            floor = info["ack_floor"]["stream_seq"]
        places = hand.places(self._leaving)
        if self._leaving and self._consumer is not None:
            places |= {one.sequence: 0 for one in self._consumer.arrived if one.sequence not in places}
        return hand.epoch, floor, places

    async def release(self) -> None:
        """Give back what is in hand, and say how far it is settled. As far as possible within 3 s."""
        self._leaving = True
        if self._consumer is not None:
            # The server drops a waiting request when nobody listens for what it brings.
            await self._consumer.aclose()
        try:
            async with asyncio.timeout(3):
                if self.hand.frames or (self._consumer is not None and self._consumer.arrived):
                    self.reporter.moved()
                with contextlib.suppress(BusError, BusUnavailableError):
                    await self.reporter.flush()
        except TimeoutError:
            pass
        finally:
            self._leaving = False
        if self._consumer is not None:
            await self._consumer.give_back([one.shared for one in self.hand.frames.values()])
        self.hand.frames.clear()
