"""The way to one target: its transport, its failure policy, and what is known of how it goes.

Invariant: every call ends, within the timeout of its attempts and pauses, with an answer, the fallback, or a
CallFailedError; at most `max_concurrent` attempts run and `max_waiting` calls wait for their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct

from tidegate import telemetry
from tidegate.gateway.configuration import Target
from tidegate.gateway.policy import BreakerState, Budget, CircuitBreaker, pause
from tidegate.gateway.transports.base import KEY, CallFailedError, Reply, Request, Transport, encoded

__all__ = ["CallResult", "Channel", "ChannelStatus", "readable"]

_BREAKER_VALUES: dict[BreakerState, int] = {"closed": 0, "half-open": 1, "open": 2}
_LATENCIES = 256
_LONGEST_PAUSE = 30.0


def readable(body: bytes) -> Any:
    """JSON as what it says, text as text, other bytes as bytes."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


class CallResult(Struct, frozen=True, kw_only=True):
    """A good answer, or the fallback."""

    body: bytes
    content_type: str = ""
    status: str = ""
    """Of the protocol, where it has one."""
    attempts: int = 1
    hedged: bool = False
    """The second of two attempts was the first to answer."""
    fallback: bool = False
    seconds: float = 0.0

    @property
    def value(self) -> Any:
        """As `readable` has it."""
        return readable(self.body)


class ChannelStatus(Struct, kw_only=True):
    """Sums since the process began; times in milliseconds."""

    target: str
    protocol: str
    address: str
    breaker: BreakerState = "closed"
    running: int = 0
    waiting: int = 0
    calls: int = 0
    errors: int = 0
    """Calls without a good answer; those that the fallback answered count too."""
    attempts: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    fallbacks: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    p50_ms: float = 0.0
    """Of the last 256 attempts that were answered."""
    p99_ms: float = 0.0
    last_error: str = ""
    last_error_ms: int = 0


