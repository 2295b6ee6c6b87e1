"""Requests over NATS, to a configured subject or to a micro service's endpoints, and subjects as streams.

Invariant: no request goes to a subject of NATS itself or of Tidegate's own (`safe_subject`), whatever a service claims.
Facts of ADR-32: a service tells of an error by the headers `Nats-Service-Error` and `Nats-Service-Error-Code`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from nats.aio.msg import Msg

from tidegate.bus import Bus, Outgoing
from tidegate.errors import BusUnavailableError
from tidegate.gateway.configuration import Target, safe_subject
from tidegate.gateway.transports.base import CallFailedError, Failure, Reply, Request, check_size

__all__ = ["NatsTransport"]

_QUEUE = 1000


class NatsTransport:
    """`endpoints` are those of a discovered service: name -> subject."""

    def __init__(
        self,
        target: Target,
        headers: dict[str, str],
        bus: Callable[[], Bus | None],
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._headers = headers
        self._bus = bus
        self.endpoints = endpoints

    def repeatable(self, request: Request) -> bool:
        return False

    def _subject(self, operation: str) -> str:
        if self.endpoints is not None:
            if operation not in self.endpoints:
                known = ", ".join(sorted(self.endpoints)) or "none"
                raise CallFailedError("invalid", f"the service has no endpoint {operation[:64]!r}; it has: {known}")
            return self.endpoints[operation]
        subject = f"{self._target.subject}.{operation}" if operation else self._target.subject
        if not safe_subject(subject):
            raise CallFailedError("invalid", f"{operation[:64]!r} cannot be part of a subject")
        return subject

    def _connected(self) -> Bus:
        bus = self._bus()
        if bus is None or not bus.connected:
            raise CallFailedError("unreachable", "there is no connection to NATS")
        return bus

    async def call(self, request: Request) -> Reply:
        bus, subject = self._connected(), self._subject(request.operation)
        headers = {**request.headers, **self._headers}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        try:
            async with asyncio.timeout(request.timeout_seconds):
                # An answer is left to the timeout around it: it tells the two ends of waiting apart.
                message = await (await bus.submit(Outgoing(subject, request.body, headers)))
        except TimeoutError:
            raise CallFailedError("timeout", f"no reply within {request.timeout_seconds:g} s") from None
        except BusUnavailableError as error:
            raise CallFailedError("unavailable", str(error)) from error
        return self._reply(message)

    def _reply(self, message: Msg) -> Reply:
        headers = message.headers or {}
        if not message.data and headers.get("Status") == "503":
            raise CallFailedError("unreachable", "nobody is there to answer")
        check_size(len(message.data), self._target.max_response_bytes)
        if code := headers.get("Nats-Service-Error-Code"):
            kind: Failure = "unavailable" if code.startswith("5") else "rejected"
            problem = f"answered {code} {headers.get('Nats-Service-Error', '')[:200]}"
            raise CallFailedError(kind, problem, status=code, body=message.data)
        return Reply(message.data, headers.get("Content-Type", "application/json"))

    async def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """What is published on the subject. Whoever is too slow for it loses the connection, not memory."""
        bus = self._connected()
        lost = asyncio.Event()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE + 1)

        async def take(message: Msg) -> None:
            if queue.qsize() < _QUEUE:
                queue.put_nowait(message.data)
            else:
                lost.set()

        def gone(_: str) -> None:
            lost.set()
            if not queue.full():
                queue.put_nowait(None)

        try:
            subscription = await bus.subscribe(self._subject(topic), take)
        except BusUnavailableError as error:
            raise CallFailedError("unreachable", str(error)) from error
        undo = bus.on_disconnect(gone)
        try:
            yield "", b""
            while not (lost.is_set() and queue.empty()):
                data = await queue.get()
                if data is not None:
                    yield "", data
            raise CallFailedError("unavailable", "NATS was lost, or more came than could be stored")
        finally:
            undo()
            await bus.unsubscribe(subscription)

    async def aclose(self) -> None:
        return
