"""The command `tidegate query`: events from a read model, straight from its server.

Invariant: whatever an event holds, it is printed as text only, never as something that the terminal acts upon.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.errors import BusError, BusUnavailableError
from tidegate.query import Queries, TierName, parse_time

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["app"]

PIPE_WIDTH = 200
"""Columns of a table when the output is no terminal."""

MAX_COLUMNS = 10

Given = Annotated[Settings, Parameter(parse=False)]

app = App(name="query", help="Look events up in a read model: hot, warm, cold or lake.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Look:
    """What to look for, and how to show it."""

    id: str | None = None
    """The event with this id."""
    correlation: str | None = None
    """Events with this correlation id."""
    observable: str | None = None
    """Events in which this was seen: an address, a host, a user, a hash, ..."""
    since: str | None = None
    """Not before: RFC 3339, milliseconds since 1970, or how long ago (15m, 2h, 7d)."""
    until: str | None = None
    """Before; as `--since`."""
    limit: int = 20
    """At most so many events."""
    after: str | None = None
    """Wait until this can be seen: a receipt (INGEST/0/12), or a place in the log (LOG/345)."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Print one JSON object a line."""

    @property
    def selectors(self) -> list[str]:
        """The options given that say what to look for."""
        return [f"--{name}" for name in ("id", "correlation", "observable") if getattr(self, name) is not None]

    @property
    def since_ms(self) -> int | None:
        return parse_time(self.since) if self.since else None

    @property
    def until_ms(self) -> int | None:
        return parse_time(self.until) if self.until else None


NOTHING = Look()


@app.command
async def hot(*, counts: Annotated[bool, Parameter(negative="")] = False, look: Look = NOTHING, settings: Given) -> int:
    """Recent events in Redis.

    Parameters
    ----------
    counts
        Events by minute, class and severity, of the last hour or since `--since`.
    """
    given = [*look.selectors, *(["--counts"] if counts else [])]
    if not _one(given, ("--id", "--correlation", "--observable", "--counts")):
        return 2
    if not counts:
        return await _events("hot", look, settings)
    from tidegate.service.ranges import counted

    since_ms, until_ms = counted(look.since_ms, look.until_ms)
    async with _queries("hot", look, settings) as queries:
        found = await queries.counts(since_ms, until_ms, after=look.after)
    rows = [
        {
            "minute": _time(one.minute_ms)[:16],
            "class": _class_name(one.class_uid),
            "severity": _severity(one.severity_id),
            "events": one.count,
        }
        for one in found
    ]
    return _show(found, rows, look.json, "no events counted in that time")


@app.command
async def warm(*, look: Look = NOTHING, settings: Given) -> int:
    """Events of the last days in MongoDB."""
    if not _one(look.selectors, ("--id", "--correlation", "--observable")):
        return 2
    return await _events("warm", look, settings)


@app.command
async def cold(
    *, objects: Annotated[bool, Parameter(negative="")] = False, look: Look = NOTHING, settings: Given
) -> int:
    """Events in the archive on S3. Without anything to look for: those of the time from `--since` to `--until`.

    Parameters
    ----------
    objects
        List the archive's objects instead; with `--since` and `--until` those that may hold events of that time.
    """
    given = [*look.selectors, *(["--objects"] if objects else [])]
    if not given and (look.since or look.until):
        async with _queries("cold", look, settings) as queries:
            answer = await queries.between(look.since_ms, look.until_ms, look.limit, after=look.after)
        return _show_events(answer.events, look, "no events of that time in cold", complete=answer.complete)
    if not _one(given, ("--id", "--correlation", "--observable", "--objects", "--since")):
        return 2
    if not objects:
        return await _events("cold", look, settings)
    async with _queries("cold", look, settings) as queries:
        found = await queries.archive(look.since_ms, look.until_ms, look.limit, after=look.after)
    rows = [
        {
            "shard": one.shard,
            "sequences": f"{one.first} - {one.last}",
            "events": one.events,
            "bytes": one.bytes,
            "first event": _time(one.first_ms),
            "last event": _time(one.last_ms),
            "logged": _time(one.logged_ms),
        }
        for one in found
    ]
    return _show(found, rows, look.json, "no objects in the archive")


@app.command
async def lake(
    statement: str | None = None,
    /,
    *,
    max_rows: int = 1000,
    timeout: float = 10.0,
    look: Look = NOTHING,
    settings: Given,
) -> int:
    """Everything, in the Iceberg table on S3, by SQL or as in the other tiers.

    Parameters
    ----------
    statement
        One SELECT over the table `events`: "SELECT class_uid, count(*) FROM events GROUP BY 1".
    max_rows
        At most so many rows.
    timeout
        End the statement after so many seconds.
    """
    given = [*look.selectors, *(["SQL"] if statement is not None else [])]
    if not _one(given, ("SQL", "--id", "--correlation", "--observable")):
        return 2
    if statement is None:
        return await _events("lake", look, settings)
    async with _queries("lake", look, settings) as queries:
        found = await queries.sql(statement, max_rows, timeout, after=look.after)
    if look.json:
        for row in found.rows:
            _line(msgspec.json.encode(dict(zip(found.columns, row, strict=True)), enc_hook=str))
    elif len(found.columns) <= MAX_COLUMNS:
        _print_table(found.columns, found.rows)
    else:
        # Too wide to be read: one line for each value.
        for row in found.rows:
            _print_table(["column", "value"], list(zip(found.columns, row, strict=True)))
    if found.truncated:
        _note(f"there are more rows; these are the first {len(found.rows)} (--max-rows)")
    return 0


# -- asking -----------------------------------------------------------------------------------------------------


