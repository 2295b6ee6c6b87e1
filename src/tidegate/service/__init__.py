"""What every edge offers: publish, subscribe, query, command, status. An edge decodes, calls this, and encodes.

Invariant: nothing here believes an edge about what somebody may do or see, and every refusal is a RefusedError with one
of the codes in `errors.Code`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from tidegate.actor.host import Answer as Decision
from tidegate.actor.system import System
from tidegate.auth import Gate, Principal
from tidegate.bus import Bus
from tidegate.entities.access_key import KIND as ACCESS_KEY
from tidegate.entities.selection import EventFilter, EventType
from tidegate.errors import (
    BusError,
    BusUnavailableError,
    Code,
    CommandRefusedError,
    PositionTimeoutError,
    QueryError,
    RefusedError,
    TidegateError,
    TierUnavailableError,
)
from tidegate.log import Log
from tidegate.pipeline.tenants import scoped
from tidegate.query import Queries, TierName
from tidegate.service.following import Batch, Feed, Item, Slow, Start, check_reader, following
from tidegate.service.paging import Page, paged
from tidegate.service.publishing import Body, Published, Publishing, Refusal
from tidegate.service.ranges import When, counted, in_ms
from tidegate.service.sharing import Live, Sharing

__all__ = [
    "Batch",
    "Body",
    "Feed",
    "Item",
    "Page",
    "Published",
    "Refusal",
    "Service",
    "Sharing",
    "Slow",
    "Start",
    "refusal",
]

T = TypeVar("T")

TENANT_KINDS = frozenset({"correlation", "alert"})
"""Their ids are made of correlation ids, which begin with the tenant's name."""
ADMIN_KINDS = frozenset({ACCESS_KEY, "budget", "call", "connection", "pipeline", "subscription"})

_OF_COMMANDS = {"invalid": Code.INVALID, "unknown": Code.NOT_FOUND}


def refusal(error: TidegateError) -> RefusedError:
    """What an error means to a caller."""
    match error:
        case RefusedError():
            return error
        case CommandRefusedError():
            code = _OF_COMMANDS.get(error.code, Code.CONFLICT)
            return RefusedError(code, error.problem, details={"refusal": error.code})
        case PositionTimeoutError():
            return RefusedError(Code.TIMEOUT, str(error))
        case QueryError():
            return RefusedError(Code.INVALID, str(error))
        case TierUnavailableError() | BusUnavailableError() | BusError():
            return RefusedError(Code.UNAVAILABLE, str(error))
        case _:
            raise error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except TidegateError as error:
        raise refusal(error) from error


