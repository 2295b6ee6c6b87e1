"""The gRPC service `Queries`: events by id, correlation and observable, counts, SQL.

Invariant: events pass through as the JSON that the read model holds.
"""

from __future__ import annotations

from typing import Any, get_args

import grpc
import msgspec

from tidegate.edges.grpc_calls import Call, Method, handler
from tidegate.edges.grpc_events import status
from tidegate.errors import Code, RefusedError
from tidegate.proto import services_pb2 as pb
from tidegate.query import TierName
from tidegate.service import Service

__all__ = ["queries"]

_TIERS = get_args(TierName)


def queries(service: Service) -> grpc.GenericRpcHandler:
    """What serves it."""
    one = _Queries(service)
    methods = {
        "GetEvent": Method("query", one.event),
        "FindEvents": Method("query", one.find),
        "CountEvents": Method("query", one.count),
        "Sql": Method("query", one.sql),
        "GetStatus": Method(None, status(service)),
    }
    return handler(pb.DESCRIPTOR.services_by_name["Queries"], service.gate, methods)


class _Queries:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def event(self, call: Call) -> None:
        asked = await call.only()
        tier, line = await self._service.event(call.principal, asked.id, _tier(asked.tier), asked.after or None)
        await call.send(pb.Event(tier=tier, line=line))

    async def find(self, call: Call) -> None:
        asked = await call.only()
        by = asked.WhichOneof("by")
        page = await self._service.find(
            call.principal,
            asked.correlation_id if by == "correlation_id" else None,
            asked.observable if by == "observable" else None,
            _ms(asked, "since"),
            _ms(asked, "until"),
            asked.limit or 100,
            _tier(asked.tier),
            cursor=asked.cursor,
            after=asked.after or None,
        )
        await call.send(pb.Page(tier=page.tier, events=page.events, complete=page.complete, cursor=page.cursor))

    async def count(self, call: Call) -> None:
        asked = await call.only()
        since, until = _ms(asked, "since"), _ms(asked, "until")
        found = await self._service.counts(call.principal, since, until, asked.after or None)
        await call.send(pb.Counts(counts=[pb.MinuteCount(**msgspec.structs.asdict(one)) for one in found]))

    async def sql(self, call: Call) -> None:
        asked = await call.only()
        found = await self._service.sql(
            call.principal, asked.sql, asked.max_rows or 1000, asked.timeout_seconds or 10.0, asked.after or None
        )
        rows = [msgspec.json.encode(row, enc_hook=str) for row in found.rows]
        await call.send(pb.Rows(columns=found.columns, rows=rows, truncated=found.truncated))


def _tier(name: str) -> TierName | None:
    if name and name not in _TIERS:
        raise RefusedError(Code.INVALID, f"there is no tier {name[:60]!r}; there are: {', '.join(_TIERS)}")
    return name or None  # type: ignore[return-value]


def _ms(asked: Any, name: str) -> int | None:
    return int(getattr(asked, name).ToMilliseconds()) if asked.HasField(name) else None
