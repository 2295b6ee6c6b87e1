"""Pulling messages from a JetStream consumer into a bounded buffer: gapless and in order, or not at all.

Invariant: what is in the buffer continues the sequence that `reset` began; at the first message that is missing, and
whenever nobody can tell, `trouble` is set and nothing is added until the next `reset`.

A heartbeat tells the last number delivered, which shows a loss on an idle consumer too. Where messages are pending
and none comes although a request is open, the subscription is taken for dead: seen after reconnects, and through
proxies that swallow what they should forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate.bus import Bus
from tidegate.errors import BusError, BusUnavailableError, TidegateError

__all__ = ["Delivered", "OwnershipLostError", "PullConsumer"]


class OwnershipLostError(TidegateError):
    """This client no longer owns the consumer, or can no longer be sure that it has seen everything."""


class Delivered(NamedTuple):
    """One message of a stream, as a consumer delivered it."""

    stream: str
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


class PullConsumer:
    """An ephemeral consumer that one client makes for itself and reads from any position."""

    heard_when_full = True
    """Whether a full buffer takes a message now and then all the same, so that the server keeps the consumer."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        name: str,
        filter_subjects: Sequence[str],
        *,
        beat_seconds: float = 1.0,
        buffer_messages: int = 512,
        buffer_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._bus = bus
        self.stream = stream
        self._title = name
        self._name = name
        self._filters = list(filter_subjects)
        self._beat = beat_seconds
        self._buffer_messages = buffer_messages
        self._buffer_bytes = buffer_bytes
        self.trouble: TidegateError | None = None
        """Why nothing more comes."""
        self.wake = asyncio.Event()
        """Set when something has come, or will no more."""
        self._buffer: deque[Delivered] = deque()
        self._buffered_bytes = 0
        self._expected = 1
        self._open_requests = 0
        """Messages that the current pull request may still bring."""
        self._spent = asyncio.Event()
        """Set when it will bring no more: until the next one nothing comes."""
        self._oversize = False
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._pump: asyncio.Task[None] | None = None
        self._last_heard = 0.0
        self._last_delivery = 0.0

    # -- reading ------------------------------------------------------------------------------------------------

    async def reset(self, after: int) -> None:
        """Deliver from the first message after sequence `after`."""
        await self._stop_pump()
        # A new inbox: what older requests still bring goes nowhere.
        await self._fresh_inbox(self._on_delivery)
        self._buffer.clear()
        self._buffered_bytes = 0
        self._expected = 1
        self._open_requests = 0
        self.trouble = None
        await self._place(after)
        self._last_heard = self._last_delivery = time.monotonic()
        self._pump = asyncio.create_task(self._keep_pulling(), name=f"pull {self._name}")

    def pop(self) -> Delivered | None:
        """The next message, if one is there."""
        if not self._buffer:
            return None
        one = self._buffer.popleft()
        self._buffered_bytes -= len(one.payload)
        return one

    async def ack(self, last: Delivered) -> None:
        """Everything up to `last` is committed; this consumer has nobody to tell."""

    async def release(self) -> None:
        """Stop pulling, and let go of the consumer."""
        await self._stop_pump()
        await self._drop_inbox()
        with contextlib.suppress(BusError, BusUnavailableError):
            await self._bus.api(f"CONSUMER.DELETE.{self.stream}.{self._name}")

    # -- what a kind of consumer does differently ---------------------------------------------------------------

    async def _place(self, after: int) -> None:
        """Have the server begin after `after`, and number what it delivers from 1."""
        with contextlib.suppress(BusError):
            await self._bus.api(f"CONSUMER.DELETE.{self.stream}.{self._name}")
        self._name = f"{self._title}-{uuid.uuid4().hex[:8]}"
        config = {
            "name": self._name,
            "ack_policy": "none",
            **self._where(after),
            "filter_subjects": self._filters,
            "inactive_threshold": 30 * 10**9,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await self._bus.api(
            f"CONSUMER.CREATE.{self.stream}.{self._name}", {"stream_name": self.stream, "config": config}
        )

    def _where(self, after: int) -> dict[str, Any]:
        """Where a consumer begins, as JetStream says it."""
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}

    def _body(self) -> dict[str, Any]:
        """What each pull request says besides what it asks for."""
        return {}

    # -- pulling ------------------------------------------------------------------------------------------------

    async def _fresh_inbox(self, call: Callable[[Msg], Awaitable[None]]) -> None:
        await self._drop_inbox()
        self._inbox = self._bus.new_inbox()
        self._subscription = await self._bus.subscribe(self._inbox, call)

    async def _drop_inbox(self) -> None:
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def _request(self, *, batch: int, expires_seconds: float, no_wait: bool = False) -> None:
        body: dict[str, Any] = {"batch": batch, **self._body()}
        if no_wait:
            body["no_wait"] = True
        else:
            body["expires"] = int(expires_seconds * 1e9)
            body["idle_heartbeat"] = int(expires_seconds * 1e9 / 2)
        if batch > 1 and not self._oversize:
            body["max_bytes"] = self._buffer_bytes
        await self._bus.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self._name}", msgspec.json.encode(body), self._inbox
        )

    async def _keep_pulling(self) -> None:
        undo = self._bus.on_reconnect(
            lambda: self._fail(OwnershipLostError(f"{self._name}: messages may have been lost in a reconnect"))
        )
        last_request = 0.0
        try:
            while self.trouble is None:
                now = time.monotonic()
                room = self._buffer_messages - len(self._buffer)
                if self._open_requests <= 0 and room > 0 and self._buffered_bytes < self._buffer_bytes:
                    batch = 1 if self._oversize else room
                    self._open_requests = batch
                    await self._request(batch=batch, expires_seconds=self._beat)
                    self._oversize = False
                    last_request = now
                elif self._open_requests <= 0 and now - last_request >= self._beat and self.heard_when_full:
                    # The buffer is full, but silence would cost the pin.
                    self._open_requests = 1
                    await self._request(batch=1, expires_seconds=self._beat, no_wait=True)
                    last_request = now
                elif self._open_requests > 0 and now - max(self._last_heard, last_request) > self._beat * 4:
                    raise OwnershipLostError(f"{self._name}: the server has gone silent")
                elif not self._buffer and now - self._last_delivery > self._beat * 5:
                    await self._look_whether_any_should_have_come()
                if self._open_requests <= 0:
                    await asyncio.sleep(0.005)
                    continue
                self._spent.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._beat / 20):
                        await self._spent.wait()
        except TidegateError as error:
            self._fail(error)
        finally:
            undo()

    async def _look_whether_any_should_have_come(self) -> None:
        before, self._last_delivery = self._expected, time.monotonic()
        info = await self._bus.api(f"CONSUMER.INFO.{self.stream}.{self._name}")
        missed = info["delivered"]["consumer_seq"] >= self._expected
        if (info["num_pending"] > 0 or missed) and self._expected == before:
            await asyncio.sleep(self._beat)
            if self._expected == before:
                raise OwnershipLostError(f"{self._name}: {info['num_pending']} messages are pending, but none comes")

    async def _stop_pump(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
            self._pump = None

    def _fail(self, error: TidegateError) -> None:
        if self.trouble is None:
            self.trouble = error
        self.wake.set()

    async def _on_delivery(self, message: Msg) -> None:
        self._last_heard = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>, or with
            # <domain>.<account> before the stream: counted from the right.
            sequence, number, stored_ns, pending = map(int, message.reply.split(".")[-4:])
            if number != self._expected:
                self._fail(OwnershipLostError(f"{self._name}: message {self._expected} is missing"))
            if self.trouble is not None:
                return
            self._last_delivery = self._last_heard
            self._expected += 1
            self._open_requests -= 1
            if self._open_requests <= 0:
                self._spent.set()
            self._buffered_bytes += len(message.data)
            self._buffer.append(
                Delivered(
                    self.stream,
                    message.subject,
                    sequence,
                    stored_ns // 1_000_000,
                    number,
                    pending,
                    message.data,
                    message.headers or {},
                )
            )
            self.wake.set()
            return
        self._on_status(message.headers or {})

    def _on_status(self, headers: Mapping[str, str]) -> None:
        match headers.get("Status"):
            case "100":
                if int(headers.get("Nats-Last-Consumer", 0)) >= self._expected:
                    self._fail(OwnershipLostError(f"{self._name}: message {self._expected} is missing"))
            case "404" | "408":
                self._open_requests = 0
                self._spent.set()
            case "409" if headers.get("Description") == "Batch Completed":
                pass  # said of each full batch with a bound in bytes; its messages have been counted
            case "409" if "MaxBytes" in headers.get("Description", ""):
                self._oversize = True  # fetch that one by itself
                self._open_requests = 0
                self._spent.set()
            case status:
                self._fail(BusUnavailableError(f"{self._name}: {status} {headers.get('Description', '')}"))
