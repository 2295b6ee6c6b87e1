"""A durable consumer that several clients pull from at once, each message going to one of them.

Invariant: a message is somebody's until it is acknowledged, given back, or not confirmed to be in hand for the
consumer's `ack_wait`; then the server delivers it again, to whoever asks. Nothing is promised about order.

Seen on nats-server 2.15.1: a `no_wait` request ends with 404, also after messages, unless it was filled; a progress
note (`+WPI`) is answered like an acknowledgement; an acknowledgement counts whichever delivery it is of; one for a
consumer that was deleted is answered with 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate.bus import Bus
from tidegate.errors import BusUnavailableError

__all__ = ["Shared", "SharedConsumer"]

_SILENCE_SECONDS = 5.0


class Shared:
    """A message in hand."""

    __slots__ = ("deliveries", "heard", "message", "sequence", "stream", "time_ms")

    def __init__(self, message: Msg) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>, or with
        # <domain>.<account> before the stream: counted from the right.
        stream, _, deliveries, sequence, _, stored_ns, _ = message.reply.split(".")[-7:]
        self.message = message
        self.stream = stream
        self.sequence = int(sequence)
        self.deliveries = int(deliveries)
        self.time_ms = int(stored_ns) // 1_000_000
        self.heard = time.monotonic()
        """When the server was last known to take it for ours."""


class SharedConsumer:
    """One client's way to a durable consumer that is there already. `wake` ends waiting in `fetch`."""

    def __init__(self, bus: Bus, stream: str, durable: str, wake: asyncio.Event) -> None:
        self._bus = bus
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._wake = wake
        self._inbox = ""
        self._subscription: Subscription | None = None
        self.arrived: deque[Shared] = deque()
        """What the next `fetch` returns."""
        self._ended = ""
        """The status that ended the last request."""
        self._enough = asyncio.Event()
        """The request has ended, or brought all that it can."""
        self._wanted = 0
        """So many in `arrived` are all that it can bring."""
        self._requests = 0

    async def fetch(self, limit: int, max_bytes: int, wait_seconds: float) -> list[Shared]:
        """What is there, `limit` messages or `max_bytes` about; nothing after `wait_seconds`, or when `wake` is set.

        Raises BusUnavailableError when the consumer is gone, or the server is.
        """
        if not self.arrived:
            await self._pull(limit, {"no_wait": True, "max_bytes": max_bytes})
            if not self.arrived and self._ended == "409":
                # One that is larger than all we asked for.
                await self._pull(1, {"no_wait": True})
            if not self.arrived and not self._wake.is_set():
                await self._pull(1, {"expires": int(wait_seconds * 1e9)}, wait_seconds)
        found = list(self.arrived)
        self.arrived.clear()
        return found

    async def _pull(self, limit: int, body: dict[str, object], wait_seconds: float = 0.0) -> None:
        """Until the request has brought `limit` messages or has ended, or `wake` is set where it waits."""
        if self._subscription is None:
            inbox = self._bus.new_inbox()
            self._subscription = await self._bus.subscribe(f"{inbox}.*", self._take)
            self._inbox = inbox
        self._requests += 1
        self._ended = ""
        self._enough.clear()
        self._wanted = len(self.arrived) + limit
        body = {"batch": limit, **body}
        await self._bus.send(self._next, msgspec.json.encode(body), f"{self._inbox}.{self._requests}")
        events = [self._enough, self._wake] if wait_seconds else [self._enough]
        waits = [asyncio.ensure_future(one.wait()) for one in events]
        try:
            timeout = wait_seconds + _SILENCE_SECONDS
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        if not done:
            # After a reconnect a subscription may look healthy and hear nothing: the next pull makes a new one.
            await self.aclose()
            raise BusUnavailableError(f"{self._next}: the server has gone silent")
        if self._ended not in ("", "404", "408", "409"):
            raise BusUnavailableError(f"{self._next}: {self._ended}")

    async def _take(self, message: Msg) -> None:
        if message.reply.startswith("$JS.ACK."):
            self.arrived.append(Shared(message))
            if len(self.arrived) >= self._wanted:
                self._enough.set()
            return
        # Statuses of requests that nobody waits for any more are passed over.
        if message.subject == f"{self._inbox}.{self._requests}":
            headers = message.headers or {}
            status, description = headers.get("Status", ""), headers.get("Description", "")
            size = status == "409" and ("MaxBytes" in description or description == "Batch Completed")
            if status != "100":
                self._ended = status if size or status in ("404", "408") else f"{status} {description.strip()}"
                self._enough.set()

    async def acknowledge(self, messages: Sequence[Shared], word: bytes = b"+ACK") -> None:
        """Tell the server that they are done; returns once it has heard of all. Raises BusUnavailableError.

        With `+WPI`: that they are still being worked on.
        """
        # Messages of one connection are taken in order: the answer to the last one is for all of them.
        for one in messages[:-1]:
            await self._bus.send(one.message.reply, word)
        if messages:
            await self._bus.request(messages[-1].message.reply, word)
        now = time.monotonic()
        for one in messages:
            one.heard = now

    async def give_back(self, messages: Sequence[Shared]) -> None:
        """Have these, and what has arrived and was not fetched, delivered again, at once."""
        for one in [*messages, *self.arrived]:
            with contextlib.suppress(BusUnavailableError):
                await self._bus.send(one.message.reply, b"-NAK")
        self.arrived.clear()

    async def aclose(self) -> None:
        """Listen no more, until the next `fetch`."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await self._bus.unsubscribe(subscription)
