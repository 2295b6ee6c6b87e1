"""NATS micro services (ADR-32) on our own connection: endpoints, discovery, statistics, errors in headers.

Invariant: every request with a reply subject is answered, also when too many are under way or the service ends, and
each endpoint works on at most so many at once. nats-py's own `nats.micro` works on one request of an endpoint after the
other, so that a query which waits for its position would keep all others waiting, and tells internals in its errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from tidegate.auth import Gate, Principal
from tidegate.bus import Bus
from tidegate.edges.problems import STATUS
from tidegate.entities.access_key import Scope
from tidegate.errors import BusUnavailableError, Code, RefusedError

__all__ = ["KEY_HEADER", "Endpoint", "MicroService", "error_of", "serving"]

_log = logging.getLogger(__name__)
KEY_HEADER = "Tidegate-Key"
QUEUE = "q"
"""The queue group of ADR-32: of all processes that offer a service, one gets a request."""
_UNDER_WAY = 64
_MOST_BYTES = 256 * 1024
_GRACE_SECONDS = 2.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def error_of(error: RefusedError) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer to who is refused."""
    members: dict[str, Any] = {"code": error.code.value, **error.details}
    if error.after:
        members["retry_after_seconds"] = error.after
    return _error(STATUS[error.code][0], error.problem, members)


