"""What Tidegate offers as NATS micro services: queries, storage, entities, pipelines; requests and answers are JSON.

Invariant: where keys are in use, a request without one (header `Tidegate-Key`) gets nothing, whatever its NATS account
may do; publishing is not here, for that is NATS itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tidegate import subject
from tidegate.auth import Principal
from tidegate.bus import Bus
from tidegate.edges.micro import Endpoint, serving
from tidegate.edges.rest_pipelines import measured, summaries
from tidegate.edges.rest_query import SqlRequest
from tidegate.entities.access_key import Scope
from tidegate.entities.pipeline import KIND as PIPELINE
from tidegate.errors import Code, QueryError, RefusedError
from tidegate.lifecycle import Lifecycle
from tidegate.query import TierName
from tidegate.service import Service, refusal

__all__ = ["entities", "offered", "pipelines", "query", "storage"]

VERSION = "1.0.0"
"""Of requests and answers."""
_DESCRIPTIONS = {
    "query": "Events by id, correlation and observable, counts and SQL",
    "storage": "Where the read models stand",
    "entities": "Commands to entities, their state, and the status of the process",
    "pipelines": "The pipelines in use, their versions and what they did",
}
R = TypeVar("R", bound=Struct)


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Nothing(_Request, frozen=True):
    pass


class EventRequest(_Request, frozen=True):
    id: str
    tier: TierName | None = None
    after: str | None = None
    """Wait until `INGEST/<partition>/<sequence>` or `LOG/<sequence>` can be seen."""


class FindRequest(_Request, frozen=True):
    """By one of correlation_id and observable; since and until go with the latter, and are as in REST."""

    correlation_id: str | None = None
    observable: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    tier: TierName | None = None
    cursor: str = ""
    after: str | None = None


class CountsRequest(_Request, frozen=True):
    since: str | None = None
    until: str | None = None
    after: str | None = None


class CommandRequest(_Request, frozen=True):
    kind: str
    id: str
    command: dict[str, Any]
    command_id: str = ""
    expected_version: int | None = None


class EntityRequest(_Request, frozen=True):
    kind: str
    id: str


class PipelineRequest(_Request, frozen=True):
    name: str


class VersionRequest(_Request, frozen=True):
    name: str
    version: str


def _endpoint(
    service: str, name: str, scope: Scope | None, shape: type[R], work: Callable[[Principal, R], Awaitable[bytes]]
) -> Endpoint:
    decode = msgspec.json.Decoder(shape).decode

    async def decoded(principal: Principal, body: bytes) -> bytes:
        try:
            request = decode(body or b"{}")
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RefusedError(Code.INVALID, f"not a request of this endpoint: {error}") from error
        try:
            return await work(principal, request)
        except QueryError as error:
            raise refusal(error) from error

    return Endpoint(name=name, subject=subject.service(service, name), scope=scope, work=decoded)


def query(service: Service) -> list[Endpoint]:
    """The endpoints of `tidegate-query`."""

    async def event(who: Principal, asked: EventRequest) -> bytes:
        tier, line = await service.event(who, asked.id, asked.tier, asked.after)
        return b'{"tier":%b,"event":%b}' % (msgspec.json.encode(tier), line)

    async def find(who: Principal, asked: FindRequest) -> bytes:
        page = await service.find(
            who, asked.correlation_id, asked.observable, asked.since, asked.until, asked.limit, asked.tier,
            cursor=asked.cursor, after=asked.after,
        )  # fmt: skip
        head = {"tier": page.tier, "count": len(page.events), "complete": page.complete, "next": page.cursor}
        return msgspec.json.encode(head)[:-1] + b',"events":[' + b",".join(page.events) + b"]}"

    async def counts(who: Principal, asked: CountsRequest) -> bytes:
        found = await service.counts(who, asked.since, asked.until, asked.after)
        return msgspec.json.encode({"tier": "hot", "counts": found})

    async def sql(who: Principal, asked: SqlRequest) -> bytes:
        found = await service.sql(who, asked.sql, asked.max_rows, asked.timeout_seconds, asked.after)
        return msgspec.json.encode(found, enc_hook=str)

    return [
        _endpoint("query", "event", "query", EventRequest, event),
        _endpoint("query", "find", "query", FindRequest, find),
        _endpoint("query", "counts", "query", CountsRequest, counts),
        _endpoint("query", "sql", "query", SqlRequest, sql),
    ]


def storage(service: Service) -> list[Endpoint]:
    """The endpoints of `tidegate-storage`."""

    async def positions(who: Principal, _: Nothing) -> bytes:
        return msgspec.json.encode(await service.positions(who))

    return [_endpoint("storage", "positions", "query", Nothing, positions), _status("storage", service)]


def entities(service: Service) -> list[Endpoint]:
    """The endpoints of `tidegate-entities`."""

    async def command(who: Principal, asked: CommandRequest) -> bytes:
        answer = await service.command(
            who,
            asked.kind,
            asked.id,
            asked.command,
            command_id=asked.command_id,
            expected_version=asked.expected_version,
        )
        return msgspec.json.encode(answer)

    async def get(who: Principal, asked: EntityRequest) -> bytes:
        return msgspec.json.encode(await service.entity(who, asked.kind, asked.id))

    return [
        _endpoint("entities", "command", "command", CommandRequest, command),
        _endpoint("entities", "get", "query", EntityRequest, get),
        _status("entities", service),
    ]


def pipelines(service: Service, lifecycle: Callable[[], Lifecycle | None]) -> list[Endpoint]:
    """The endpoints of `tidegate-pipelines`."""

    def life() -> Lifecycle:
        found = lifecycle()
        if found is None:
            raise RefusedError(Code.UNAVAILABLE, "the rules are being loaded; try again")
        return found

    async def listed(_: Principal, __: Nothing) -> bytes:
        return msgspec.json.encode(summaries(life()))

    async def metrics(_: Principal, asked: PipelineRequest) -> bytes:
        for flow in life().rules().flows:
            if flow.name == asked.name:
                return msgspec.json.encode(measured(flow))
        raise RefusedError(Code.NOT_FOUND, f"there is no pipeline {asked.name[:80]!r}")

    async def activate(who: Principal, asked: VersionRequest) -> bytes:
        command = {"type": "pipeline.activate.v1", "version": asked.version, "by": who.id}
        return msgspec.json.encode(await service.command(who, PIPELINE, asked.name, command))

    async def roll_back(who: Principal, asked: PipelineRequest) -> bytes:
        command = {"type": "pipeline.roll_back.v1", "by": who.id}
        return msgspec.json.encode(await service.command(who, PIPELINE, asked.name, command))

    return [
        _endpoint("pipelines", "list", "admin", Nothing, listed),
        _endpoint("pipelines", "metrics", "admin", PipelineRequest, metrics),
        _endpoint("pipelines", "activate", "admin", VersionRequest, activate),
        _endpoint("pipelines", "roll_back", "admin", PipelineRequest, roll_back),
        _status("pipelines", service),
    ]


def _status(name: str, service: Service) -> Endpoint:
    async def status(who: Principal, _: Nothing) -> bytes:
        return msgspec.json.encode(await service.status(who))

    return _endpoint(name, "status", None, Nothing, status)


@contextlib.asynccontextmanager
async def offered(bus: Bus, service: Service, **endpoints: list[Endpoint]) -> AsyncIterator[None]:
    """Offer `tidegate-<name>` for each name, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        for name, some in endpoints.items():
            await stack.enter_async_context(
                serving(bus, service.gate, f"tidegate-{name}", VERSION, _DESCRIPTIONS[name], some)
            )
        yield
