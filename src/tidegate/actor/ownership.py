"""Pinned consumers: one durable pull consumer per cell, of which the server serves one client at a time.

Invariant: what `take` returns is gapless and in order from the sequence given to `reset`; any doubt (a gap, a missing
heartbeat, a reconnect, a lost pin) ends in OwnershipLostError, and the caller recovers its position and starts again.

The protocol (nats-py 2.16 has no wrapper; all of it seen on nats-server 2.15.1):
1. A pull request names the priority group; a waiting one becomes the owner when its first message comes, which carries
   `Nats-Pin-Id`. Later requests carry that id; a request with an id that is no longer the owner's gets status 423.
2. The owner loses the pin when it sends no request for `priority_timeout`, so requests are short and repeated.
3. `CONSUMER.RESET` moves the consumer to a sequence, restarts its own numbering at 1 and keeps the pin.
4. A heartbeat tells the last number delivered, which shows a loss on an idle consumer too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate.bus import CONSUMER_NOT_FOUND, Bus
from tidegate.errors import BusError, BusUnavailableError, TidegateError

__all__ = ["Delivered", "OwnershipLostError", "PinnedConsumer"]

GROUP = "owner"


class OwnershipLostError(TidegateError):
    """This client no longer owns the consumer, or can no longer be sure that it has seen everything."""


class Delivered(NamedTuple):
    """One message of a stream, as a consumer delivered it."""

    subject: str
    sequence: int
    time_ms: int
    """When the stream stored it, milliseconds since 1970."""
    number: int
    """Which message of the consumer's own numbering it is."""
    pending: int
    """Messages that the consumer had still to deliver after this one."""
    payload: bytes
    headers: Mapping[str, str]


