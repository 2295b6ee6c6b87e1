"""Pinned consumers: one durable pull consumer per cell, of which the server serves one client at a time.

Invariant: any doubt about who owns it (a lost pin, a reconnect, silence) ends in OwnershipLostError, and the caller
recovers its position and starts again.

The protocol (nats-py 2.16 has no wrapper; all of it seen on nats-server 2.15.1):
1. A pull request names the priority group; a waiting one becomes the owner when its first message comes, which carries
   `Nats-Pin-Id`. Later requests carry that id; a request with an id that is no longer the owner's gets status 423.
2. The owner loses the pin when it sends no request for `priority_timeout`, so requests are short and repeated.
3. `CONSUMER.RESET` moves the consumer to a sequence, restarts its own numbering at 1 and keeps the pin.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats.aio.msg import Msg

from tidegate.actor.pulling import Delivered, OwnershipLostError, PullConsumer
from tidegate.bus import CONSUMER_NOT_FOUND, Bus
from tidegate.errors import BusError, BusUnavailableError, TidegateError

__all__ = ["PinnedConsumer"]

GROUP = "owner"


class PinnedConsumer(PullConsumer):
    """One durable pinned consumer, seen from one client.

    `nudge`: a subject of the stream, on which an empty message is published where there is none to be pinned by.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        filter_subjects: Sequence[str],
        *,
        pin_timeout_seconds: float = 3.0,
        nudge: str = "",
        buffer_messages: int = 512,
        buffer_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        super().__init__(
            bus,
            stream,
            durable,
            filter_subjects,
            beat_seconds=pin_timeout_seconds / 3,
            buffer_messages=buffer_messages,
            buffer_bytes=buffer_bytes,
        )
        self._pin_timeout = pin_timeout_seconds
        self._nudge = nudge
        self._pin = ""
        self._claim = ""
        """The pin that the next request claims to have."""

    async def ensure(self) -> None:
        """Create the consumer unless it is there. Its position is only a hint: `reset` decides."""
        try:
            await self._info()
        except BusError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise
            config = {
                "durable_name": self._name,
                "ack_policy": "all",
                "deliver_policy": "all",
                "filter_subjects": self._filters,
                # Never redeliver by itself: whoever takes over resets the consumer to its own position.
                "ack_wait": 24 * 3600 * 10**9,
                "max_ack_pending": -1,
                "priority_groups": [GROUP],
                "priority_policy": "pinned_client",
                "priority_timeout": int(self._pin_timeout * 1e9),
            }
            await self._bus.api(
                f"CONSUMER.DURABLE.CREATE.{self.stream}.{self._name}", {"stream_name": self.stream, "config": config}
            )

    async def acquire(self, position: Callable[[], Awaitable[int]]) -> None:
        """Wait until the server pins this client; that takes a message to deliver, so it may take for ever.

        `position` tells up to which sequence the input is committed. Raises what that raises.
        """
        await self._stop_pump()
        await self._fresh_inbox(self._on_acquiring)
        self.trouble = None
        owned = self._pin  # after a reconnect the pin may still be ours
        self._pin = ""
        while True:
            await self._revive(position, owned)
            self.wake.clear()
            self._open_requests = 1
            self._claim = owned
            await self._request(batch=1, expires_seconds=self._beat)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat * 3):
                    await self.wake.wait()
            trouble = self._take_trouble()
            if isinstance(trouble, OwnershipLostError):
                owned = ""
            elif trouble is not None:
                raise trouble
            elif self._pin:
                return

    def _take_trouble(self) -> TidegateError | None:
        trouble, self.trouble = self.trouble, None
        return trouble

    async def _revive(self, position: Callable[[], Awaitable[int]], owned: str) -> None:
        """Have delivered again what the last owner got and never committed.

        The server counts it as delivered, so without new messages nobody would be pinned, and it would lie there.
        """
        info = await self._info()
        if _pin_in(info) in ("", owned) and info["num_pending"] == 0:
            after = await position()
            if after < info["delivered"]["stream_seq"]:
                await self._bus.api(f"CONSUMER.RESET.{self.stream}.{self._name}", {"seq": after + 1})
            elif self._nudge:
                # Several may do so at the same moment: one message is enough.
                await self._bus.publish(self._nudge, b"", {"Nats-Msg-Id": f"nudge {self._name} {after}"})

    async def ack(self, last: Delivered) -> None:
        """Tell the server that everything up to `last` is committed; it shows in `nats consumer info`."""
        place = f"{last.sequence}.{last.number}.{last.time_ms * 1_000_000}"
        await self._bus.send(f"$JS.ACK.{self.stream}.{self._name}.1.{place}.0", b"+ACK")

    async def release(self) -> None:
        """Stop pulling and let another client be pinned at once."""
        await self._stop_pump()
        await self._drop_inbox()
        if self._pin:
            pin, self._pin = self._pin, ""
            with contextlib.suppress(BusError, BusUnavailableError):
                # Whoever owns the consumer meanwhile shall keep it.
                if await self._pinned() == pin:
                    await self._bus.api(f"CONSUMER.UNPIN.{self.stream}.{self._name}", {"group": GROUP})

    async def pause(self, seconds: float) -> bool:
        """Returns after `seconds`, or at once when a lost connection comes back; whether it did."""
        return await self._bus.pause(seconds)

    async def _place(self, after: int) -> None:
        """Raises OwnershipLostError if the pin has gone."""
        self._claim = self._pin
        if await self._pinned() != self._pin:
            self._pin = ""
            raise OwnershipLostError(f"{self._name}: another client owns it now")
        await self._bus.api(f"CONSUMER.RESET.{self.stream}.{self._name}", {"seq": after + 1})

    def _body(self) -> dict[str, Any]:
        return {"group": GROUP, "id": self._claim} if self._claim else {"group": GROUP}

    async def _info(self) -> dict[str, Any]:
        return await self._bus.api(f"CONSUMER.INFO.{self.stream}.{self._name}")

    async def _pinned(self) -> str:
        return _pin_in(await self._info())

    async def _on_acquiring(self, message: Msg) -> None:
        headers = message.headers or {}
        if pin := headers.get("Nats-Pin-Id"):
            self._pin = pin
            self.wake.set()
            return
        match headers.get("Status"):
            case "100":
                return
            case "423":
                self._fail(OwnershipLostError(f"{self._name}: not the owner"))
            case "404" | "408":
                self.wake.set()
            case status:
                self._fail(BusUnavailableError(f"{self._name}: {status} {headers.get('Description', '')}"))

    def _on_status(self, headers: Mapping[str, str]) -> None:
        if headers.get("Status") == "423":
            self._pin = ""
            self._fail(OwnershipLostError(f"{self._name}: another client owns it now"))
        else:
            super()._on_status(headers)


def _pin_in(info: dict[str, Any]) -> str:
    """The pin of the present owner, "" for none."""
    return str((info.get("priority_groups") or [{}])[0].get("pinned_client_id", ""))