class Channel:
    """To be used by any number of tasks."""

    def __init__(self, target: Target, transport: Transport) -> None:
        self.name = target.name
        self.target = target
        self.transport = transport
        self._budget = Budget(target.retry)
        self._breaker = CircuitBreaker(target.breaker, self._changed)
        self._slots = asyncio.Semaphore(target.max_concurrent)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._status = ChannelStatus(
            target=target.name, protocol=target.protocol, address=target.url or f"nats subject {target.subject}"
        )

    def _changed(self, state: BreakerState) -> None:
        telemetry.emit(telemetry.BreakerChanged(target=self.name, state=state, value=_BREAKER_VALUES[state]))

    @property
    def status(self) -> ChannelStatus:
        """As of now."""
        taken = sorted(self._latencies)
        of = len(taken)
        return msgspec.structs.replace(
            self._status,
            breaker=self._breaker.state,
            p50_ms=round(taken[of // 2] * 1000, 1) if taken else 0.0,
            p99_ms=round(taken[min(of - 1, of * 99 // 100)] * 1000, 1) if taken else 0.0,
        )

    async def call(
        self,
        operation: str,
        payload: object = None,
        *,
        key: str,
        tenant: str = "",
        timeout_seconds: float | None = None,
        idempotent: bool = False,
        fallback: bool = True,
    ) -> CallResult:
        """Call the target, with all of its policy. `timeout_seconds` bounds all attempts together.

        `idempotent` says that the operation may be made twice, where neither the protocol nor the file says so;
        `fallback` that an answer in place of the target's will do, where there is one.
        """
        began = time.monotonic()
        deadline = began + timeout_seconds if timeout_seconds is not None else float("inf")
        self._status.calls += 1
        self._budget.earn()
        attempt = 0
        try:
            request = self._request(operation, payload, key, tenant)
            again = idempotent or self.target.repeatable(operation) or self.transport.repeatable(request)
            while True:
                attempt += 1
                left = min(self.target.timeout_seconds, deadline - time.monotonic())
                try:
                    reply, hedged = await self._hedged(
                        msgspec.structs.replace(request, timeout_seconds=left), again and self.target.hedge is not None
                    )
                except CallFailedError as error:
                    error.attempts = attempt
                    wait = self._again_after(error, attempt, again)
                    if wait is None or time.monotonic() + wait >= deadline or not self._budget.spend():
                        raise
                    self._status.retries += 1
                    await asyncio.sleep(wait)
                else:
                    return CallResult(
                        body=reply.body,
                        content_type=reply.content_type,
                        status=reply.status,
                        attempts=attempt,
                        hedged=hedged,
                        seconds=time.monotonic() - began,
                    )
        except CallFailedError as error:
            self._status.errors += 1
            self._status.last_error, self._status.last_error_ms = error.problem[:300], int(time.time() * 1000)
            if not fallback or self.target.fallback is None or not error.passing:
                raise
            self._status.fallbacks += 1
            return CallResult(
                body=msgspec.json.encode(self.target.fallback.body),
                content_type="application/json",
                attempts=attempt,
                fallback=True,
                seconds=time.monotonic() - began,
            )

    def _request(self, operation: str, payload: object, key: str, tenant: str) -> Request:
        body, content_type = encoded(payload)
        if len(body) > self.target.max_request_bytes:
            raise CallFailedError("invalid", f"the payload has more than {self.target.max_request_bytes} bytes")
        headers = {KEY: key, **({"Tidegate-Tenant": tenant} if tenant else {})}
        return Request(operation=operation, body=body, content_type=content_type, headers=headers)

    def _again_after(self, error: CallFailedError, attempt: int, repeatable: bool) -> float | None:
        """Seconds until another attempt; None: there shall be none."""
        retry = self.target.retry
        known = error.kind == "unreachable" or (repeatable and error.kind in {"timeout", "unavailable"})
        if not known or attempt >= retry.attempts or error.after > _LONGEST_PAUSE:
            return None
        return max(error.after, pause(attempt, retry.backoff_seconds, retry.max_backoff_seconds))

    async def _hedged(self, request: Request, hedge: bool) -> tuple[Reply, bool]:
        if not hedge:
            return await self._attempt(request), False
        assert self.target.hedge is not None
        first = asyncio.create_task(self._attempt(request))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=self.target.hedge.after_seconds)
            if not first.done() and self._budget.spend():
                self._status.hedges += 1
                tasks.append(asyncio.create_task(self._attempt(request)))
            pending = set(tasks)
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                good = next((one for one in tasks if one in done and one.exception() is None), None)
                if good is not None:
                    self._status.hedges_won += good is not first
                    return good.result(), good is not first
                if not pending:
                    return first.result(), False
        finally:
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(self, request: Request) -> Reply:
        async with self._turn(request.timeout_seconds):
            if not self._breaker.admit():
                wait = self._breaker.wait_seconds
                raise CallFailedError(
                    "open", f"{self.name} has failed too often; it is tried again in {wait:.1f} s", after=wait
                )
            self._status.attempts += 1
            self._status.running += 1
            self._status.bytes_out += len(request.body)
            began, outcome, received = time.monotonic(), "cancelled", 0
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    reply = await self.transport.call(request)
                outcome, received = "ok", len(reply.body)
            except TimeoutError:
                outcome = "timeout"
                raise CallFailedError("timeout", f"no answer within {request.timeout_seconds:g} s") from None
            except CallFailedError as error:
                outcome = error.kind
                raise
            finally:
                seconds = time.monotonic() - began
                self._ended(outcome, received, seconds)
                telemetry.emit(
                    telemetry.ChannelCalled(
                        target=self.name, outcome=outcome, sent=len(request.body), received=received, seconds=seconds
                    )
                )
        return reply

    def _ended(self, outcome: str, received: int, seconds: float) -> None:
        self._status.running -= 1
        self._status.bytes_in += received
        if outcome in {"unreachable", "timeout", "unavailable"}:
            self._breaker.failed()
        elif outcome in {"ok", "rejected", "too_large"}:
            self._breaker.succeeded()
            self._latencies.append(seconds)
        else:
            self._breaker.dropped()

    @contextlib.asynccontextmanager
    async def _turn(self, timeout_seconds: float) -> AsyncIterator[None]:
        if self._slots.locked() and self._status.waiting >= self.target.max_waiting:
            raise CallFailedError("overloaded", f"{self._status.waiting} calls to {self.name} wait already")
        self._status.waiting += 1
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise CallFailedError("overloaded", f"no turn within {timeout_seconds:g} s") from None
        finally:
            self._status.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
