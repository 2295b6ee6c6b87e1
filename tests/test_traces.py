"""The local span store: several writers, its bound, and the tree of a trace."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import Link, SpanContext, TraceFlags
from rich.console import Console

from tidegate.errors import QueryError
from tidegate.telemetry import setup, span
from tidegate.traces import SpanRecord, SpanStore, load_trace, recent, render_tree

WRITER = """
import sys
from pathlib import Path
from tidegate.telemetry import setup, span
path, process, parent, count = sys.argv[1:]
with setup(process, spans_path=Path(path)):
    for _ in range(int(count)):
        with span("work", parent=parent):
            pass
"""


def context(trace: int, number: int) -> SpanContext:
    return SpanContext(trace, number, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def made(
    trace: int, number: int, parent: int = 0, links: Sequence[tuple[int, int]] = (), name: str = ""
) -> ReadableSpan:
    return ReadableSpan(
        name=name or f"{trace}.{number}",
        context=context(trace, number),
        parent=context(trace, parent) if parent else None,
        resource=Resource({"service.name": "test"}),
        links=[Link(context(*target)) for target in links],
        start_time=1_000_000_000 + number,
        end_time=1_002_500_000 + number,
    )


def store(path: Path, *spans: ReadableSpan, keep: int = 1_000) -> None:
    writer = SpanStore(path, keep=keep)
    assert writer.export(spans) is SpanExportResult.SUCCESS
    writer.shutdown()


def names(spans: Sequence[SpanRecord]) -> list[str]:
    return sorted(record.name for record in spans)


def shown(spans: Sequence[SpanRecord], trace: str) -> list[str]:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render_tree(spans, trace))
    return capture.get().splitlines()


def trace_id(number: int) -> str:
    return f"{number:032x}"


# ---- writing


def test_spans_of_two_processes_make_one_trace_in_one_store(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with setup("event-streaming", spans_path=path), span("publish") as publish:
        subprocess.run([sys.executable, "-c", WRITER, path, "pipeline", publish.traceparent, "1"], check=True)
    work, published = sorted(load_trace(path, publish.traceparent.split("-")[1]), key=lambda record: record.service)[
        ::-1
    ]
    assert (published.service, work.service) == ("event-streaming", "pipeline")
    assert work.parent_id == published.span_id
    assert published.start_ns <= work.start_ns <= work.end_ns <= published.end_ns


def test_processes_that_write_at_once_to_a_new_store_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spans.db"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, f"p{number}", f"00-{trace_id(number)}-{1:016x}-01", "600"],
            stderr=subprocess.PIPE,
        )
        for number in range(1, 4)
    ]
    for writer in writers:
        _, complaints = writer.communicate()
        assert (writer.returncode, complaints) == (0, b"")
    assert [len(load_trace(path, trace_id(number))) for number in range(1, 4)] == [600] * 3


def test_many_stores_opening_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(10):
            path = tmp_path / f"{round_}.db"
            list(pool.map(lambda number, path=path: store(path, made(1, number)), range(1, 9)))
            assert len(load_trace(path, trace_id(1))) == 8


def test_the_store_keeps_the_newest_spans_and_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    for batch in range(30):
        numbers = range(batch * 10 + 1, batch * 10 + 11)
        store(path, *(made(number, number, links=[(number + 1, 1)]) for number in numbers), keep=100)
        assert len(recent(path, 1_000)) <= 110
    assert {record.name for record in recent(path, 100)} == {f"{number}.{number}" for number in range(201, 301)}
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM links").fetchone()[0] <= 110
    db.close()


def test_a_store_of_another_version_is_made_anew_by_a_writer_and_refused_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    store(path, made(1, 1))
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(QueryError, match="this version"):
        load_trace(path, trace_id(1))
    store(path, made(2, 2))
    assert names(recent(path, 9)) == ["2.2"]


def test_a_file_that_is_no_store_is_left_alone_and_costs_only_the_spans(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spans.db"
    path.write_bytes(b"certainly not a database\n" * 100)
    before = path.read_bytes()
    with setup("p", spans_path=path), span("step"):
        pass
    assert "1 spans lost" in caplog.text
    assert path.read_bytes() == before
    with pytest.raises(QueryError, match="cannot be read"):
        recent(path, 1)


# ---- reading


def test_a_missing_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="tidegate up"):
        load_trace(tmp_path / "none.db", trace_id(1))
    with pytest.raises(QueryError, match="tidegate up"):
        recent(tmp_path / "none.db", 1)
    assert not (tmp_path / "none.db").exists()


def test_a_trace_is_found_by_a_unique_prefix_and_otherwise_the_error_is_clear(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    first, second = 0xABCDEF01 << 96, 0xABCDEF02 << 96
    store(path, made(first, 1), made(second, 2))
    assert names(load_trace(path, "ABCDEF01")) == [f"{first}.1"]
    for wanted, problem in [
        ("abcdef", "several"),
        ("abcde", "not a trace id"),
        ("abcdef0x", "not a trace id"),
        ("abcdef%", "not a trace id"),
        ("123456", "no trace"),
        ("a" * 33, "not a trace id"),
    ]:
        with pytest.raises(QueryError, match=problem):
            load_trace(path, wanted)


def test_a_step_that_links_to_a_trace_appears_in_it_with_all_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with setup("p", spans_path=path):
        with span("publish a") as a:
            pass
        with span("publish b") as b:
            pass
        both = [a.traceparent, b.traceparent]
        with span("commit", parent=both[0], links=both), span("append") as append:
            pass
        with span("publish c") as c:
            pass
        with span("project", parent=c.traceparent, links=[append.traceparent]):
            pass
    for one in (a, b):
        trace = one.traceparent.split("-")[1]
        found = load_trace(path, trace)
        assert names(found) == sorted(["publish a" if one is a else "publish b", "commit", "append", "project"])
        lines = shown(found, trace[:8])
        depth = [(len(line) - len(line.lstrip("│├└─ "))) // 4 for line in lines]
        assert depth == [0, 1, 2, 3, 4]
        (commit,) = (line for line in lines if "commit" in line)
        assert ("linked" in commit) == (one is b)
        assert "linked" in next(line for line in lines if "project" in line)
    assert names(load_trace(path, c.traceparent.split("-")[1])) == ["project", "publish c"]


def test_a_link_to_a_span_that_is_not_stored_appears_at_the_root(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    store(path, made(1, 5, links=[(7, 70)], name="commit"), made(1, 6, parent=5, name="append"))
    lines = shown(load_trace(path, trace_id(7)), trace_id(7))
    assert len(lines) == 3
    assert "linked" in lines[1]
    assert "append" in lines[2]


def test_a_step_that_links_to_several_spans_of_a_trace_is_shown_in_full_once(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    store(
        path,
        made(1, 1, name="frame one"),
        made(1, 2, name="frame two"),
        made(2, 3, links=[(1, 1), (1, 2)], name="commit"),
        made(2, 4, parent=3, name="append"),
    )
    lines = shown(load_trace(path, trace_id(1)), trace_id(1))
    assert ["commit" in line for line in lines] == [False, False, True, False, False, True]
    assert "see above" in lines[5]


def test_circles_of_links_and_parents_end(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    store(
        path,
        made(1, 1, links=[(2, 2)]),
        made(2, 2, links=[(1, 1)]),
        made(3, 3, parent=4),
        made(3, 4, parent=3),
        made(4, 5, parent=5),
    )
    assert names(load_trace(path, trace_id(1))) == ["1.1", "2.2"]
    assert len(shown(load_trace(path, trace_id(1)), trace_id(1))) == 4
    assert len(shown(load_trace(path, trace_id(3)), trace_id(3))) == 4
    assert len(shown(load_trace(path, trace_id(4)), trace_id(4))) == 3


def test_a_very_long_trace_is_cut_and_a_deep_one_still_drawn(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    deep = (made(1, number, parent=number - 1) for number in range(1, 1_200))
    wide = (made(1, number) for number in range(1_200, 3_000))
    store(path, *deep, *wide, keep=5_000)
    found = load_trace(path, trace_id(1))
    assert len(found) == 2_000
    assert "only 2,000 spans" in shown(found, trace_id(1))[-1]


def test_the_tree_shows_name_service_duration_start_status_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with (
        setup("storage-manager", spans_path=path),
        span("outer") as outer,
        pytest.raises(ValueError, match="broken"),
        span("apply", attributes={"tidegate.tier": "hot", "share": 0.25}),
    ):
        raise ValueError("broken \x1b[31mpipe\nnext")
    trace = outer.traceparent.split("-")[1]
    lines = shown(load_trace(path, trace), trace)
    assert trace in lines[0]
    line = lines[2]
    assert "apply storage-manager" in line
    assert " ms at +" in line
    assert "error: ValueError: broken" in line
    assert "tier=hot share=0.25" in line
    assert "\x1b" not in "".join(lines)
    assert not any(line.startswith("next") for line in lines)


def test_recent_lists_the_newest_spans_without_a_parent_here(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    store(path, made(1, 1), made(1, 2, parent=1), made(2, 3, parent=99), made(3, 4))
    assert [record.name for record in recent(path, 2)] == ["3.4", "2.3"]
    assert [record.name for record in recent(path, 9)] == ["3.4", "2.3", "1.1"]