class Service:
    """What one process offers; `queries` is None where it keeps no read models."""

    def __init__(
        self,
        gate: Gate,
        publishing: Publishing,
        *,
        bus: Callable[[], Bus | None],
        shards: int,
        kinds: Collection[str],
        queries: Callable[[], Queries | None] = lambda: None,
        not_ready: Callable[[], str | None] = lambda: None,
        report: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self.gate = gate
        self._publishing = publishing
        self._bus = bus
        self._shards = shards
        self._kinds = kinds
        self._queries = queries
        self._not_ready = not_ready
        self._report = report

    def _connected(self) -> Bus:
        bus = self._bus()
        if bus is None or not bus.connected:
            raise RefusedError(Code.UNAVAILABLE, "there is no connection to NATS; try again")
        return bus

    def _asked(self) -> Queries:
        queries = self._queries()
        if queries is None:
            raise RefusedError(Code.UNAVAILABLE, "there is no connection to NATS, or no read model here; try again")
        return queries

    # -- publish ------------------------------------------------------------------------------------------------

    async def publish(
        self,
        principal: Principal,
        source: str,
        body: Body,
        content_type: str = "",
        content_encoding: str = "",
        *,
        key: str = "",
        trace: str = "",
        timeout_seconds: float | None = None,
    ) -> Published:
        """As `Publishing.publish`."""
        with _told():
            return await self._publishing.publish(
                principal, source, body, content_type, content_encoding, key=key, trace=trace,
                timeout_seconds=timeout_seconds,
            )  # fmt: skip

    # -- subscribe ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def subscribe(
        self,
        principal: Principal,
        *,
        start: Start = "now",
        types: Sequence[EventType] = (),
        where: EventFilter = EventFilter(),  # noqa: B008 - frozen
        most: int = 1000,
        slow: Slow = "hold",
        acks: bool = False,
    ) -> AsyncIterator[Feed]:
        """As `following`. Raises RefusedError also for who has too many subscriptions already."""
        with self.gate.subscriptions.one(principal.id):
            async with self._followed(
                principal, start=start, types=types, where=where, most=most, slow=slow, acks=acks
            ) as feed:
                yield feed

    @contextlib.asynccontextmanager
    async def _followed(self, principal: Principal, *, where: EventFilter, **how: Any) -> AsyncIterator[Feed]:
        with _told():
            bus = self._connected()
            if principal.tenant and where.correlation_id:
                where = msgspec.structs.replace(where, correlation_id=scoped(principal.tenant, where.correlation_id))
            async with following(bus, Log(bus, self._shards), principal, where=where, **how) as feed:
                yield feed

    @contextlib.asynccontextmanager
    async def live(
        self,
        principal: Principal,
        sharing: Sharing[T],
        *,
        types: Sequence[EventType] = (),
        where: EventFilter = EventFilter(),  # noqa: B008 - frozen
        most: int = 1000,
        slow: Slow = "hold",
    ) -> AsyncIterator[Live[T]]:
        """What is logged from now on, as `subscribe` gives it, with a feed that those who want the same share."""
        check_reader(principal, most, slow)
        grant = principal.grant
        key = grant.tenant, grant.sources, tuple(types), msgspec.json.encode(where)

        def alone(start: Start, most: int) -> contextlib.AbstractAsyncContextManager[Feed]:
            return self._followed(principal, start=start, types=types, where=where, most=most)

        async def end() -> int:
            return (await Log(self._connected(), self._shards).state()).last_sequence

        with _told(), self.gate.subscriptions.one(principal.id):
            async with sharing.join(key, alone, end, most, slow) as reader:
                yield reader

    # -- query --------------------------------------------------------------------------------------------------

    async def event(
        self, principal: Principal, event_id: str, tier: TierName | None = None, after: str | None = None
    ) -> tuple[str, bytes]:
        """The tier that has the event, and the event. Ids that a tenant has given may be said without its name."""
        principal.need("query")
        names = dict.fromkeys([event_id, scoped(principal.tenant, event_id)] if principal.tenant else [event_id])
        with _told():
            for name in names:
                answer = await self._asked().get(name, tier, after=after, visible=principal.visible)
                if answer.events:
                    return answer.tier, answer.events[0]
        where = tier or "hot, warm and lake"
        raise RefusedError(Code.NOT_FOUND, f"there is no event {event_id[:200]!r} in {where}")

    async def events(
        self, principal: Principal, ids: Sequence[str], tier: TierName | None = None, after: str | None = None
    ) -> dict[str, tuple[str, bytes]]:
        """As `event` for each of the ids, without those that there is none of."""
        principal.need("query")
        names = {one: dict.fromkeys([one, scoped(principal.tenant, one)] if principal.tenant else [one]) for one in ids}
        wanted = [*dict.fromkeys(name for some in names.values() for name in some)]
        with _told():
            answers = await self._asked().get_many(wanted, tier, after=after, visible=principal.visible)
        found = {one: next((answers[name] for name in some if name in answers), None) for one, some in names.items()}
        return {one: (answer.tier, answer.events[0]) for one, answer in found.items() if answer}

    async def by_correlation(
        self,
        principal: Principal,
        correlation_id: str,
        limit: int = 100,
        tier: TierName | None = None,
        *,
        cursor: str = "",
        after: str | None = None,
    ) -> Page:
        """Events of a correlation, latest first, page by page."""
        principal.need("query")
        name = scoped(principal.tenant, correlation_id) if principal.tenant else correlation_id
        visible = principal.visible if principal.limited else None
        with _told():
            queries = self._asked()
            return await paged(
                lambda most, where: queries.by_correlation(name, most, where, after=after, visible=visible),
                limit,
                tier,
                cursor,
            )

    async def by_observable(
        self,
        principal: Principal,
        value: str,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 100,
        tier: TierName | None = None,
        *,
        cursor: str = "",
        after: str | None = None,
    ) -> Page:
        """Events in which `value` was seen, latest first, page by page."""
        principal.need("query")
        visible = principal.visible if principal.limited else None
        with _told():
            queries = self._asked()
            return await paged(
                lambda most, where: queries.by_observable(
                    value, since_ms, until_ms, most, where, after=after, visible=visible
                ),
                limit,
                tier,
                cursor,
            )

    async def find(
        self,
        principal: Principal,
        correlation_id: str | None,
        observable: str | None,
        since: When = None,
        until: When = None,
        limit: int = 100,
        tier: TierName | None = None,
        *,
        cursor: str = "",
        after: str | None = None,
    ) -> Page:
        """Events by one of the two. Times, for an observable only: ms since 1970, or as texts (`parse_time`)."""
        if (correlation_id is None) == (observable is None):
            raise RefusedError(Code.INVALID, "give exactly one of correlation_id and observable")
        if observable is None:
            assert correlation_id is not None
            if since not in (None, "") or until not in (None, ""):
                problem = "since and until go with observable; a correlation id has all its events"
                raise RefusedError(Code.INVALID, problem)
            return await self.by_correlation(principal, correlation_id, limit, tier, cursor=cursor, after=after)
        with _told():
            since_ms, until_ms = in_ms(since), in_ms(until)
        return await self.by_observable(
            principal, observable, since_ms, until_ms, limit, tier, cursor=cursor, after=after
        )

    async def counts(
        self, principal: Principal, since: When = None, until: When = None, after: str | None = None
    ) -> list[Any]:
        """As `Queries.counts`; by default of the last hour, as `counted` has it."""
        principal.need("query")
        principal.need_all("counts")
        with _told():
            since_ms, until_ms = counted(since, until)
            return list(await self._asked().counts(since_ms, until_ms, after=after))

    async def sql(
        self,
        principal: Principal,
        statement: str,
        max_rows: int = 1000,
        timeout_seconds: float = 10.0,
        after: str | None = None,
    ) -> Any:
        """As `Queries.sql`."""
        principal.need("query")
        principal.need_all("SQL")
        with _told():
            return await self._asked().sql(statement, max_rows, timeout_seconds, after=after)

    async def positions(self, principal: Principal) -> dict[str, object]:
        """As `Queries.positions`."""
        principal.need("query")
        principal.need_all("the table of positions")
        with _told():
            return await self._asked().positions()

    # -- command ------------------------------------------------------------------------------------------------

    async def command(
        self,
        principal: Principal,
        kind: str,
        entity_id: str,
        command: Any,
        *,
        command_id: str = "",
        expected_version: int | None = None,
    ) -> Decision:
        """Give a command to an entity; it is in the log when this returns. A tenant's ids are its own."""
        principal.need("command")
        name = self._entity(principal, kind, entity_id)
        if len(command_id) > 200:
            raise RefusedError(Code.INVALID, "an id of a command has at most 200 characters")
        result = "allowed"
        try:
            with _told():
                system = System(self._connected(), Log(self._connected(), self._shards))
                own = f"{principal.tenant}:{command_id}" if principal.tenant and command_id else command_id
                return await system.ask(kind, name, command, command_id=own, expected_version=expected_version)
        except RefusedError as error:
            result = error.code.value
            raise
        finally:
            tag = command.get("type") if isinstance(command, dict) else ""
            self.gate.audit.add(principal.id, f"{tag or 'command'} {kind} {name}", result, tenant=principal.tenant)

    async def entity(self, principal: Principal, kind: str, entity_id: str) -> Decision:
        """The version and the state of an entity."""
        principal.need("query")
        name = self._entity(principal, kind, entity_id)
        with _told():
            bus = self._connected()
            answer = await System(bus, Log(bus, self._shards)).get(kind, name)
        if not answer.version:
            raise RefusedError(Code.NOT_FOUND, f"nothing is known of {kind} {entity_id[:200]!r}")
        return answer

    def _entity(self, principal: Principal, kind: str, entity_id: str) -> str:
        if kind not in self._kinds:
            raise RefusedError(Code.NOT_FOUND, f"there is no kind {kind[:60]!r} of entities")
        if not 1 <= len(entity_id) <= 1000:
            raise RefusedError(Code.INVALID, "an id of an entity has from 1 to 1000 characters")
        if principal.grant.sources:
            raise RefusedError(Code.FORBIDDEN, f"entities are made of all sources, and {principal.id} may not see all")
        if kind in ADMIN_KINDS:
            principal.need("admin")
        if not principal.tenant:
            return entity_id
        if kind not in TENANT_KINDS:
            raise RefusedError(Code.FORBIDDEN, f"entities of kind {kind} are not any tenant's")
        return scoped(principal.tenant, entity_id)

    # -- status -------------------------------------------------------------------------------------------------

    async def status(self, principal: Principal) -> dict[str, Any]:
        """Whether the process can do its work, and who is asking; for an administrator of all, what it reports."""
        reason = self._not_ready()
        told: dict[str, Any] = {
            "ready": reason is None,
            "waiting_for": reason or "",
            "principal": {"id": principal.id, **msgspec.to_builtins(principal.grant)},
        }
        if "admin" in principal.grant.scopes and not principal.limited and self._report is not None:
            told["sections"] = await self._report()
        return told
