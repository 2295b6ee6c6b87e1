"""The local span store: a SQLite file that all processes of one machine write to, and the tree of a trace read from it.

Invariant: the store holds the newest spans up to its bound (exceeded by a tenth before it is trimmed), and losing it
loses nothing else: any trouble with it is a warning to a writer, and a QueryError to a reader.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id
from rich.text import Text
from rich.tree import Tree

from tidegate.errors import QueryError

__all__ = ["SpanEvent", "SpanRecord", "SpanStore", "load_trace", "recent", "render_tree"]

_VERSION = 1
_SCHEMA = (
    "DROP TABLE IF EXISTS spans",
    "DROP TABLE IF EXISTS links",
    """CREATE TABLE spans (
        seq INTEGER PRIMARY KEY, trace_id TEXT, span_id TEXT, parent_id TEXT, name TEXT, service TEXT, kind TEXT,
        start_ns INTEGER, end_ns INTEGER, status TEXT, message TEXT, attributes TEXT, events TEXT, links TEXT)""",
    "CREATE INDEX spans_by_parent ON spans (trace_id, parent_id)",
    """CREATE TABLE links (
        trace_id TEXT, span_id TEXT, seq INTEGER, PRIMARY KEY (trace_id, span_id, seq)) WITHOUT ROWID""",
)
"""`links` is the reverse index: (trace_id, span_id) is the span linked to, seq the span that links."""
_BUSY_SECONDS = 2.0
_COLUMNS = (
    "trace_id, span_id, parent_id, name, service, kind, start_ns, end_ns, status, message, attributes, events, links"
)
_MAX_SPANS = 2_000
_MIN_PREFIX = 6
_DETAILS = 8
_HEX = frozenset("0123456789abcdef")

_log = logging.getLogger(__name__)


class SpanEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any] = {}


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A span that has ended; times are nanoseconds since 1970, ids hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    name: str
    service: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    """`unset`, `ok` or `error`; then `message` says why."""
    message: str = ""
    attributes: dict[str, Any] = {}
    events: tuple[SpanEvent, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span ids of the steps whose work this span continues, besides its parent."""


class SpanStore(SpanExporter):
    """Writes batches of spans to the file at `path`, for which several processes may hold a store at once."""

    def __init__(self, path: Path, *, keep: int = 200_000) -> None:
        self._path = path
        self._keep = keep
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            try:
                self._db = self._db or self._open()
                self._insert(self._db, spans)
            except (sqlite3.Error, OSError) as error:
                _log.warning("%d spans lost, span store %s: %s", len(spans), self._path, error)
                self._close()
                return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _write_ahead(db)
            # In WAL mode this syncs at checkpoints only; a power cut loses the last spans, never the file.
            db.execute("PRAGMA synchronous = NORMAL")
            with _transaction(db):
                if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    for statement in _SCHEMA:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _insert(self, db: sqlite3.Connection, spans: Sequence[ReadableSpan]) -> None:
        rows = [_row(span) for span in spans]
        with _transaction(db):
            first, last = db.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM spans").fetchone()
            # Sequences have no gaps: rows leave from the front only.
            db.executemany(
                "INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((seq, *row) for seq, row in enumerate(rows, start=last + 1)),
            )
            db.executemany(
                "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
                (
                    (format_trace_id(link.context.trace_id), format_span_id(link.context.span_id), seq)
                    for seq, span in enumerate(spans, start=last + 1)
                    for link in span.links
                ),
            )
            last += len(rows)
            if last - first + 1 > self._keep + self._keep // 10:
                db.execute("DELETE FROM spans WHERE seq <= ?", (last - self._keep,))
                db.execute("DELETE FROM links WHERE seq <= ?", (last - self._keep,))