def _one(given: Sequence[str], possible: Sequence[str]) -> bool:
    """Whether exactly one thing to look for was given; complains otherwise."""
    if len(given) == 1:
        return True
    problem = f"not {' and '.join(given)} together" if given else "nothing to look for was given"
    print(f"error: {problem}; give one of {', '.join(possible)}", file=sys.stderr)
    return False


async def _events(tier: TierName, look: Look, settings: Settings) -> int:
    if look.observable is None and (look.since or look.until):
        print("error: --since and --until go with --observable, not with an id", file=sys.stderr)
        return 2
    async with _queries(tier, look, settings) as queries:
        if look.id is not None:
            answer = await queries.get(look.id, tier, after=look.after)
        elif look.correlation is not None:
            answer = await queries.by_correlation(look.correlation, look.limit, tier, after=look.after)
        else:
            assert look.observable is not None
            answer = await queries.by_observable(
                look.observable, look.since_ms, look.until_ms, look.limit, tier, after=look.after
            )
    what = look.id or look.correlation or look.observable
    return _show_events(answer.events, look, f"nothing found in {tier} for {what}", complete=answer.complete)


@contextlib.asynccontextmanager
async def _queries(tier: TierName, look: Look, settings: Settings) -> AsyncIterator[Queries]:
    """Queries over this one tier, in the generation that serves; without NATS only the first one can be asked."""
    from tidegate.app import opened_log, read_models, serving_models

    async with contextlib.AsyncExitStack() as stack:
        log = None
        models = read_models(settings, [tier])
        stack.push_async_callback(models[tier].aclose)
        try:
            _, log = await stack.enter_async_context(opened_log(settings))
            models = await serving_models(settings, log, [tier])
            stack.push_async_callback(models[tier].aclose)
        except (BusError, BusUnavailableError) as error:
            if look.after is not None:
                raise
            print(f"note: asking generation 1, as NATS does not say which one serves: {error}", file=sys.stderr)
        yield Queries(models, log)


# -- showing ----------------------------------------------------------------------------------------------------


def _show_events(events: Sequence[bytes], look: Look, nothing: str, *, complete: bool) -> int:
    if look.json:
        for one in events:
            _line(one)
    elif look.id is not None and events:
        _line(msgspec.json.format(events[0]))
    elif events:
        columns = ["time", "class", "severity", "source", "src -> dst", "user", "message"]
        _print_table(columns, [_row(msgspec.json.decode(one)) for one in events])
    if not complete and events:
        _note("there may be more events: the search was ended by its limits (--limit, --since)")
    if not events:
        _note(nothing)
    return 0 if events else 1


def _show(found: Sequence[object], rows: Sequence[dict[str, object]], json: bool, nothing: str) -> int:
    if json:
        for one in found:
            _line(msgspec.json.encode(one))
    elif rows:
        _print_table(list(rows[0]), [list(row.values()) for row in rows])
    if not rows:
        _note(nothing)
    return 0 if rows else 1


def _line(line: bytes) -> None:
    # The bytes as they are: an event may hold what the terminal's encoding cannot express.
    sys.stdout.buffer.write(line + b"\n")


def _note(text: str) -> None:
    print(_plain(text), file=sys.stderr)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table: RichTable = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        numeric = all(isinstance(row[number], int | float | None) for row in rows)
        table.add_column(Text(_plain(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if one is None else _plain(str(one))) for one in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(table)


def _plain(text: str) -> str:
    """`text` without what would move the cursor, change colours, or turn the direction of writing."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _row(event: dict[str, Any]) -> list[object]:
    metadata = _table_at(event, "metadata")
    user = _table_at(event, "actor", "user").get("name") or _table_at(event, "user").get("name")
    places = [_place(_table_at(event, end)) for end in ("src_endpoint", "dst_endpoint")]
    message = event.get("message") or _table_at(event, "finding_info").get("title") or _subject(event)
    return [
        _time(event.get("time")),
        _class_name(event.get("class_uid")),
        _severity(event.get("severity_id")),
        metadata.get("log_source") or metadata.get("log_name"),
        _way(*places) or _table_at(event, "device").get("hostname"),
        user,
        None if message is None else str(message)[:200],
    ]


def _subject(event: dict[str, Any]) -> object:
    """What an event without a message is about."""
    return (
        _table_at(event, "query").get("hostname")
        or _table_at(event, "http_request", "url").get("path")
        or _table_at(event, "process").get("cmd_line")
        or _table_at(event, "file").get("path")
        or _table_at(event, "api").get("operation")
    )


def _table_at(event: dict[str, Any], *path: str) -> dict[str, Any]:
    value: Any = event
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _way(source: str, target: str) -> str:
    return f"{source} -> {target}".lstrip() if target else source


def _place(endpoint: dict[str, Any]) -> str:
    host, port = endpoint.get("ip") or endpoint.get("hostname") or "", endpoint.get("port")
    return f"[{host}]:{port}" if port and ":" in str(host) else f"{host}:{port}" if port else str(host)


def _time(time_ms: object) -> str:
    if not isinstance(time_ms, int):
        return ""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return str(time_ms)


def _class_name(class_uid: object) -> str:
    from tidegate.ocsf import CLASSES

    return next((name for name, one in CLASSES.items() if one.uid == class_uid), str(class_uid))


# https://schema.ocsf.io/1.8.0/base_event: severity_id
_SEVERITIES = {
    0: "unknown",
    1: "informational",
    2: "low",
    3: "medium",
    4: "high",
    5: "critical",
    6: "fatal",
    99: "other",
}


def _severity(severity_id: object) -> str:
    return _SEVERITIES.get(severity_id, str(severity_id)) if isinstance(severity_id, int) else ""
