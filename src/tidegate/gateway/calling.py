"""Working off one asynchronous call: attempts with pauses between them, then the callback.

Invariant: the target gets the call at least once unless it is cancelled or given up, each time under the same
idempotency key; what became of every attempt is in the log before the next one is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from tidegate.actor.system import System
from tidegate.bus import Bus, Outgoing
from tidegate.entities.call import KIND, Attempt, Call, Delivered, Fail, Forget, Order, Postpone, Succeed
from tidegate.errors import BusUnavailableError
from tidegate.gateway.channel import CallResult, Channel, readable
from tidegate.gateway.configuration import Configuration
from tidegate.gateway.policy import pause
from tidegate.gateway.transports.base import KEY, CallFailedError
from tidegate.gateway.transports.http import session

__all__ = ["CallRunner", "shown"]

_MOST_KEPT_BYTES = 2 * 1024 * 1024
"""A larger answer does not fit into a command."""
_SILENCE_SECONDS = 0.3
_CALL: msgspec.json.Decoder[Call | None] = msgspec.json.Decoder(Call | None)


def shown(call_id: str, state: Call) -> dict[str, Any]:
    """What callers are told of a call; also the body of its callback."""
    told: dict[str, Any] = {"id": call_id, "status": state.status, "attempts": state.attempts}
    if state.order is not None:
        told |= {"target": state.order.target, "operation": state.order.operation}
    if state.status == "succeeded":
        value = readable(state.body)
        told["result"] = value
        if isinstance(value, bytes):
            told["encoding"] = "base64"
    if state.error:
        told["error"] = state.error
    for name in ("accepted_ms", "next_ms", "ended_ms", "callback", "callback_error"):
        if value := getattr(state, name):
            told[name] = value
    return told


class CallRunner:
    """Shared by all keepers of calls in a process."""

    def __init__(
        self,
        configuration: Configuration,
        system: Callable[[], System],
        bus: Callable[[], Bus],
        channel: Callable[[str], Channel],
    ) -> None:
        self._settings = configuration.calls
        self._callbacks = configuration.callbacks
        self._secret = configuration.callbacks.secret.read("callbacks.secret") if configuration.callbacks.secret else ""
        self._system = system
        self._bus = bus
        self._channel = channel
        self._slots = asyncio.Semaphore(self._settings.max_running)
        self._session = session()

    async def run(self, call_id: str) -> None:
        """Until the call is settled."""
        while (state := await self.state(call_id)) is not None and not state.settled:
            if state.ended:
                error = await self._deliver(call_id, state)
                await self._system().ask(KIND, call_id, Delivered(error))
                return
            assert state.order is not None
            await asyncio.sleep(max(0.0, state.next_ms / 1000 - time.time()))
            async with self._slots:
                await self._attempt(call_id, state.order, state.attempts + 1)

    async def forget(self, call_id: str) -> None:
        """Fine for one that is forgotten already."""
        if await self.state(call_id) is not None:
            await self._system().ask(KIND, call_id, Forget())

    async def state(self, call_id: str) -> Call | None:
        """None: nothing is known of it."""
        return _CALL.decode((await self._system().get(KIND, call_id)).state)

    async def _attempt(self, call_id: str, order: Order, number: int) -> None:
        system = self._system()
        await system.ask(KIND, call_id, Attempt(number))
        command: Succeed | Postpone | Fail
        try:
            result = await self._channel(order.target).call(
                order.operation,
                order.payload,
                key=call_id,
                tenant=order.tenant,
                timeout_seconds=order.timeout_seconds,
                idempotent=order.idempotent,
                fallback=False,
            )
            command = self._succeeded(result)
        except CallFailedError as error:
            problem = f"{error.kind}: {error.problem}"
            if error.passing and number < self._settings.attempts:
                wait = pause(number, self._settings.backoff_seconds, self._settings.max_backoff_seconds)
                command = Postpone(number, problem, int(max(wait, error.after) * 1000))
            else:
                command = Fail(problem)
        await system.ask(KIND, call_id, command)

    @staticmethod
    def _succeeded(result: CallResult) -> Succeed | Fail:
        if len(result.body) > _MOST_KEPT_BYTES:
            return Fail(f"too_large: the answer has {len(result.body)} bytes, and {_MOST_KEPT_BYTES} can be kept")
        return Succeed(result.body, result.content_type)

    async def _deliver(self, call_id: str, state: Call) -> str:
        """An empty text, or why the callback was given up."""
        assert state.order is not None
        body = msgspec.json.encode(shown(call_id, state))
        callback, settings = state.order.callback, self._callbacks
        problem = ""
        for number in range(1, settings.attempts + 1):
            if callback.subject:
                problem = await self._publish(callback.subject, body, call_id)
            else:
                problem = await self._post(callback.webhook, body, call_id)
            if not problem:
                return ""
            if number < settings.attempts:
                await asyncio.sleep(pause(number, settings.backoff_seconds, 60.0))
        return problem

    async def _publish(self, to: str, body: bytes, call_id: str) -> str:
        """NATS says when nobody listens; whoever does need not answer."""
        if not self._callbacks.allow_subject(to):
            return f"{to!r} is not allowed any more"
        try:
            future = await self._bus().submit(Outgoing(to, body, {KEY: call_id}))
            done, _ = await asyncio.wait({future}, timeout=_SILENCE_SECONDS)
            message = future.result() if done else None
            future.cancel()
        except BusUnavailableError as error:
            return str(error)
        if message is not None and not message.data and (message.headers or {}).get("Status") == "503":
            return f"nobody listens on {to}"
        return ""

    async def _post(self, url: str, body: bytes, call_id: str) -> str:
        if not self._callbacks.allow(url):
            return "the webhook is not allowed any more"
        headers = {"Content-Type": "application/json", KEY: call_id}
        if self._secret:
            signature = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            headers["Tidegate-Signature"] = f"sha256={signature}"
        try:
            async with (
                asyncio.timeout(self._callbacks.timeout_seconds),
                # Of the answer only the status counts: its body is not read.
                self._session.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        except TimeoutError:
            return f"no answer within {self._callbacks.timeout_seconds:g} s"
        return "" if 200 <= status < 300 else f"answered with status {status}"

    async def aclose(self) -> None:
        """Close connections to webhooks."""
        await self._session.close()