def _write_ahead(db: sqlite3.Connection) -> None:
    """Of several that switch a new file to WAL, SQLite refuses some at once: its timeout does not cover this."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Takes the write lock at once: a read lock that becomes a write lock could fail without waiting its turn."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _row(span: ReadableSpan) -> tuple[str | int | None, ...]:
    here = span.get_span_context()
    assert here is not None  # A span that was recorded has one.
    return (
        format_trace_id(here.trace_id),
        format_span_id(here.span_id),
        format_span_id(span.parent.span_id) if span.parent else None,
        _text(span.name),
        _text(str(span.resource.attributes.get("service.name", ""))),
        span.kind.name.lower(),
        span.start_time or 0,
        span.end_time or 0,
        span.status.status_code.name.lower(),
        _text(span.status.description or ""),
        _json(dict(span.attributes or {})),
        _json([{"name": e.name, "time_ns": e.timestamp, "attributes": dict(e.attributes or {})} for e in span.events]),
        _json([(format_trace_id(to.context.trace_id), format_span_id(to.context.span_id)) for to in span.links]),
    )


def _text(text: str) -> str:
    """SQLite refuses lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    return json.dumps(value, default=repr) if value else ""


def load_trace(path: Path, trace_id: str) -> list[SpanRecord]:
    """The spans of a trace, and below them all that links to them from other traces, 2,000 at most, by start time.

    A frame made of several traces' frames has one parent and links to the others, so its steps belong to each of
    those traces too. `trace_id` is 32 hexadecimal digits or a unique prefix of at least 6. Raises QueryError.
    """
    with _reading(path) as db:
        full = _resolve(db, trace_id)
        rows = db.execute(
            f"""
            WITH RECURSIVE found(seq) AS (
                SELECT seq FROM spans WHERE trace_id = :trace
                UNION SELECT seq FROM links WHERE trace_id = :trace
                UNION
                SELECT child.seq FROM found JOIN spans AS above ON above.seq = found.seq
                JOIN spans AS child ON child.trace_id = above.trace_id AND child.parent_id = above.span_id
                UNION
                SELECT links.seq FROM found JOIN spans AS above ON above.seq = found.seq
                JOIN links ON links.trace_id = above.trace_id AND links.span_id = above.span_id
                LIMIT {_MAX_SPANS}
            )
            SELECT {_COLUMNS} FROM spans WHERE seq IN (SELECT seq FROM found) ORDER BY start_ns, seq
            """,  # noqa: S608 - constants only
            {"trace": full},
        ).fetchall()
    return [_record(row) for row in rows]


def recent(path: Path, limit: int) -> list[SpanRecord]:
    """The newest `limit` spans that have no parent in the store, newest first. Raises QueryError."""
    with _reading(path) as db:
        rows = db.execute(
            f"""
            SELECT {_COLUMNS} FROM spans AS span WHERE NOT EXISTS (
                SELECT 1 FROM spans AS above WHERE above.trace_id = span.trace_id AND above.span_id = span.parent_id)
            ORDER BY seq DESC LIMIT ?
            """,  # noqa: S608 - constants only
            (limit,),
        ).fetchall()
    return [_record(row) for row in rows]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    advice = "start the processes with `tidegate up`, let them work, and look again"
    if not path.is_file():
        raise QueryError(f"no spans are stored at {path}; {advice}")
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                raise QueryError(f"{path} was not written by this version of Tidegate; {advice}")
            yield db
    except sqlite3.Error as error:
        raise QueryError(f"the span store {path} cannot be read: {error}") from error


def _resolve(db: sqlite3.Connection, trace_id: str) -> str:
    wanted = trace_id.strip().lower()
    if not (_MIN_PREFIX <= len(wanted) <= 32 and _HEX.issuperset(wanted)):
        raise QueryError(f"{trace_id!r} is not a trace id: 32 hexadecimal digits, or the first {_MIN_PREFIX} or more")
    found = [
        str(full)
        for (full,) in db.execute(
            """
            SELECT trace_id FROM spans WHERE trace_id BETWEEN :low AND :high
            UNION SELECT trace_id FROM links WHERE trace_id BETWEEN :low AND :high LIMIT 4
            """,
            {"low": wanted, "high": wanted.ljust(32, "f")},
        )
    ]
    match found:
        case [full]:
            return full
        case []:
            raise QueryError(f"no trace {wanted} in the store: not sampled, not yet written, or trimmed")
        case _:
            raise QueryError(f"{wanted} is the beginning of several traces: {', '.join(found[:3])}, ...")


