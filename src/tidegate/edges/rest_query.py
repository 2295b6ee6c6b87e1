"""REST over the read models: events, counts, SQL and positions, below `/v1`.

Invariant: events pass through as the JSON that the read model holds; every error is an RFC 9457 problem.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler, ExceptionHandlersMap

from tidegate.edges.http import problem
from tidegate.errors import BusError, BusUnavailableError, PositionTimeoutError, QueryError, TierUnavailableError
from tidegate.query import Queries, TierName, parse_time
from tidegate.tiers.hot import MinuteCount

__all__ = ["Counts", "Events", "Problem", "SqlRequest", "SqlRows", "routes"]

HOUR_MS = 3_600_000

Given = NamedDependency[Queries]
Tier = Annotated[TierName | None, QueryParameter(description="Default: the first of hot, warm, lake that has any.")]
After = Annotated[
    str | None,
    QueryParameter(
        description="Wait until `INGEST/<partition>/<sequence>` (a receipt) or `LOG/<sequence>` can be seen."
    ),
]
Time = Annotated[
    str | None, QueryParameter(description="RFC 3339, milliseconds since 1970, or how long ago: 15m, 2h, 7d.")
]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class Events(msgspec.Struct, frozen=True, kw_only=True):
    tier: str
    count: int
    complete: bool
    """False when a search through the archive was ended by its limits."""
    events: list[dict[str, Any]]
    """OCSF events."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    tier: str
    counts: list[MinuteCount]


class SqlRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sql: str
    """One SELECT over the table `events`."""
    max_rows: int = 1000
    timeout_seconds: float = 10.0
    after: str | None = None


class SqlRows(msgspec.Struct, frozen=True, kw_only=True):
    columns: list[str]
    rows: list[list[Any]]
    truncated: bool
    """There were more than `max_rows`."""


def routes(queries: Callable[[], Queries | None]) -> list[ControllerRouterHandler]:
    """What storage-manager serves about events. `queries` returns None while there is no connection to NATS."""

    def connected() -> Queries:
        found = queries()
        if found is None:
            raise BusUnavailableError("there is no connection to NATS yet; try again")
        return found

    return [
        Router(
            "/v1",
            route_handlers=[event, events, counts, sql, positions],
            dependencies={"queries": Provide(connected, sync_to_thread=False)},
            exception_handlers=HANDLERS,
            tags=["events"],
        )
    ]


def _problems(*codes: int) -> dict[int, ResponseSpec]:
    return {
        code: ResponseSpec(
            Problem,
            description=HTTPStatus(code).phrase,
            generate_examples=False,
            media_type="application/problem+json",
        )
        for code in codes
    }


def _ok(shape: type[Any], description: str) -> dict[int, ResponseSpec]:
    return {200: ResponseSpec(shape, description=description, generate_examples=False)}


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(body, media_type="application/json", headers=headers)


@get(
    "/events/{event_id:str}",
    summary="One event by its id",
    responses={
        **_ok(dict[str, Any], "The OCSF event; the header Tidegate-Tier says where it is from."),
        **_problems(400, 404, 503, 504),
    },
)
async def event(queries: Given, event_id: FromPath[str], tier: Tier = None, after: After = None) -> Response[bytes]:
    answer = await queries.get(event_id, tier, after=after)
    if not answer.events:
        where = tier or "hot, warm and lake"
        return problem(404, "Not found", f"there is no event {event_id!r} in {where}")
    return _json(answer.events[0], {"Tidegate-Tier": answer.tier})


@get(
    "/events",
    summary="Events by correlation id or by observable, latest first",
    responses={**_ok(Events, "The events."), **_problems(400, 503, 504)},
)
async def events(
    queries: Given,
    correlation_id: FromQuery[str | None] = None,
    observable: Annotated[str | None, QueryParameter(description="An address, a host, a user, a hash, ...")] = None,
    since: Time = None,
    until: Time = None,
    limit: FromQuery[int] = 100,
    tier: Tier = None,
    after: After = None,
) -> Response[bytes]:
    if (correlation_id is None) == (observable is None):
        raise QueryError("give exactly one of correlation_id and observable")
    if observable is not None:
        since_ms = parse_time(since) if since else None
        until_ms = parse_time(until) if until else None
        answer = await queries.by_observable(observable, since_ms, until_ms, limit, tier, after=after)
    else:
        assert correlation_id is not None
        if since or until:
            raise QueryError("since and until go with observable; a correlation id has all its events")
        answer = await queries.by_correlation(correlation_id, limit, tier, after=after)
    head = {"tier": answer.tier, "count": len(answer.events), "complete": answer.complete}
    body = msgspec.json.encode(head)[:-1] + b',"events":[' + b",".join(answer.events) + b"]}"
    return _json(body, {"Tidegate-Tier": answer.tier})


@get(
    "/counts",
    summary="Events by minute, class and severity; of the last hour by default",
    responses={**_ok(Counts, "The counts, as hot has them."), **_problems(400, 503, 504)},
)
async def counts(queries: Given, since: Time = None, until: Time = None, after: After = None) -> Response[bytes]:
    until_ms = parse_time(until) if until else time.time_ns() // 1_000_000
    since_ms = parse_time(since) if since else until_ms - HOUR_MS
    found = await queries.counts(since_ms, until_ms, after=after)
    return _json(msgspec.json.encode(Counts(tier="hot", counts=found)))


@post(
    "/sql",
    status_code=200,
    summary="One read-only SQL statement over the lake's table `events`",
    responses={**_ok(SqlRows, "The rows."), **_problems(400, 503, 504)},
)
async def sql(queries: Given, data: JSONBody[SqlRequest]) -> Response[bytes]:
    found = await queries.sql(data.sql, data.max_rows, data.timeout_seconds, after=data.after)
    answer = {"columns": found.columns, "rows": found.rows, "truncated": found.truncated}
    return _json(msgspec.json.encode(answer, enc_hook=str))


@get(
    "/positions",
    summary="Where each cell of each read model stands, and where the log ends",
    responses={**_ok(dict[str, Any], "The positions."), **_problems(503)},
)
async def positions(queries: Given) -> Response[bytes]:
    return _json(msgspec.json.encode(await queries.positions()))


def _of_query(_: Request[Any, Any, Any], error: QueryError) -> Response[bytes]:
    if isinstance(error, PositionTimeoutError):
        return problem(504, "Not there yet", str(error))
    return problem(400, "Bad query", str(error))


def _of_tier(_: Request[Any, Any, Any], error: TierUnavailableError) -> Response[bytes]:
    return problem(503, f"Tier {error.tier} unavailable", str(error))


def _of_bus(_: Request[Any, Any, Any], error: BusError | BusUnavailableError) -> Response[bytes]:
    return problem(503, "NATS unavailable", str(error))


HANDLERS: ExceptionHandlersMap = {
    QueryError: _of_query,
    TierUnavailableError: _of_tier,
    BusError: _of_bus,
    BusUnavailableError: _of_bus,
}
