"""REST over the read models: events, counts, SQL and positions, below `/v1`.

Invariant: events pass through as the JSON that the read model holds; every error is an RFC 9457 problem.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from tidegate.edges.examples import queries as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import principal_of
from tidegate.edges.problems import problems, refused
from tidegate.edges.shapes import answers
from tidegate.errors import QueryError
from tidegate.query import TierName
from tidegate.service import Service, refusal
from tidegate.tiers.hot import MinuteCount

__all__ = ["Counts", "Events", "SqlRequest", "SqlRows", "routes"]

Given = NamedDependency[Service]
Asking = Request[Any, Any, Any]
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


class Events(msgspec.Struct, frozen=True, kw_only=True):
    tier: str
    count: int
    complete: bool
    """False when a search through the archive was ended by its limits."""
    events: list[dict[str, Any]]
    """OCSF events."""
    next: str = ""
    """The cursor of the page behind this one, where there is one."""


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


def routes(service: Service) -> list[ControllerRouterHandler]:
    """What storage-manager serves about events."""
    return [
        Router(
            "/v1",
            route_handlers=[event, events, counts, sql, positions],
            dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
            opt={"scope": "query"},
            exception_handlers={QueryError: _of_query},
            tags=["events"],
        )
    ]


def _of_query(request: Request[Any, Any, Any], error: QueryError) -> Response[bytes]:
    return refused(request, refusal(error))


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(body, media_type="application/json", headers=headers)


@get(
    "/events/{event_id:str}",
    operation_class=showing(examples.EVENT),
    summary="One event by its id",
    responses={
        **answers(dict[str, Any], "The OCSF event; the header Tidegate-Tier says where it is from."),
        **problems(400, 401, 403, 404, 429, 503, 504),
    },
)
async def event(
    request: Asking, service: Given, event_id: FromPath[str], tier: Tier = None, after: After = None
) -> Response[bytes]:
    """An event may become another only when its log is rebuilt, so `If-None-Match` spares fetching it again."""
    found, line = await service.event(principal_of(request), event_id, tier, after)
    tag = f'"{zlib.crc32(line):08x}"'
    headers = {"Tidegate-Tier": found, "ETag": tag, "Vary": "Authorization, X-API-Key"}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    return _json(line, headers)


@get(
    "/events",
    operation_class=showing(examples.EVENTS),
    summary="Events by correlation id or by observable, latest first",
    responses={**answers(Events, "The events."), **problems(400, 401, 403, 429, 503, 504)},
)
async def events(
    request: Asking,
    service: Given,
    correlation_id: FromQuery[str | None] = None,
    observable: Annotated[str | None, QueryParameter(description="An address, a host, a user, a hash, ...")] = None,
    since: Time = None,
    until: Time = None,
    limit: FromQuery[int] = 100,
    tier: Tier = None,
    after: After = None,
    cursor: Annotated[str, QueryParameter(description="`next` of the page before, with all else as it was.")] = "",
) -> Response[bytes]:
    page = await service.find(
        principal_of(request), correlation_id, observable, since, until, limit, tier, cursor=cursor, after=after
    )
    head = {"tier": page.tier, "count": len(page.events), "complete": page.complete}
    if page.cursor:
        head["next"] = page.cursor
    body = msgspec.json.encode(head)[:-1] + b',"events":[' + b",".join(page.events) + b"]}"
    return _json(body, {"Tidegate-Tier": page.tier})


@get(
    "/counts",
    operation_class=showing(examples.COUNTS),
    summary="Events by minute, class and severity; of the last hour by default",
    responses={**answers(Counts, "The counts, as hot has them."), **problems(400, 401, 403, 429, 503, 504)},
)
async def counts(
    request: Asking, service: Given, since: Time = None, until: Time = None, after: After = None
) -> Response[bytes]:
    found = await service.counts(principal_of(request), since, until, after)
    return _json(msgspec.json.encode(Counts(tier="hot", counts=found)))


@post(
    "/sql",
    status_code=200,
    operation_class=showing(examples.SQL),
    summary="One read-only SQL statement over the lake's table `events`",
    responses={**answers(SqlRows, "The rows."), **problems(400, 401, 403, 429, 503, 504)},
)
async def sql(request: Asking, service: Given, data: JSONBody[SqlRequest]) -> Response[bytes]:
    found = await service.sql(principal_of(request), data.sql, data.max_rows, data.timeout_seconds, data.after)
    answer = {"columns": found.columns, "rows": found.rows, "truncated": found.truncated}
    return _json(msgspec.json.encode(answer, enc_hook=str))


@get(
    "/positions",
    operation_class=showing(examples.POSITIONS),
    summary="Where each cell of each read model stands, and where the log ends",
    responses={**answers(dict[str, Any], "The positions."), **problems(401, 403, 429, 503)},
)
async def positions(request: Asking, service: Given) -> Response[bytes]:
    return _json(msgspec.json.encode(await service.positions(principal_of(request))))
