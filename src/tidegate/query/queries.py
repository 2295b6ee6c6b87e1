"""Queries over the read models; each may wait until what its caller has published can be seen.

Invariant: a query changes nothing, and an answer says which read model gave it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

import msgspec

from tidegate import telemetry
from tidegate.errors import BusUnavailableError, PositionTimeoutError, QueryError, TierUnavailableError
from tidegate.head import decode_heads
from tidegate.log import Log
from tidegate.projection import ReadModel
from tidegate.query.waiting import Wanted, cells_at, reached, target, wanted

if TYPE_CHECKING:
    # Each brings its driver along; the command line uses one at a time.
    from tidegate.tiers.cold import ColdTier, Found
    from tidegate.tiers.hot import HotTier, MinuteCount
    from tidegate.tiers.lake import LakeTier
    from tidegate.tiers.lake_sql import Answer as Rows

__all__ = ["Answer", "ArchiveObject", "Queries", "TierName", "Visible"]

TierName = Literal["hot", "warm", "cold", "lake"]

ORDER = ("hot", "warm", "lake")
"""Where to look when no tier is named, the quickest first. Cold holds what lake holds, and is slower to search."""
MAX_EVENTS = 10_000
MAX_ROWS = 100_000
MAX_SQL_SECONDS = 300
SKEW_MS = 86_400_000
"""An event is not logged before it happens, and no clock is taken to be more than a day fast."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Events, and the tier that they are from."""

    tier: str
    events: list[bytes]
    """Each as JSON."""
    complete: bool = True
    """False when a search through the archive was ended by its limits."""


class ArchiveObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object of the cold archive."""

    shard: str
    first: int
    """It holds the shard's event frames with first <= sequence <= last."""
    last: int
    bytes: int
    events: int
    logged_ms: int
    """When the log stored its last frame."""
    first_ms: int
    """Earliest and latest event time in it."""
    last_ms: int


