"""`subscribe_to_stream`: a member of a subscription's group, for as long as a block runs.

Invariant: when the block ends, nothing is left in hand, and what the member has done is reported, as far as the
connection allows; an error that ended the member is raised, not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from tidegate.bus import Bus, connect
from tidegate.entities.selection import EventFilter, EventType, selecting
from tidegate.entities.subscription import Definition, ErrorPolicy, Subscription, Totals
from tidegate.log import Log
from tidegate.subscriptions.manager import Lag, Place, SubscriptionManager, identity
from tidegate.subscriptions.member import Handler, Member

__all__ = ["Subscriber", "subscribe_to_stream"]


class Subscriber:
    """A member at work, and the subscription that it belongs to."""

    def __init__(self, name: str, group: str, manager: SubscriptionManager, member: Member) -> None:
        self.name = name
        self.group = group
        self._manager = manager
        self._member = member
        self._task = asyncio.create_task(member.run(), name=f"subscription {name}/{group}")

    @property
    def totals(self) -> Totals:
        """What this member has done: events processed, failed and filtered, batches, seconds in the handler."""
        return self._member.reporter.totals

    @property
    def problem(self) -> str:
        """Why nothing is done at the moment, such as a lost connection; "" when all is well."""
        return self._member.problem

    async def state(self) -> Subscription:
        """The subscription: status, totals of all members, last failure and what follows from it."""
        return await self._manager.get(self.name, group=self.group)

    async def lag(self) -> Lag:
        """How far all members together are behind."""
        return await self._manager.lag(self.name, group=self.group)

    async def pause(self, reason: str = "") -> None:
        """All members stop after the batch they are at, until `resume`."""
        await self._manager.pause(self.name, group=self.group, reason=reason)

    async def resume(self) -> None:
        """Go on after `pause`, or after the policy for errors has paused it."""
        await self._manager.resume(self.name, group=self.group)

    async def seek(self, to: Place) -> None:
        """All members go on from there: "start", "end", a sequence of the log, or a time."""
        await self._manager.seek(self.name, to, group=self.group)

    async def delete(self) -> None:
        """End the subscription, for all members and for good."""
        await self._manager.delete(self.name, group=self.group)

    async def caught_up(self) -> None:
        """Wait until nothing is left of what the log holds. Raises what ended this member, if that comes first."""
        while not self._task.done():
            lag = await self.lag()
            if lag.frames == lag.in_hand == 0:
                return
            await asyncio.sleep(0.1)
        await self.ended()

    async def ended(self) -> None:
        """Wait until this member has ended: the subscription was deleted, or `stop` called. Raises what it died of."""
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """End this member, after the batch that it is at."""
        self._member.stop()
        await self.ended()

    async def abort(self) -> None:
        """End this member now: the handler is cancelled, and its batch goes to another member."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextlib.asynccontextmanager
async def subscribe_to_stream(
    name: str,
    handler: Handler,
    *,
    types: Sequence[EventType] = (),
    where: EventFilter = EventFilter(),  # noqa: B008 - frozen
    group: str = "main",
    auto_commit: bool = True,
    max_batch_size: int = 100,
    processing_timeout: float = 30.0,
    on_error: ErrorPolicy = ErrorPolicy(),  # noqa: B008 - frozen
    start: Place = "start",
    member_timeout: float = 15.0,
    url: str = "nats://127.0.0.1:4222",
    credentials_file: str | None = None,
    shards: int = 4,
    bus: Bus | None = None,
) -> AsyncIterator[Subscriber]:
    """Have `handler` called with batches of the events of the log, until the block ends.

    ::

        async def forward(batch: Batch) -> None:
            await send(batch)                     # a list of dicts, each an OCSF event

        async with subscribe_to_stream("forwarder", forward, types=["dns_activity"]) as subscriber:
            await subscriber.ended()

    Everybody who subscribes under the same `name` and `group` shares the work; another group gets everything again. A
    new subscription begins at `start`, an old one where it was. The other settings are the subscription's: whoever
    subscribes last sets them for all members.

    Each event is delivered at least once; events of one frame in order, frames in any where members share them.
    `handler` must not block the event loop: a member that is silent for `member_timeout` seconds loses what it has in
    hand to the others. `processing_timeout` is in seconds, too. Without `auto_commit` the handler calls `commit` of
    the batch; one that returns without has failed, and `on_error` says what follows.

    The process `entities` must be up. Raises ConfigError for a filter that makes no sense, CommandRefusedError for a
    setting that does not, BusUnavailableError when NATS or `entities` cannot be reached.
    """
    uid = identity(name, group)
    definition = Definition(
        types=tuple(types),
        where=where,
        auto_commit=auto_commit,
        max_batch_size=max_batch_size,
        processing_timeout_seconds=processing_timeout,
        member_timeout_seconds=member_timeout,
        on_error=on_error,
    )
    selecting(definition.types, where)
    async with contextlib.AsyncExitStack() as stack:
        if bus is None:
            bus = await stack.enter_async_context(
                connect(url, name=f"tidegate subscriber {uid}", credentials_file=credentials_file)
            )
        log = Log(bus, shards)
        manager = SubscriptionManager(bus, log)
        state = await manager.create(name, definition, group=group, start=start)
        subscriber = Subscriber(name, group, manager, Member(manager, bus, log, uid, state, handler))
        try:
            yield subscriber
        except BaseException:
            await subscriber.abort()
            raise
        await subscriber.stop()
