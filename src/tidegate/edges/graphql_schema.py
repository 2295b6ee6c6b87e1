"""The GraphQL schema: what can be asked, changed and followed. `graphql` serves it.

Invariant: every field at a root goes through the gate with the key that came with the call, and counts as a request.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from enum import Enum
from typing import Any, cast

import msgspec
import strawberry
from graphql import GraphQLError
from strawberry.dataloader import DataLoader
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from tidegate.auth import Principal
from tidegate.edges.graphql_limits import Limits
from tidegate.edges.shapes import in_parts, start_of
from tidegate.entities.access_key import Scope
from tidegate.entities.selection import EventFilter
from tidegate.errors import Code, QueryError, RefusedError
from tidegate.query import TierName
from tidegate.service import Item, Service, Slow, refusal

__all__ = ["SCHEMA", "Context"]

_Key = tuple[str, str, str]
"""Event id, tier, position to wait for."""
_LOOK_SECONDS = 10.0


class Context:
    """Of one call over HTTP, or of one connection."""

    def __init__(self, service: Service, token: str, peer: str) -> None:
        self.service = service
        self.token = token
        self.peer = peer
        self.connection_params: dict[str, object] = {}
        # Not kept: a connection lasts, and what an id leads to may change.
        self.events: DataLoader[_Key, tuple[str, bytes] | RefusedError] = DataLoader(self._load, cache=False)

    async def enter(self, scope: Scope | None, what: str) -> Principal:
        """Who is calling, if they may."""
        return await self.service.gate.enter(self.token, scope, f"GraphQL {what}", self.peer)

    async def _load(self, keys: list[_Key]) -> Sequence[tuple[str, bytes] | RefusedError]:
        who = await self.service.gate.enter(self.token, "query", "GraphQL event", self.peer, requests=0)
        groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for event_id, tier, after in keys:
            groups[tier, after].append(event_id)
        found: dict[_Key, tuple[str, bytes]] = {}
        for (tier, after), ids in groups.items():
            answers = await self.service.events(who, ids, cast("TierName | None", tier or None), after or None)
            found |= {(one, tier, after): answer for one, answer in answers.items()}
        missing = RefusedError(Code.NOT_FOUND, "there is no such event in the tiers that were asked")
        return [found.get(key, missing) for key in keys]


class Info(strawberry.Info[Context, None]):
    pass


@strawberry.enum
class Tier(Enum):
    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    LAKE = "lake"


@strawberry.enum
class SlowReader(Enum):
    HOLD = strawberry.enum_value("hold", description="It is waited for; nothing is left out.")
    SKIP = strawberry.enum_value("skip", description="It is passed over, and told how many it has missed.")


@strawberry.enum
class By(Enum):
    MINUTE = "minute_ms"
    CLASS = "class_uid"
    SEVERITY = "severity_id"


class _Metadata(msgspec.Struct):
    uid: str = ""
    correlation_uid: str | None = None
    event_code: str | None = None
    log_source: str = ""
    log_name: str = ""
    tenant_uid: str | None = None


class _Head(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    time: int = 0
    class_uid: int = 0
    class_name: str = ""
    severity_id: int = 0
    message: str | None = None


_HEAD = msgspec.json.Decoder(_Head)


@strawberry.type(description="An OCSF event; `data` is all of it.")
class Event:
    id: strawberry.ID
    time: float = strawberry.field(description="Milliseconds since 1970.")
    class_uid: int
    class_name: str
    severity_id: int
    source: str
    correlation_id: str | None
    event_code: str | None
    tenant: str | None
    message: str | None
    data: JSON


def _event(line: bytes) -> Event:
    head = _HEAD.decode(line)
    metadata = head.metadata
    return Event(
        id=strawberry.ID(metadata.uid),
        time=head.time,
        class_uid=head.class_uid,
        class_name=head.class_name,
        severity_id=head.severity_id,
        source=metadata.log_source or metadata.log_name,
        correlation_id=metadata.correlation_uid,
        event_code=metadata.event_code,
        tenant=metadata.tenant_uid,
        message=head.message,
        data=JSON(msgspec.Raw(line)),  # as it is, into the answer
    )


@strawberry.type
class PageInfo:
    end_cursor: str | None
    has_next_page: bool


@strawberry.type
class Page:
    tier: str
    complete: bool = strawberry.field(description="False when a search through the archive was ended by its limits.")
    nodes: list[Event]
    page_info: PageInfo


@strawberry.type(description="How many events there were; what was not grouped by is null.")
class Count:
    minute_ms: float | None
    class_uid: int | None
    severity_id: int | None
    count: int


@strawberry.type
class Rows:
    columns: list[str]
    rows: JSON
    truncated: bool


@strawberry.type
class Entity:
    id: strawberry.ID
    version: int
    state: JSON


@strawberry.type
class RefusedRecord:
    index: int
    reason: str


@strawberry.type
class Stored:
    positions: list[str]
    records: int
    duplicates: int
    refused: list[RefusedRecord]
    refused_count: int


@strawberry.type
class Decision:
    id: strawberry.ID
    version: int
    position: str = strawberry.field(description="Wait for it to read what the command has changed.")
    events: JSON
    duplicate: bool


@strawberry.type
class Arrival:
    position: str = strawberry.field(description="What to begin behind another time.")
    event: Event


@strawberry.type
class Arrivals:
    items: list[Arrival]
    left_out: int = strawberry.field(description="Events before these that a slow reader has missed.")


@strawberry.type
class Query:
    @strawberry.field
    async def event(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        tier: Tier | None = None,
        position: str | None = None,
    ) -> Event:
        await info.context.enter("query", "event")
        found = await info.context.events.load((id, tier.value if tier else "", position or ""))
        if isinstance(found, RefusedError):
            raise found
        return _event(found[1])

    @strawberry.field(description="By correlation id or by observable, latest first. `after` is a cursor.")
    async def events(
        self,
        info: Info,
        correlation_id: str | None = None,
        observable: str | None = None,
        since: str | None = None,
        until: str | None = None,
        first: int = 100,
        after: str | None = None,
        tier: Tier | None = None,
        position: str | None = None,
    ) -> Page:
        who = await info.context.enter("query", "events")
        page = await info.context.service.find(
            who, correlation_id, observable, since, until, first, tier.value if tier else None,
            cursor=after or "", after=position,
        )  # fmt: skip
        return Page(
            tier=page.tier,
            complete=page.complete,
            nodes=[_event(line) for line in page.events],
            page_info=PageInfo(end_cursor=page.cursor or None, has_next_page=bool(page.cursor)),
        )

    @strawberry.field(description="As hot has them, of the last hour by default.")
    async def counts(
        self,
        info: Info,
        since: str | None = None,
        until: str | None = None,
        by: list[By] = [By.MINUTE, By.CLASS, By.SEVERITY],  # noqa: B006 - never changed
        position: str | None = None,
    ) -> list[Count]:
        who = await info.context.enter("query", "counts")
        totals: Counter[tuple[Any, ...]] = Counter()
        names = [field.value for field in By]
        for one in await info.context.service.counts(who, since, until, position):
            totals[tuple(getattr(one, field.value) if field in by else None for field in By)] += one.count
        return [Count(**dict(zip(names, group, strict=True)), count=count) for group, count in totals.items()]

    @strawberry.field(description="One SELECT over the lake's table `events`.")
    async def sql(
        self, info: Info, statement: str, max_rows: int = 1000, timeout_seconds: float = 10.0,
        position: str | None = None,
    ) -> Rows:  # fmt: skip
        who = await info.context.enter("query", "sql")
        found = await info.context.service.sql(who, statement, max_rows, timeout_seconds, position)
        return Rows(columns=found.columns, rows=JSON(found.rows), truncated=found.truncated)

    @strawberry.field
    async def entity(self, info: Info, kind: str, id: strawberry.ID) -> Entity:  # noqa: A002
        found = await info.context.service.entity(await info.context.enter("query", "entity"), kind, id)
        return Entity(id=strawberry.ID(found.id), version=found.version, state=JSON(found.state))

    @strawberry.field(description="Where each cell of each read model stands.")
    async def positions(self, info: Info) -> JSON:
        return JSON(await info.context.service.positions(await info.context.enter("query", "positions")))

    @strawberry.field(description="Whether the process can do its work, and what the caller may do.")
    async def status(self, info: Info) -> JSON:
        return JSON(await info.context.service.status(await info.context.enter(None, "status")))


@strawberry.type
class Mutation:
    @strawberry.mutation(description="Give exactly one of `records` (any JSON values), `text`, and `body` (base64).")
    async def publish(
        self,
        info: Info,
        source: str,
        records: list[JSON] | None = None,
        text: str | None = None,
        body: str | None = None,
        content_type: str = "",
        content_encoding: str = "",
        key: str = "",
    ) -> Stored:
        who = await info.context.enter("publish", "publish")
        if [records, text, body].count(None) != 2:
            raise RefusedError(Code.INVALID, "give exactly one of records, text and body")
        if records is not None:
            given, content_type = b"\n".join(map(msgspec.json.encode, records)), "application/x-ndjson"
        elif text is not None:
            given, content_type = text.encode(), content_type or "text/plain"
        else:
            try:
                given = msgspec.convert(body, bytes)
            except msgspec.ValidationError as error:
                raise RefusedError(Code.INVALID, "body is not base64") from error
        found = await info.context.service.publish(
            who, source, in_parts(given), content_type, content_encoding, key=key
        )  # fmt: skip
        return Stored(
            positions=found.positions,
            records=found.records,
            duplicates=found.duplicates,
            refused=[RefusedRecord(index=one.index, reason=one.reason) for one in found.refused],
            refused_count=found.refused_count,
        )

    @strawberry.mutation(description="Give a command to an entity; it is in the log when the answer comes.")
    async def command(
        self,
        info: Info,
        kind: str,
        id: strawberry.ID,  # noqa: A002
        command: JSON,
        command_id: str = "",
        expected_version: int | None = None,
    ) -> Decision:
        who = await info.context.enter("command", "command")
        found = await info.context.service.command(
            who, kind, id, command, command_id=command_id, expected_version=expected_version
        )
        return Decision(
            id=strawberry.ID(found.id),
            version=found.version,
            position=f"LOG/{found.sequence}",
            events=JSON(found.events),
            duplicate=found.duplicate,
        )


@strawberry.type
class Subscription:
    @strawberry.subscription(description="Events as they are logged, some at a time.")
    async def events(
        self,
        info: Info,
        start: str = "now",
        types: list[str] = [],  # noqa: B006 - never changed
        source: str = "",
        correlation_id: str = "",
        min_severity: int = 0,
        fields: JSON | None = None,
        buffer: int = 1000,
        slow: SlowReader = SlowReader.HOLD,
    ) -> AsyncGenerator[Arrivals, None]:
        context = info.context
        who = await context.enter("subscribe", "subscribe")
        try:
            told = {"source": source, "correlation_id": correlation_id, "min_severity": min_severity}
            where = msgspec.convert({**told, "fields": fields or {}}, EventFilter)
        except msgspec.ValidationError as error:
            raise RefusedError(Code.INVALID, f"fields: {error}") from error
        async with context.service.subscribe(
            who,
            start=start_of(start),
            types=[int(one) if one.isdecimal() else one for one in types],
            where=where,
            most=buffer,
            slow=cast("Slow", slow.value),
        ) as feed:
            while True:
                batch = await feed.next(timeout_seconds=_LOOK_SECONDS)
                await context.service.gate.still(context.token)
                if batch.items:
                    yield Arrivals(items=[_arrival(one) for one in batch.items], left_out=batch.left_out)


def _arrival(one: Item) -> Arrival:
    return Arrival(position=one.position, event=_event(one.line))


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Each says in `extensions.code` why, in the terms of `errors.Code`; what nobody thought of is not shown."""
        for one in errors:
            match one.original_error:
                case RefusedError() as refused:
                    pass
                case QueryError() as wrong:
                    refused = refusal(wrong)
                case None | GraphQLError():
                    refused = RefusedError(Code.INVALID, one.message)
                case _:
                    super().process_errors([one], execution_context)
                    one.message = "this went wrong here, and the log of the process says why"
                    one.extensions = {"code": "internal"}
                    continue
            one.extensions = {"code": refused.code.value, **refused.details}
            if refused.after:
                one.extensions["after_seconds"] = round(refused.after, 3)


SCHEMA = _Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    extensions=[Limits],
    config=StrawberryConfig(disable_field_suggestions=True, info_class=Info),
)