class Searchable(ReadModel, Protocol):
    """What all four tiers can be asked."""

    async def get(self, event_id: str) -> bytes | Found | None: ...

    async def by_correlation(self, correlation_id: str, limit: int = 100) -> list[bytes] | Found: ...

    async def by_observable(
        self, value: str, limit: int = 100, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[bytes] | Found: ...


@runtime_checkable
class _ManyAtOnce(Protocol):
    """A tier that looks up many ids with one call."""

    async def get_many(self, ids: Sequence[str]) -> dict[str, bytes]: ...


Visible = Callable[[Sequence[bytes]], list[bytes]]
"""Leaves out the events that must not be shown."""
Look = Callable[[Searchable], Awaitable[Answer]]


class _Served:
    """What a query turns out to have found; for telemetry."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.rows = 0


class Queries:
    """Queries over some of the read models hot, warm, cold and lake."""

    def __init__(self, models: Mapping[str, ReadModel], log: Log | None, *, wait_seconds: float = 10.0) -> None:
        """`models` by name, open or not; without `log` nothing can be waited for."""
        self._models = cast("Mapping[str, Searchable]", models)
        self._log = log
        self._wait_seconds = wait_seconds
        self._opened: dict[str, Searchable] = {}

    def attach(self, log: Log) -> None:
        """From now on positions in `log` can be waited for."""
        self._log = log

    # -- events -------------------------------------------------------------------------------------------------

    async def get(
        self, event_id: str, tier: TierName | None = None, *, after: str | None = None, visible: Visible | None = None
    ) -> Answer:
        """The event with this id, or none; without `tier` from the first of hot, warm and lake that has it."""

        async def look(model: Searchable) -> Answer:
            return _shown(_answer(model.name, await model.get(event_id)), visible)

        return await self._first("get", tier, after, look)

    async def get_many(
        self,
        ids: Sequence[str],
        tier: TierName | None = None,
        *,
        after: str | None = None,
        visible: Visible | None = None,
    ) -> dict[str, Answer]:
        """The events with these ids, as far as there are any: as `get`, but with one call to hot, and one to warm."""
        found: dict[str, Answer] = {}

        async def look(model: Searchable) -> Answer:
            missing = [one for one in ids if one not in found]
            if isinstance(model, _ManyAtOnce):
                there = await model.get_many(missing)
                answers = {one: Answer(tier=model.name, events=[line]) for one, line in there.items()}
            else:
                answers = {one: _answer(model.name, await model.get(one)) for one in missing}
            for one, answer in answers.items():
                if (shown := _shown(answer, visible)).events:
                    found[one] = shown
            # All of them, or the next tier is asked for the others.
            complete = len(found) == len(set(ids))
            return Answer(tier=model.name, events=[one.events[0] for one in found.values()] if complete else [])

        try:
            await self._first("get", tier, after, look)
        except TierUnavailableError:
            if not found:
                raise
        return found

    async def by_correlation(
        self,
        correlation_id: str,
        limit: int = 100,
        tier: TierName | None = None,
        *,
        after: str | None = None,
        visible: Visible | None = None,
    ) -> Answer:
        """The latest events with this correlation id; without `tier` from the first that has any.

        Hot has the most recent ones only; name another tier for those before. Only what is `visible` is found.
        """
        _check_limit(limit)

        async def look(model: Searchable) -> Answer:
            return await _enough(model.name, lambda some: model.by_correlation(correlation_id, some), limit, visible)

        return await self._first("correlation", tier, after, look)

    async def by_observable(
        self,
        value: str,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 100,
        tier: TierName | None = None,
        *,
        after: str | None = None,
        visible: Visible | None = None,
    ) -> Answer:
        """The latest events in which `value` was seen, with since <= event time < until.

        Tiers as for `by_correlation`.
        """
        _check_limit(limit)
        _check_range(since_ms, until_ms)

        async def look(model: Searchable) -> Answer:
            def fetch(some: int) -> Awaitable[list[bytes] | Found]:
                return model.by_observable(value, some, since_ms=since_ms, until_ms=until_ms)

            return await _enough(model.name, fetch, limit, visible)

        return await self._first("observable", tier, after, look)

    async def _first(self, kind: str, tier: TierName | None, after: str | None, look: Look) -> Answer:
        """The first answer that is not empty. One that could not be had (a tier is away, or behind) is an error only
        when no other tier has found anything."""
        names: Sequence[str] = (tier,) if tier else [name for name in ORDER if name in self._models]
        failure: TierUnavailableError | PositionTimeoutError | None = None
        answer = Answer(tier=names[-1], events=[])
        with self._serving(names[0], kind) as served:
            wanted = await self._wanted(after)
            for served.tier in names:
                try:
                    model = await self._reached(served.tier, wanted)
                    answer = await look(model)
                except (TierUnavailableError, PositionTimeoutError) as error:
                    failure = failure or error
                    continue
                if answer.events:
                    break
            else:
                if failure is not None:
                    raise failure
            served.rows = len(answer.events)
        return answer

    # -- what only one tier has ---------------------------------------------------------------------------------

    async def counts(self, since_ms: int, until_ms: int, *, after: str | None = None) -> list[MinuteCount]:
        """Events by minute, class and severity, as hot counts them, for since <= minute < until."""
        _check_range(since_ms, until_ms)
        with self._serving("hot", "counts") as served:
            hot = cast("HotTier", await self._reached("hot", await self._wanted(after)))
            found = await hot.counts(since_ms, until_ms)
            served.rows = len(found)
        return found

    async def sql(
        self, statement: str, max_rows: int = 1000, timeout_seconds: float = 10.0, *, after: str | None = None
    ) -> Rows:
        """The rows of one SELECT over the lake's table `events`. Raises QueryError for anything else."""
        if not 1 <= max_rows <= MAX_ROWS:
            raise QueryError(f"max_rows must be from 1 to {MAX_ROWS}, not {max_rows}")
        if not 0 < timeout_seconds <= MAX_SQL_SECONDS:
            raise QueryError(f"timeout_seconds must be above 0 and at most {MAX_SQL_SECONDS}, not {timeout_seconds:g}")
        with self._serving("lake", "sql") as served:
            lake = cast("LakeTier", await self._reached("lake", await self._wanted(after)))
            found = await lake.query(statement, max_rows=max_rows, timeout_seconds=timeout_seconds)
            served.rows = len(found.rows)
        return found

    async def archive(
        self,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 1000,
        *,
        after: str | None = None,
    ) -> list[ArchiveObject]:
        """Objects of the cold archive that may hold events with since <= event time < until, latest logged first."""
        _check_limit(limit)
        _check_range(since_ms, until_ms)
        with self._serving("cold", "objects") as served:
            cold = cast("ColdTier", await self._reached("cold", await self._wanted(after)))
            found = await _archived(cold, since_ms, until_ms, limit)
            served.rows = len(found)
        return found

    async def between(
        self, since_ms: int | None, until_ms: int | None, limit: int = 100, *, after: str | None = None
    ) -> Answer:
        """Events of the cold archive with since <= event time < until: those logged last."""
        _check_limit(limit)
        _check_range(since_ms, until_ms)
        events: list[tuple[int, bytes]] = []
        with self._serving("cold", "range") as served:
            cold = cast("ColdTier", await self._reached("cold", await self._wanted(after)))
            for one in await _archived(cold, since_ms, until_ms, MAX_EVENTS):
                async for recorded in cold.get_range(one.shard, one.first, one.last):
                    lines = recorded.lines()
                    events += [
                        (head.time, line)
                        for head, line in zip(decode_heads(lines), lines, strict=True)
                        if _within(head.time, head.time, since_ms, until_ms)
                    ]
                if len(events) > limit:
                    break
            events.sort(key=lambda one: one[0], reverse=True)
            served.rows = min(len(events), limit)
        return Answer(tier="cold", events=[line for _, line in events[:limit]], complete=len(events) <= limit)

    # -- positions ----------------------------------------------------------------------------------------------

    async def positions(self) -> dict[str, object]:
        """The log's extent, and where each cell of each read model stands; `unavailable` names the tiers that do not
        say, with the reason."""
        log = self._needed_log()
        state = await log.state()
        newest = await log.last_event_sequences()
        tiers: dict[str, object] = {}
        unavailable: dict[str, str] = {}
        for name in self._models:
            try:
                cells = await cells_at(await self._open(name), log.shards)
            except TierUnavailableError as error:
                unavailable[name] = error.problem
                continue
            tiers[name] = {
                cell: {"position": position, "newest": target(cell, newest)} for cell, position in cells.items()
            }
        return {"log": state, "tiers": tiers, "unavailable": unavailable}

    async def _wanted(self, after: str | None) -> Wanted | None:
        return None if after is None else await wanted(self._needed_log(), after, self._wait_seconds)

    async def _reached(self, name: str, wanted: Wanted | None) -> Searchable:
        """The tier, ready to be asked, once it has taken in what is wanted."""
        if wanted is None:
            return await self._open(name)
        return await reached(partial(self._open, name), self._needed_log().shards, wanted)

    async def _open(self, name: str) -> Searchable:
        model = self._models.get(name)
        if model is None:
            raise QueryError(f"there is no tier {name!r} here; there is {', '.join(self._models)}")
        if self._opened.get(name) is not model:  # another generation may serve now
            await model.open()
            self._opened[name] = model
        return model

    def _needed_log(self) -> Log:
        if self._log is None:
            raise BusUnavailableError("there is no connection to NATS, so positions cannot be compared; try again")
        return self._log

    @contextmanager
    def _serving(self, tier: str, kind: str) -> Iterator[_Served]:
        started = time.monotonic()
        served = _Served(tier)
        with telemetry.span(f"query {kind}", attributes={"tidegate.query": kind}) as span:
            yield served
            found: dict[str, str | int | float | bool] = {
                "tidegate.tier": served.tier,
                "tidegate.rows": served.rows,
            }
            span.set(**found)
            telemetry.emit(
                telemetry.QueryServed(tier=served.tier, kind=kind, rows=served.rows, seconds=time.monotonic() - started)
            )


def _answer(tier: str, found: bytes | list[bytes] | Found | None) -> Answer:
    match found:
        case None:
            return Answer(tier=tier, events=[])
        case bytes():
            return Answer(tier=tier, events=[found])
        case list():
            return Answer(tier=tier, events=found)
        case _:
            return Answer(tier=tier, events=found.events, complete=found.complete)


def _shown(answer: Answer, visible: Visible | None) -> Answer:
    return answer if visible is None else msgspec.structs.replace(answer, events=visible(answer.events))


async def _enough(
    tier: str, fetch: Callable[[int], Awaitable[list[bytes] | Found]], limit: int, visible: Visible | None
) -> Answer:
    """`limit` events that are visible, if there are so many among the latest MAX_EVENTS."""
    some = limit
    while True:
        found = _answer(tier, await fetch(some))
        answer = _shown(found, visible)
        if visible is None or len(answer.events) >= limit or len(found.events) < some:
            return msgspec.structs.replace(answer, events=answer.events[:limit])
        if some == MAX_EVENTS:
            return msgspec.structs.replace(answer, complete=False)
        some = min(some * 4, MAX_EVENTS)


async def _archived(cold: ColdTier, since_ms: int | None, until_ms: int | None, limit: int) -> list[ArchiveObject]:
    found = []
    for shard in await cold.shards():
        taken = 0
        async for one in cold.objects(shard):
            if taken == limit or (since_ms is not None and one.logged_ms < since_ms - SKEW_MS):
                break
            if not _within(one.first_ms, one.last_ms, since_ms, until_ms):
                continue
            taken += 1
            found.append(
                ArchiveObject(
                    shard=shard,
                    first=one.after + 1,
                    last=one.last,
                    bytes=one.size,
                    events=one.count,
                    logged_ms=one.logged_ms,
                    first_ms=one.first_ms,
                    last_ms=one.last_ms,
                )
            )
    return sorted(found, key=lambda one: one.logged_ms, reverse=True)[:limit]


def _within(first_ms: int, last_ms: int, since_ms: int | None, until_ms: int | None) -> bool:
    return (since_ms is None or last_ms >= since_ms) and (until_ms is None or first_ms < until_ms)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_EVENTS:
        raise QueryError(f"limit must be from 1 to {MAX_EVENTS}, not {limit}")


def _check_range(since_ms: int | None, until_ms: int | None) -> None:
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise QueryError("since must be before until")
