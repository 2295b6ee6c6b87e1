"""The driver of gRPC: real calls, with the generated stubs, over real connections."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2

from tests.edges.drivers import Counts, Events, Reader, Refused, Stored
from tests.edges.world import World
from tidegate.edges.grpc_calls import STATUS
from tidegate.errors import Code
from tidegate.proto import services_pb2 as pb
from tidegate.proto.services_pb2_grpc import EventsStub, QueriesStub
from tidegate.query import parse_time

PART = 64 * 1024
LARGE = 1024 * 1024


def refusal(error: grpc.aio.AioRpcError) -> Refused:
    """Of a status, after looking whether it is a whole one."""
    rich = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert rich.details[0].Unpack(info)
    assert info.domain == "tidegate"
    assert STATUS[Code(info.reason)] is error.code()
    assert rich.code == error.code().value[0]
    assert rich.message == error.details() != ""
    if info.reason == "rate_limited":
        assert rich.details[1].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return Refused(info.reason, rich.message)


async def answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call answers that may be refused while it still sends.

    grpcio 1.85, the client of grpc.aio: a write that fails because the server has ended the call makes it INTERNAL,
    "Internal error from Core", if that is seen before the status that the server has sent.
    """
    for _ in range(20):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.details() != "Internal error from Core":
                raise
    raise AssertionError("the status of the server was never seen")


class GrpcDriver:
    name = "grpc"

    def __init__(self, world: World) -> None:
        self._world = world
        self._channels = [grpc.aio.insecure_channel(address) for address in (world.grpc_events, world.grpc_queries)]
        self._events = EventsStub(self._channels[0])  # type: ignore[no-untyped-call]
        self._queries = QueriesStub(self._channels[1])  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> GrpcDriver:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    def _metadata(self, key: str) -> list[tuple[str, str]]:
        token = self._world.keys[key]
        return [("authorization", f"Bearer {token}")] if token else []

    async def _call(self, method: Any, key: str, message: Any) -> Any:
        try:
            return await method(message, metadata=self._metadata(key), timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                raise
            return refusal(error)

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused:
        head = pb.Records(
            source=source, content_type=content_type, content_encoding=encoding, idempotency_key=idempotency
        )

        def parts() -> Iterator[pb.Records]:
            yield head
            for start in range(0, len(body), PART):
                yield pb.Records(body=body[start : start + PART])

        if len(body) > LARGE:
            found = await answered(lambda: self._call(self._events.PublishBody, key, parts()))
        else:
            head.body = body
            found = await self._call(self._events.Publish, key, head)
        if isinstance(found, Refused):
            return found
        duplicate = found.duplicates == len(found.positions)
        return Stored(found.records, duplicate, tuple(one.index for one in found.refused), tuple(found.positions))

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        found = await self._call(self._queries.GetEvent, key, pb.EventRequest(id=event_id, after=after))
        return found if isinstance(found, Refused) else json.loads(found.line)

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        cursor = ""
        while True:
            asked = pb.FindRequest(correlation_id=name, limit=limit, after=after, cursor=cursor)
            page = await self._call(self._queries.FindEvents, key, asked)
            if isinstance(page, Refused):
                return page
            found += [json.loads(line) for line in page.events]
            cursor = page.cursor
            if not cursor:
                return found

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        page = await self._call(self._queries.FindEvents, key, pb.FindRequest(observable=value, limit=limit))
        return page if isinstance(page, Refused) else [json.loads(line) for line in page.events]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        asked = pb.CountRequest()
        for name, text in (("since", since), ("until", until)):
            if text:
                getattr(asked, name).FromMilliseconds(parse_time(text))
        found = await self._call(self._queries.CountEvents, key, asked)
        return (
            found
            if isinstance(found, Refused)
            else sorted((one.minute_ms, one.class_uid, one.severity_id, one.count) for one in found.counts)
        )

    async def sql(self, key: str) -> Refused | str:
        found = await self._call(self._queries.Sql, key, pb.SqlRequest(sql="SELECT 1"))
        return found if isinstance(found, Refused) else str(found)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        given = pb.Command(kind=kind, id=name, command=msgspec.json.encode(command))
        found = await self._call(self._events.GiveCommand, key, given)
        return found if isinstance(found, Refused) else int(found.version)

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        found = await self._call(self._events.GetEntity, key, pb.Entity(kind=kind, id=name))
        return found if isinstance(found, Refused) else {"version": found.version, "state": json.loads(found.state)}

    async def status(self, key: str) -> dict[str, Any] | Refused:
        found = await self._call(self._events.GetStatus, key, pb.StatusRequest())
        if isinstance(found, Refused):
            return found
        who = found.principal
        principal = {"id": who.id, "scopes": list(who.scopes)}
        principal |= {name: getattr(who, name) for name in ("tenant", "rate_per_second") if getattr(who, name)}
        told = {"ready": found.ready, "waiting_for": found.waiting_for, "principal": principal}
        return told | ({"sections": json.loads(found.sections)} if found.sections else {})

    @contextlib.asynccontextmanager
    async def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> AsyncIterator[Reader | Refused]:
        wanted = pb.Subscription(source=source, types=types)
        if start != "now":
            wanted.position = start
        call = self._events.Subscribe(wanted, metadata=self._metadata(key))
        try:
            try:
                await call.initial_metadata()
                if call.done():
                    await call.read()
            except grpc.aio.AioRpcError as error:
                yield refusal(error)
                return

            class Taking:
                async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
                    found: list[tuple[str, dict[str, Any]]] = []
                    while len(found) < count:
                        batch = await call.read()
                        found += [(one.position, json.loads(one.line)) for one in batch.items]
                    return found

            yield Taking()
        finally:
            call.cancel()