def _error(number: int, problem: str, members: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    problem = _CONTROL.sub(" ", problem[:400]).encode("utf-8", "replace").decode()
    headers = {"Nats-Service-Error": problem, "Nats-Service-Error-Code": str(number)}
    return msgspec.json.encode({**members, "detail": problem}), headers


class Endpoint(Struct, frozen=True, kw_only=True):
    """One kind of request."""

    name: str
    subject: str
    scope: Scope | None
    work: Callable[[Principal, bytes], Awaitable[bytes]]
    """From a request's body to the answer's, both JSON. Raises RefusedError."""


class _Stats(Struct):
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    """Nanoseconds."""


class MicroService:
    """One service of one process. Made by `serving`."""

    def __init__(self, bus: Bus, gate: Gate, name: str, version: str, description: str, endpoints: Sequence[Endpoint]):
        self._bus = bus
        self._gate = gate
        self._description = description
        self._endpoints = endpoints
        self._stats = {one.name: _Stats() for one in endpoints}
        self._tasks: dict[str, set[asyncio.Task[None]]] = {one.name: set() for one in endpoints}
        self._started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.identity: dict[str, Any] = {"id": uuid.uuid4().hex, "name": name, "version": version, "metadata": {}}

    # -- discovery ----------------------------------------------------------------------------------------------

    def ping(self) -> dict[str, Any]:
        return self._told("ping")

    def info(self) -> dict[str, Any]:
        endpoints = [
            {"name": one.name, "subject": one.subject, "queue_group": QUEUE, "metadata": {"scope": one.scope or ""}}
            for one in self._endpoints
        ]
        return self._told("info") | {"description": self._description, "endpoints": endpoints}

    def stats(self) -> dict[str, Any]:
        endpoints = []
        for one in self._endpoints:
            stats = self._stats[one.name]
            average = stats.processing_time // max(1, stats.num_requests)
            told = msgspec.structs.asdict(stats) | {"average_processing_time": average, "data": None}
            endpoints.append({"name": one.name, "subject": one.subject, "queue_group": QUEUE, **told})
        return self._told("stats") | {"started": self._started, "endpoints": endpoints}

    def _told(self, kind: str) -> dict[str, Any]:
        return {"type": f"io.nats.micro.v1.{kind}_response", **self.identity}

    # -- requests -----------------------------------------------------------------------------------------------

    async def take(self, endpoint: Endpoint, message: Msg) -> None:
        """Begin with a request; the next one need not wait for its end."""
        tasks = self._tasks[endpoint.name]
        if len(tasks) >= _UNDER_WAY:
            busy = RefusedError(Code.UNAVAILABLE, f"{_UNDER_WAY} requests are under way here; try again", after=1.0)
            self._stats[endpoint.name].num_requests += 1
            await self._refuse(endpoint, message, busy)
            return
        task = asyncio.create_task(self._answer(endpoint, message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _answer(self, endpoint: Endpoint, message: Msg) -> None:
        stats, began = self._stats[endpoint.name], time.perf_counter_ns()
        stats.num_requests += 1
        try:
            token = (message.headers or {}).get(KEY_HEADER, "")
            principal = await self._gate.enter(token, endpoint.scope, f"nats {endpoint.subject}")
            if len(message.data) > _MOST_BYTES:
                raise RefusedError(Code.TOO_LARGE, f"a request has at most {_MOST_BYTES} bytes")
            answer = await endpoint.work(principal, message.data)
            if len(answer) > self._bus.max_payload:
                problem = f"the answer has {len(answer)} bytes, more than NATS takes here; ask for less at once"
                raise RefusedError(Code.TOO_LARGE, problem)
            await self._reply(message, answer)
        except RefusedError as error:
            await self._refuse(endpoint, message, error)
        except asyncio.CancelledError:
            await self._refuse(endpoint, message, RefusedError(Code.UNAVAILABLE, "the process ends; try again"))
            raise
        except Exception:  # noqa: BLE001 - a fault of ours has to be seen, and whoever asks need not wait for it
            _log.exception("a request to %s has failed", endpoint.subject)
            told = _error(500, "an error in the service; its log says more", {"code": "error"})
            await self._tell_error(endpoint, message, *told)
        finally:
            stats.processing_time += time.perf_counter_ns() - began

    async def _refuse(self, endpoint: Endpoint, message: Msg, error: RefusedError) -> None:
        await self._tell_error(endpoint, message, *error_of(error))

    async def _tell_error(self, endpoint: Endpoint, message: Msg, body: bytes, headers: dict[str, str]) -> None:
        stats = self._stats[endpoint.name]
        stats.num_errors += 1
        stats.last_error = f"{headers['Nats-Service-Error-Code']}:{headers['Nats-Service-Error']}"
        await self._reply(message, body, headers)

    async def _reply(self, message: Msg, body: bytes, headers: dict[str, str] | None = None) -> None:
        if message.reply:
            with contextlib.suppress(BusUnavailableError):  # then whoever asked hears of the lost connection
                await self._bus.send(message.reply, body, headers=headers)

    async def aclose(self) -> None:
        """Ends what is under way, after a while; each of those is answered."""
        if tasks := {one for some in self._tasks.values() for one in some}:
            _, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(
    bus: Bus, gate: Gate, name: str, version: str, description: str, endpoints: Sequence[Endpoint]
) -> AsyncIterator[MicroService]:
    """Offer a service until the block ends."""
    service = MicroService(bus, gate, name, version, description, endpoints)
    subscriptions = []

    async def listen(subject: str, call: Callable[[Msg], Awaitable[None]], queue: str = "") -> None:
        subscriptions.append(await bus.subscribe(subject, call, queue))

    def telling(what: Callable[[], dict[str, Any]]) -> Callable[[Msg], Awaitable[None]]:
        async def tell(message: Msg) -> None:
            await service._reply(message, msgspec.json.encode(what()))

        return tell

    def taking(endpoint: Endpoint) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            await service.take(endpoint, message)

        return take

    try:
        for one in endpoints:
            await listen(one.subject, taking(one), QUEUE)
        for verb, what in (("PING", service.ping), ("INFO", service.info), ("STATS", service.stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{service.identity['id']}"):
                await listen(subject, telling(what))
        # An answer of the last one shows that the server knows of all.
        await bus.request(subject)
        yield service
    finally:
        with anyio.CancelScope(shield=True):
            for subscription in subscriptions:
                await bus.unsubscribe(subscription)
            await service.aclose()
