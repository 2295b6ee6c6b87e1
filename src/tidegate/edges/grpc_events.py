"""The gRPC service `Events`: publishing, subscriptions, commands and entities.

Invariant: what is under way for one call is bounded, whatever the caller sends or does not read; when the call ends, of
itself, by cancellation or at its deadline, all that was begun for it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC
from typing import Any

import grpc
import msgspec

from tidegate.actor.host import Answer as Decision
from tidegate.edges.grpc_calls import Call, Method, handler, published, safe, stored_before
from tidegate.entities.selection import EventFilter
from tidegate.errors import Code, RefusedError
from tidegate.proto import services_pb2 as pb
from tidegate.service import Batch, Feed, Service, Start

__all__ = ["events", "status"]

_BEAT_SECONDS = 10.0
_DEFAULT_SOURCE = "app"
_UNDER_WAY = 8
_MESSAGE_BYTES = 1024 * 1024
"""Events of one message, about: clients take 4 MB by default."""


def events(service: Service) -> grpc.GenericRpcHandler:
    """What serves it."""
    one = _Events(service)
    methods = {
        "Publish": Method("publish", one.publish),
        "PublishBody": Method("publish", one.publish_body),
        "PublishEach": Method("publish", one.publish_each),
        "Subscribe": Method("subscribe", one.subscribe),
        "Follow": Method("subscribe", one.follow),
        "GiveCommand": Method("command", one.command),
        "GetEntity": Method("query", one.entity),
        "GetStatus": Method(None, status(service)),
    }
    return handler(pb.DESCRIPTOR.services_by_name["Events"], service.gate, methods)


class _Events:
    def __init__(self, service: Service) -> None:
        self._service = service

    # -- publish ------------------------------------------------------------------------------------------------

    async def publish(self, call: Call) -> None:
        records = await call.only()
        await call.send(await self._publish(call, records, records.body, call.seconds()))

    async def publish_body(self, call: Call) -> None:
        first = await call.only()
        await call.send(await self._publish(call, first, _parts(call, first.body), call.seconds()))

    async def publish_each(self, call: Call) -> None:
        """Messages are taken while others wait for the disk; the answers keep their order."""
        answers: asyncio.Queue[asyncio.Task[pb.Outcome] | None] = asyncio.Queue(_UNDER_WAY)
        refused: RefusedError | None = None

        async def answered() -> None:
            while (task := await answers.get()) is not None:
                await call.send(await task)

        async with asyncio.TaskGroup() as group:
            group.create_task(answered())
            before = pb.Records()
            try:
                while (records := await call.receive()) is not None:
                    await call.still()
                    for name in ("source", "content_type", "content_encoding"):
                        if not getattr(records, name):
                            setattr(records, name, getattr(before, name))
                    before = records
                    await answers.put(group.create_task(self._outcome(call, records)))
            except RefusedError as error:
                refused = error
            await answers.put(None)
        if refused is not None:
            raise refused

    async def _outcome(self, call: Call, records: pb.Records) -> pb.Outcome:
        try:
            return pb.Outcome(published=await self._publish(call, records, records.body, None))
        except RefusedError as error:
            failure = pb.Failure(code=error.code.value, problem=safe(error.problem), published=stored_before(error))
            return pb.Outcome(failure=failure)

    async def _publish(
        self, call: Call, head: pb.Records, body: bytes | AsyncIterator[bytes], seconds: float | None
    ) -> pb.Published:
        sources = call.principal.grant.sources
        default = sources[0] if len(sources) == 1 else _DEFAULT_SOURCE
        found = await self._service.publish(
            call.principal,
            head.source or default,
            body,
            head.content_type,
            head.content_encoding,
            key=head.idempotency_key,
            trace=call.metadata("traceparent"),
            timeout_seconds=seconds,
        )
        return published(found)

    # -- subscribe ----------------------------------------------------------------------------------------------

    async def subscribe(self, call: Call) -> None:
        wanted = await call.only()
        async with self._service.subscribe(call.principal, **_wanted(wanted)) as feed:
            await call.begin()
            await _give(call, feed)

    async def follow(self, call: Call) -> None:
        """Ends when the caller has no more to say."""
        first = await call.only()
        if first.WhichOneof("step") != "start":
            raise RefusedError(Code.INVALID, "the first message of this call must be `start`")
        async with self._service.subscribe(call.principal, **_wanted(first.start), acks=True) as feed:
            await call.begin()
            both = {asyncio.create_task(_give(call, feed)), asyncio.create_task(_take_acks(call, feed))}
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
            for task in done:
                task.result()

    # -- entities -----------------------------------------------------------------------------------------------

    async def command(self, call: Call) -> None:
        given = await call.only()
        try:
            command = msgspec.json.decode(given.command)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RefusedError(Code.INVALID, f"the command is not valid JSON: {error}") from error
        answer = await self._service.command(
            call.principal,
            given.kind,
            given.id,
            command,
            command_id=given.command_id,
            expected_version=given.expected_version if given.HasField("expected_version") else None,
        )
        await call.send(_decision(answer))

    async def entity(self, call: Call) -> None:
        asked = await call.only()
        await call.send(_decision(await self._service.entity(call.principal, asked.kind, asked.id)))


def status(service: Service) -> Any:
    """The method that both services have."""

    async def tell(call: Call) -> None:
        await call.only()
        told = await service.status(call.principal)
        sections = msgspec.json.encode(told["sections"]) if "sections" in told else b""
        who = pb.Principal(**told["principal"])
        await call.send(
            pb.Status(ready=told["ready"], waiting_for=told["waiting_for"], principal=who, sections=sections)
        )

    return tell


async def _parts(call: Call, body: bytes) -> AsyncIterator[bytes]:
    yield body
    while (message := await call.soon()) is not None:
        yield message.body


def _wanted(given: pb.Subscription) -> dict[str, Any]:
    start: Start = "now"
    match given.WhichOneof("start"):
        case "position":
            start = given.position
        case "time":
            try:
                start = given.time.ToDatetime(UTC)
            except (ValueError, OverflowError) as error:
                raise RefusedError(Code.INVALID, f"time: {error}") from error
        case "beginning":
            start = "start" if given.beginning else "now"
    return {
        "start": start,
        "types": [int(one) if one.isdecimal() else one for one in given.types],
        "where": EventFilter(source=given.source, correlation_id=given.correlation_id, min_severity=given.min_severity),
        "most": given.buffer or 1000,
        "slow": "skip" if given.skip else "hold",
    }


async def _give(call: Call, feed: Feed) -> None:
    while True:
        batch = await feed.next(timeout_seconds=_BEAT_SECONDS)
        await call.still()
        for message in _messages(batch):
            await call.send(message)


async def _take_acks(call: Call, feed: Feed) -> None:
    while (step := await call.receive()) is not None:
        if step.WhichOneof("step") != "ack":
            raise RefusedError(Code.INVALID, "after the first message only `ack` makes sense")
        await feed.ack(step.ack)


def _messages(batch: Batch) -> Iterator[pb.Batch]:
    message, size = pb.Batch(left_out=batch.left_out), 0
    for position, line in batch.items:
        if size and size + len(line) > _MESSAGE_BYTES:
            yield message
            message, size = pb.Batch(), 0
        message.items.add(position=position, line=line)
        size += len(line)
    if size:
        yield message


def _decision(answer: Decision) -> pb.Decision:
    return pb.Decision(
        id=answer.id,
        version=answer.version,
        sequence=answer.sequence,
        events=bytes(answer.events),
        state=bytes(answer.state),
        duplicate=answer.duplicate,
    )