class PinnedConsumer:
    """One durable pinned consumer, seen from one client."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        filter_subject: str,
        *,
        pin_timeout_seconds: float = 3.0,
        buffer_messages: int = 512,
        buffer_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._durable = durable
        self._filter = filter_subject
        self._pin_timeout = pin_timeout_seconds
        self._beat = pin_timeout_seconds / 3
        self._buffer_messages = buffer_messages
        self._buffer_bytes = buffer_bytes
        self._pin = ""
        self._buffer: deque[Delivered] = deque()
        self._buffered_bytes = 0
        self._expected = 1
        self._open_requests = 0
        """Messages that the current pull request may still bring."""
        self._oversize = False
        self._trouble: TidegateError | None = None
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._pump: asyncio.Task[None] | None = None
        self._last_heard = 0.0

    async def ensure(self) -> None:
        """Create the consumer unless it is there. Its position is only a hint: `reset` decides."""
        try:
            await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._durable}")
        except BusError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise
            config = {
                "durable_name": self._durable,
                "ack_policy": "all",
                "deliver_policy": "all",
                "filter_subject": self._filter,
                # Never redeliver by itself: whoever takes over resets the consumer to its own position.
                "ack_wait": 24 * 3600 * 10**9,
                "max_ack_pending": -1,
                "priority_groups": [GROUP],
                "priority_policy": "pinned_client",
                "priority_timeout": int(self._pin_timeout * 1e9),
            }
            await self._bus.api(
                f"CONSUMER.DURABLE.CREATE.{self._stream}.{self._durable}",
                {"stream_name": self._stream, "config": config},
            )

    async def acquire(self, position: Callable[[], Awaitable[int]]) -> None:
        """Wait until the server pins this client; that takes a message to deliver, so it may take for ever.

        `position` tells up to which sequence the input is committed. Raises what that raises.
        """
        await self._stop_pump()
        await self._fresh_inbox(self._on_acquiring)
        self._trouble = None
        owned = self._pin  # after a reconnect the pin may still be ours
        self._pin = ""
        while True:
            await self._revive(position, owned)
            self._wake.clear()
            self._open_requests = 1
            await self._request(batch=1, expires_seconds=self._beat, pin=owned)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat * 3):
                    await self._wake.wait()
            trouble = self._take_trouble()
            if isinstance(trouble, OwnershipLostError):
                owned = ""
            elif trouble is not None:
                raise trouble
            elif self._pin:
                return

    async def _revive(self, position: Callable[[], Awaitable[int]], owned: str) -> None:
        """Have delivered again what the last owner got and never committed.

        The server counts it as delivered, so without new messages nobody would be pinned, and it would lie there.
        """
        info = await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._durable}")
        if _pin_in(info) in ("", owned) and info["num_pending"] == 0:
            after = await position()
            if after < info["delivered"]["stream_seq"]:
                await self._bus.api(f"CONSUMER.RESET.{self._stream}.{self._durable}", {"seq": after + 1})

    def _take_trouble(self) -> TidegateError | None:
        trouble, self._trouble = self._trouble, None
        return trouble

    async def reset(self, after: int) -> None:
        """Deliver from the first message after sequence `after`. Raises OwnershipLostError if the pin has gone."""
        await self._stop_pump()
        # A new inbox: what older requests still bring goes nowhere.
        await self._fresh_inbox(self._on_delivery)
        self._buffer.clear()
        self._buffered_bytes = 0
        self._expected = 1
        self._open_requests = 0
        self._trouble = None
        self._wake.clear()
        if await self._pinned() != self._pin:
            self._pin = ""
            raise OwnershipLostError(f"{self._durable}: another client owns it now")
        await self._bus.api(f"CONSUMER.RESET.{self._stream}.{self._durable}", {"seq": after + 1})
        self._last_heard = time.monotonic()
        self._pump = asyncio.create_task(self._keep_pulling(), name=f"pull {self._durable}")

    async def take(
        self, *, limit: int, weigh: Callable[[Delivered], int], linger_seconds: float = 0.0
    ) -> list[Delivered]:
        """The next messages: at least one, until their weights reach `limit` or the first has waited `linger_seconds`.

        Raises OwnershipLostError or BusUnavailableError.
        """
        batch: list[Delivered] = []
        weight = 0
        deadline = 0.0
        while True:
            while self._buffer and weight < limit:
                one = self._buffer.popleft()
                self._buffered_bytes -= len(one.payload)
                weight += weigh(one)
                batch.append(one)
                if not deadline:
                    deadline = time.monotonic() + linger_seconds
            if self._trouble is not None:
                raise self._trouble
            if batch and (weight >= limit or time.monotonic() >= deadline):
                return batch
            self._wake.clear()
            timeout = deadline - time.monotonic() if batch else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def ack(self, last: Delivered) -> None:
        """Tell the server that everything up to `last` is committed; it shows in `nats consumer info`."""
        place = f"{last.sequence}.{last.number}.{last.time_ms * 1_000_000}"
        subject = f"$JS.ACK.{self._stream}.{self._durable}.1.{place}.0"
        await self._bus.send(subject, b"+ACK")

    async def release(self) -> None:
        """Stop pulling and let another client be pinned at once."""
        await self._stop_pump()
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None
        if self._pin:
            pin, self._pin = self._pin, ""
            with contextlib.suppress(BusError, BusUnavailableError):
                # Whoever owns the consumer meanwhile shall keep it.
                if await self._pinned() == pin:
                    await self._bus.api(f"CONSUMER.UNPIN.{self._stream}.{self._durable}", {"group": GROUP})

    async def _pinned(self) -> str:
        return _pin_in(await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._durable}"))

    # -- pulling ------------------------------------------------------------------------------------------------

    async def _fresh_inbox(self, call: Callable[[Msg], Any]) -> None:
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
        self._inbox = self._bus.new_inbox()
        self._subscription = await self._bus.subscribe(self._inbox, call)

    async def _request(self, *, batch: int, expires_seconds: float, pin: str, no_wait: bool = False) -> None:
        body: dict[str, Any] = {"batch": batch, "group": GROUP}
        if pin:
            body["id"] = pin
        if no_wait:
            body["no_wait"] = True
        else:
            body["expires"] = int(expires_seconds * 1e9)
            body["idle_heartbeat"] = int(expires_seconds * 1e9 / 2)
        if batch > 1 and not self._oversize:
            body["max_bytes"] = self._buffer_bytes
        await self._bus.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}", msgspec.json.encode(body), self._inbox
        )

    async def _keep_pulling(self) -> None:
        undo = self._bus.on_reconnect(
            lambda: self._fail(OwnershipLostError(f"{self._durable}: messages may have been lost in a reconnect"))
        )
        last_request = 0.0
        try:
            while self._trouble is None:
                now = time.monotonic()
                room = self._buffer_messages - len(self._buffer)
                if self._open_requests <= 0 and room > 0 and self._buffered_bytes < self._buffer_bytes:
                    batch = 1 if self._oversize else room
                    self._open_requests = batch
                    await self._request(batch=batch, expires_seconds=self._beat, pin=self._pin)
                    self._oversize = False
                    last_request = now
                elif self._open_requests <= 0 and now - last_request >= self._beat:
                    # The buffer is full, but silence would cost the pin.
                    self._open_requests = 1
                    await self._request(batch=1, expires_seconds=self._beat, pin=self._pin, no_wait=True)
                    last_request = now
                elif self._open_requests > 0 and now - max(self._last_heard, last_request) > self._beat * 4:
                    raise OwnershipLostError(f"{self._durable}: the server has gone silent")
                await asyncio.sleep(0.005 if self._open_requests <= 0 else self._beat / 20)
        except TidegateError as error:
            self._fail(error)
        finally:
            undo()

    async def _stop_pump(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
            self._pump = None

    def _fail(self, error: TidegateError) -> None:
        if self._trouble is None:
            self._trouble = error
        self._wake.set()

    async def _on_acquiring(self, message: Msg) -> None:
        headers = message.headers or {}
        if pin := headers.get("Nats-Pin-Id"):
            self._pin = pin
            self._wake.set()
            return
        match headers.get("Status"):
            case "100":
                return
            case "423":
                self._fail(OwnershipLostError(f"{self._durable}: not the owner"))
            case "404" | "408":
                self._wake.set()
            case status:
                self._fail(BusUnavailableError(f"{self._durable}: {status} {headers.get('Description', '')}"))

    async def _on_delivery(self, message: Msg) -> None:
        self._last_heard = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>, or with
            # <domain>.<account> before the stream: counted from the right.
            sequence, number, stored_ns, pending = map(int, message.reply.split(".")[-4:])
            if number != self._expected:
                self._fail(OwnershipLostError(f"{self._durable}: message {self._expected} is missing"))
                return
            self._expected += 1
            self._open_requests -= 1
            self._buffered_bytes += len(message.data)
            self._buffer.append(
                Delivered(
                    message.subject,
                    sequence,
                    stored_ns // 1_000_000,
                    number,
                    pending,
                    message.data,
                    message.headers or {},
                )
            )
            self._wake.set()
            return
        headers = message.headers or {}
        match headers.get("Status"):
            case "100":
                if int(headers.get("Nats-Last-Consumer", 0)) >= self._expected:
                    self._fail(OwnershipLostError(f"{self._durable}: message {self._expected} is missing"))
            case "404" | "408":
                self._open_requests = 0
            case "409" if headers.get("Description") == "Batch Completed":
                pass  # said of each full batch with a bound in bytes; its messages have been counted
            case "409" if "MaxBytes" in headers.get("Description", ""):
                self._oversize = True  # fetch that one by itself
                self._open_requests = 0
            case "423":
                self._pin = ""
                self._fail(OwnershipLostError(f"{self._durable}: another client owns it now"))
            case status:
                self._fail(BusUnavailableError(f"{self._durable}: {status} {headers.get('Description', '')}"))


def _pin_in(info: dict[str, Any]) -> str:
    """The pin of the present owner, "" for none."""
    return str((info.get("priority_groups") or [{}])[0].get("pinned_client_id", ""))
