"""Events that are handed over as requests on `kafka.out.<topic>`, as the gateway does: written, then answered.

Invariant: every request is answered within twice `_SECONDS`: with the partition and the offset at which all replicas
in sync have it, or with an error that says whether the event may be there all the same. Nothing is sent twice.

Whoever may send on these subjects is trusted as NATS trusts them; so nothing else in Tidegate sends there for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace
from nats.aio.msg import Msg

from tidegate import frame, subject, telemetry
from tidegate.bus import Bus
from tidegate.config import Kafka
from tidegate.edges.kafka.client import MissingTopicError, TooLargeError
from tidegate.edges.kafka.formats import Encode, encoder
from tidegate.edges.kafka.producing import Batch, Producing
from tidegate.edges.kafka.registry import Registry
from tidegate.edges.micro import error_of
from tidegate.errors import BusUnavailableError, Code, RefusedError, TierUnavailableError
from tidegate.event import Envelope, KafkaPlace
from tidegate.pipeline.tenants import scoped

__all__ = ["Answering", "answering"]

_QUEUE = "kafka"
"""Of all processes that bridge, one gets a request."""
_SECONDS = 5.0
"""For what is written together; whoever has waited for longer than that before it begins is refused."""
_MOST = 10_000
"""Requests that are not answered yet ..."""
_MOST_BYTES = 32 * 1024 * 1024
"""... and bytes in them; more are refused."""
_RECORD_BYTES = 1024 * 1024
_ROUNDS = 16
"""Topics that are written to at one time."""
_GRACE_SECONDS = 2.0
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ENDS = "the bridge ends; try again"
_UNKNOWN = "; the event may or may not be in the topic"


class _Head(Struct):
    """An envelope, as far as it has to be looked into."""

    data: Raw
    correlation_id: str | None = None


_HEAD = msgspec.json.Decoder(_Head).decode


class _Request(Struct, eq=False):
    """One event to write."""

    message: Msg
    key: bytes | None
    headers: list[tuple[str, bytes]]
    since: float
    sent: bool = False
    """It may be in the topic."""
    answered: bool = False
    stored: bool = False
    """As the broker has acknowledged."""


class _Lane:
    """What waits for one topic, and the task that writes it."""

    def __init__(self) -> None:
        self.waiting: list[_Request] = []
        self.task: asyncio.Task[None] | None = None


class Answering:
    """Made by `answering`."""

    def __init__(self, settings: Kafka, bus: Bus, registry: Registry | None) -> None:
        self._bus = bus
        # A client of its own: these requests are small, and do not queue behind whole batches of the log.
        seconds = min(settings.request_timeout_seconds, _SECONDS)
        self._producing = Producing(replace(settings, request_timeout_seconds=seconds))
        self._inputs = {one.topic for one in settings.inputs}
        self._tenants = {one.topic: one.tenant for one in settings.outputs if one.tenant}
        self._encoders = {one.topic: encoder(one, registry, Envelope) for one in settings.outputs}
        self._lanes: dict[str, _Lane] = {}
        self._rounds = asyncio.Semaphore(_ROUNDS)
        self._turn = itertools.count()
        self._count = self._bytes = 0
        self._sent = self._refused = 0
        self._problem = ""

    # -- requests -----------------------------------------------------------------------------------------------

    async def take(self, message: Msg) -> None:
        """Begin with a request."""
        self._count += 1
        self._bytes += len(message.data)
        request = _Request(message, None, [], time.monotonic())
        try:
            topic = self._checked(request)
        except RefusedError as error:
            await self._refuse(request, error)
            return
        lane = self._lanes.setdefault(topic, _Lane())
        lane.waiting.append(request)
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(topic, lane))

    def _checked(self, request: _Request) -> str:
        """The topic, after setting the record's key and headers. Raises RefusedError."""
        message, size = request.message, len(request.message.data)
        topic = message.subject.removeprefix(subject.kafka(""))
        if not _TOPIC.fullmatch(topic) or topic.startswith("__"):
            raise RefusedError(Code.INVALID, f"{topic[:80]!r} is no name of a topic that may be written to")
        if topic in self._inputs:
            raise RefusedError(Code.FORBIDDEN, f"{topic} is an input of the bridge: who writes there is known by it")
        if size > _RECORD_BYTES:
            raise RefusedError(Code.TOO_LARGE, f"the event has {size} bytes, more than {_RECORD_BYTES}")
        if self._count > _MOST or self._bytes > _MOST_BYTES:
            raise RefusedError(Code.UNAVAILABLE, "more events wait for Kafka than are kept here; try again", after=1.0)
        headers = message.headers or {}
        tenant = headers.get(frame.TENANT, "")
        if tenant and not subject.valid_tenant(tenant):
            raise RefusedError(Code.INVALID, f"{tenant[:80]!r} is no tenant")
        if self._tenants.get(topic, tenant) != tenant:
            raise RefusedError(Code.FORBIDDEN, f"the topic {topic} takes events of another tenant only")
        try:
            correlation = _HEAD(message.data.decode()).correlation_id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RefusedError(Code.INVALID, f"not an envelope: {error}"[:300]) from error
        if correlation is not None:
            request.key = (scoped(tenant, correlation) if tenant else correlation).encode()
        names = ((frame.TENANT, "tidegate-tenant"), ("Idempotency-Key", "idempotency-key"))
        request.headers += [(ours, headers[theirs].encode()) for theirs, ours in names if theirs in headers]
        request.headers.append(("tidegate-schema", b"envelope"))
        return topic

    # -- writing ------------------------------------------------------------------------------------------------

    async def _work(self, topic: str, lane: _Lane) -> None:
        """What comes while something is written is written together next."""
        some: list[_Request] = []
        try:
            while some := lane.waiting:
                lane.waiting = []
                async with self._rounds:
                    await self._round(topic, some)
        finally:
            del self._lanes[topic]
            # Only where this is cancelled, as the process ends.
            for one in some + lane.waiting:
                await self._refuse(one, RefusedError(Code.UNAVAILABLE, _ENDS))

    async def _round(self, topic: str, some: list[_Request]) -> None:
        """Answers all of them."""
        began = time.monotonic()
        late = f"no broker has taken it within {_SECONDS:g} s, see `tidegate status`; it was not sent"
        for one in some:
            if began - one.since > _SECONDS:
                await self._refuse(one, RefusedError(Code.UNAVAILABLE, late))
        problem = RefusedError(Code.TIMEOUT, f"no broker has acknowledged it within {_SECONDS:g} s")
        try:
            async with asyncio.timeout(_SECONDS):
                await self._written(topic, [one for one in some if not one.answered])
        except TierUnavailableError as error:
            problem = _refusal(error)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            problem = RefusedError(Code.UNAVAILABLE, _ENDS)
            raise
        finally:
            for one in some:
                await self._refuse(one, problem)
        sent = sum(one.stored for one in some)
        seconds = time.monotonic() - began
        telemetry.emit(telemetry.KafkaAnswered(sent=sent, refused=len(some) - sent, seconds=seconds))

    async def _written(self, topic: str, some: list[_Request]) -> None:
        """Raises TierUnavailableError before anything is sent."""
        encode = await self._encoders[topic]() if topic in self._encoders else bytes
        partitions = await self._producing.partitions(topic)
        into: dict[int, list[_Request]] = {}
        for one in some:
            # As `writing.py`: events of a correlation stay in order.
            turn = next(self._turn) if one.key is None else zlib.crc32(one.key)
            into.setdefault(partitions[turn % len(partitions)], []).append(one)
        await asyncio.gather(*(self._in_order(topic, partition, few, encode) for partition, few in into.items()))

    async def _in_order(self, topic: str, partition: int, some: list[_Request], encode: Encode) -> None:
        """One batch after the other."""
        time_ms = int(time.time() * 1000)
        batch: list[_Request] = []
        records = Batch()
        for one in some:
            try:
                value = encode(one.message.data)
            except TierUnavailableError as error:
                await self._refuse(one, RefusedError(Code.INVALID, error.problem))
                continue
            if not records.add(time_ms, one.key, value, one.headers):
                await self._send(topic, partition, batch, records, encode)
                batch, records = [], Batch()
                records.add(time_ms, one.key, value, one.headers)
            batch.append(one)
        if batch:
            await self._send(topic, partition, batch, records, encode)

    async def _send(self, topic: str, partition: int, some: list[_Request], records: Batch, encode: Encode) -> None:
        for one in some:
            one.sent = True
        try:
            first = (await self._producing.send(topic, {partition: records}))[partition]
        except TooLargeError as error:
            for one in some:
                one.sent = False
            if len(some) > 1:  # one of them, or all together: of a batch that is refused nothing is stored
                for one in some:
                    await self._in_order(topic, partition, [one], encode)
                return
            problem = _refusal(error)
        except TierUnavailableError as error:
            problem = _refusal(error)
        else:
            self._problem = ""
            self._sent += len(some)
            for offset, one in enumerate(some, start=first):
                one.stored = True
                await self._reply(one, msgspec.json.encode(KafkaPlace(topic=topic, partition=partition, offset=offset)))
            return
        for one in some:
            await self._refuse(one, problem)

    # -- answers ------------------------------------------------------------------------------------------------

    async def _refuse(self, one: _Request, error: RefusedError) -> None:
        """Unless it has been answered."""
        if one.answered:
            return
        self._refused += 1
        if error.code in (Code.UNAVAILABLE, Code.TIMEOUT, Code.NOT_FOUND):
            self._problem = error.problem
        if one.sent and error.code in (Code.UNAVAILABLE, Code.TIMEOUT):
            error = RefusedError(error.code, error.problem + _UNKNOWN, after=error.after)
        await self._reply(one, *error_of(error))

    async def _reply(self, one: _Request, body: bytes, headers: dict[str, str] | None = None) -> None:
        one.answered = True
        self._count -= 1
        self._bytes -= len(one.message.data)
        if one.message.reply:
            with contextlib.suppress(BusUnavailableError):  # then whoever asked hears of the lost connection
                await self._bus.send(one.message.reply, body, headers=headers)

    def row(self) -> dict[str, Any]:
        """For people."""
        return {"waiting": self._count, "sent": self._sent, "refused": self._refused, "problem": self._problem[:200]}

    async def aclose(self) -> None:
        """Ends what is under way, after a while; each is answered."""
        if tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            _, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._producing.aclose()


def _refusal(error: TierUnavailableError) -> RefusedError:
    match error:
        case MissingTopicError():
            return RefusedError(Code.NOT_FOUND, str(error))
        case TooLargeError():
            return RefusedError(Code.TOO_LARGE, str(error))
        case _:
            return RefusedError(Code.UNAVAILABLE, str(error), after=1.0)


@contextlib.asynccontextmanager
async def answering(settings: Kafka, bus: Bus, registry: Registry | None) -> AsyncIterator[Answering]:
    """Answer requests until the block ends. Raises BusUnavailableError."""
    one = Answering(settings, bus, registry)
    subscription = await bus.subscribe(subject.kafka(">"), one.take, _QUEUE)
    try:
        yield one
    finally:
        await bus.unsubscribe(subscription)
        await one.aclose()