def _record(row: tuple[Any, ...]) -> SpanRecord:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    for name, empty in (("attributes", {}), ("events", ()), ("links", ())):
        fields[name] = json.loads(fields[name]) if fields[name] else empty
    return msgspec.convert(fields, SpanRecord)


def render_tree(spans: Sequence[SpanRecord], trace_id: str) -> Tree:
    """The tree of what `load_trace` returned for `trace_id`: each span once, steps of other traces marked `linked`."""
    return _Rendering(spans, trace_id.strip().lower()).tree()


class _Rendering:
    def __init__(self, spans: Sequence[SpanRecord], trace_id: str) -> None:
        own = next((span.trace_id for span in spans if span.trace_id.startswith(trace_id)), trace_id)
        self.trace_id = own
        self.spans = spans
        self.start_ns = min((span.start_ns for span in spans if span.trace_id == own), default=0)
        self.known = {(span.trace_id, span.span_id) for span in spans}
        self.children: dict[tuple[str, str], list[SpanRecord]] = {}
        self.linking: dict[tuple[str, str], list[SpanRecord]] = {}
        self.shown: set[tuple[str, str]] = set()
        for span in spans:
            if span.parent_id is not None:
                self.children.setdefault((span.trace_id, span.parent_id), []).append(span)
            for target in span.links:
                if target[0] != span.trace_id:
                    self.linking.setdefault(target, []).append(span)

    def tree(self) -> Tree:
        tree = Tree(Text(f"trace {self.trace_id}", style="bold"))
        own = [span for span in self.spans if span.trace_id == self.trace_id]
        for span in own:
            if (span.trace_id, span.parent_id) not in self.known:
                self.add(tree, span, linked=False)
        for target, linking in self.linking.items():
            if target[0] == self.trace_id and target not in self.known:
                for span in linking:
                    self.add(tree, span, linked=True)
        for span in own:
            # Parents in a circle: whatever wrote them, show them.
            if (span.trace_id, span.span_id) not in self.shown:
                self.add(tree, span, linked=False)
        if len(self.spans) >= _MAX_SPANS:
            tree.add(Text(f"only {_MAX_SPANS:,} spans are shown", style="yellow"))
        return tree

    def add(self, under: Tree, span: SpanRecord, *, linked: bool) -> None:
        """Add the span and all below it; with a stack, as a chain may be longer than Python's recursion limit."""
        todo = [(under, span, linked)]
        while todo:
            under, span, linked = todo.pop()
            key = (span.trace_id, span.span_id)
            if key in self.shown:
                under.add(Text(f"{_plain(span.name)} {span.span_id} (see above)", style="dim"))
                continue
            self.shown.add(key)
            node = under.add(self.line(span, linked=linked))
            for event in span.events:
                node.add(Text.assemble((f"! {_plain(event.name)}", "yellow"), _details(event.attributes)))
            below = [(node, child, False) for child in self.children.get(key, ())]
            below += [(node, other, True) for other in self.linking.get(key, ())]
            todo += reversed(below)

    def line(self, span: SpanRecord, *, linked: bool) -> Text:
        line = Text()
        if linked:
            line.append(f"linked {span.trace_id[:8]} ", "magenta")
        line.append(_plain(span.name), "bold")
        line.append(f" {_plain(span.service)}", "cyan")
        line.append(f" {(span.end_ns - span.start_ns) / 1e6:.2f} ms", "green")
        line.append(f" at {(span.start_ns - self.start_ns) / 1e6:+.2f} ms", "dim")
        if span.status == "error":
            line.append(f" error: {_plain(span.message, 200)}", "bold red")
        line.append_text(_details(span.attributes))
        if span.links:
            line.append(f" links={len(span.links)}", "dim")
        return line


def _details(attributes: dict[str, Any]) -> Text:
    """The first attributes; a stack trace is for another place."""
    shown = [(name, value) for name, value in attributes.items() if name != "exception.stacktrace"]
    return Text(
        "".join(f" {_plain(name.removeprefix('tidegate.'))}={_plain(value)}" for name, value in shown[:_DETAILS])
    )


def _plain(value: object, longest: int = 80) -> str:
    """Text that cannot steer the terminal: names and errors may quote what strangers sent."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
