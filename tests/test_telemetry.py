"""Operational events, log lines, metrics, spans and their way to a collector."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tidegate import telemetry, traces
from tidegate.errors import ConfigError
from tidegate.telemetry import Event, IntakeCommitted, TierUnavailable, emit, inject, setup, span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = f"00-{'1' * 32}-{'2' * 16}-01"
COMMIT = IntakeCommitted(cell="intake.test", frames=2, records=7, events=4, dead=2, filtered=1, bytes=900, seconds=0.02)
OUTAGE = TierUnavailable(tier="hot", error="connection refused", retry_in_seconds=0.5)


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def metric(name: str, **labels: str) -> float:
    body, _ = telemetry.render_metrics()
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


def spans_of(path: Path, traceparent: str) -> dict[str, traces.SpanRecord]:
    return {record.name: record for record in traces.load_trace(path, traceparent.split("-")[1])}


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# ---- one event, three effects


def test_emit_moves_the_metrics_writes_the_line_and_marks_the_span(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"tidegate_intake_records_total": 7, "tidegate_intake_dead_letters_total": 2}
    before = {name: metric(name, cell="intake.test") for name in names}
    path = tmp_path / "spans.db"
    with setup("intake", log_level="debug", log_format="json", spans_path=path), span("intake.commit") as step:
        emit(COMMIT)
        emit(OUTAGE)
    for name, moved in names.items():
        assert metric(name, cell="intake.test") - before[name] == moved
    assert metric("tidegate_intake_commit_seconds_count", cell="intake.test") >= 1
    assert metric("tidegate_tier_up", tier="hot") == 0

    committed, outage = lines(capsys)
    assert committed["type"] == "intake.committed"
    assert (committed["event"], committed["level"], committed["process"]) == ("intake committed", "debug", "intake")
    assert (committed["cell"], committed["records"], committed["seconds"]) == ("intake.test", 7, 0.02)
    assert (outage["level"], outage["error"]) == ("warning", "connection refused")

    record = spans_of(path, step.traceparent)["intake.commit"]
    assert record.attributes["tidegate.records"] == 7
    assert [event.name for event in record.events] == ["tier.unavailable"]
    assert record.events[0].attributes["tidegate.error"] == "connection refused"


def kinds(base: type[Event] = Event) -> list[type[Event]]:
    return [kind for kind in base.__subclasses__() if kind.__module__.startswith("tidegate.")]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_event_can_be_emitted_and_its_fields_reach_the_line(
    kind: type[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    samples: dict[Any, Any] = {str: "x", int: 1, float: 0.5, str | int: 3}
    hints = get_type_hints(kind)
    values = {name: samples[hints[name]] for name in kind.__struct_fields__}
    with setup("test", log_level="debug", log_format="json"):
        emit(kind(**values))
    (line,) = lines(capsys)
    assert line["type"] == kind.tag
    assert line["event"] == kind.text
    assert {name: line[name] for name in values} == values


def test_tags_and_names_of_events_are_unique_and_exported() -> None:
    assert len({kind.tag for kind in kinds()}) == len(kinds())
    assert {kind.__name__ for kind in kinds()} <= set(telemetry.__all__)
    assert telemetry.__all__ == sorted(telemetry.__all__)


# ---- log lines


def test_frequent_events_are_not_logged_at_the_default_level(capsys: pytest.CaptureFixture[str]) -> None:
    with setup("intake", log_format="json"):
        emit(COMMIT)
    assert capsys.readouterr().err == ""


def test_a_json_line_carries_the_ids_of_the_current_span_and_none_outside_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with setup("intake", log_format="json", spans_path=tmp_path / "spans.db"):
        with span("step") as step:
            emit(OUTAGE)
        emit(OUTAGE)
    inside, outside = lines(capsys)
    assert step.traceparent.split("-")[1:3] == [inside["trace_id"], inside["span_id"]]
    assert "trace_id" not in outside


def test_text_that_is_no_valid_unicode_still_makes_a_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = TierUnavailable(tier="hot", error="bad \udcff byte", retry_in_seconds=1)
    with setup("intake", log_format="json", spans_path=tmp_path / "spans.db"), span("step") as step:
        emit(broken)
    assert lines(capsys)[0]["error"] == "bad \udcff byte"
    assert spans_of(tmp_path / "spans.db", step.traceparent)["step"].events[0].attributes


def test_a_console_line_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with setup("intake", log_format="console"):
        emit(TierUnavailable(tier="hot", error="\x1b[2Jgone\nlevel=info", retry_in_seconds=1))
    text = capsys.readouterr().err
    assert "tier unavailable" in text
    assert "gone" in text
    assert "\x1b[2J" not in text
    assert len(text.splitlines()) == 1


def test_warnings_of_libraries_become_lines_of_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    with setup("intake", log_format="json"):
        logging.getLogger("some.library").warning("careful with %s", "that")
        logging.getLogger("some.library").info("unasked")
    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["process"]) == ("careful with that", "some.library", "intake")


def test_without_setup_lines_go_to_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    emit(OUTAGE)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tidegate", "WARNING")
    assert "tier unavailable" in record.getMessage()
    assert "connection refused" in record.getMessage()


def test_auto_format_is_coloured_text_on_a_terminal_and_json_elsewhere() -> None:
    program = (
        "from tidegate.telemetry import *\n"
        "with setup('p'): emit(TierUnavailable(tier='t', error='e', retry_in_seconds=1))"
    )
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(piped.stderr)["tier"] == "t"
    ours, theirs = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[" in shown
    assert b"tier unavailable" in shown


# ---- metrics


def test_the_exposition_parses_and_has_only_our_and_the_process_metrics() -> None:
    body, content_type = telemetry.render_metrics()
    families = list(text_string_to_metric_families(body.decode()))
    names = {family.name for family in families}
    assert content_type.startswith("text/plain")
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= names
    assert all(name.startswith(("tidegate_", "process_")) for name in names)
    for family in families:
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


# ---- spans and trace context


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "\n",
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        "x" * 10_000,
    ],
)
def test_an_invalid_traceparent_is_ignored(traceparent: str, tmp_path: Path) -> None:
    with setup("p", spans_path=tmp_path / "spans.db"), span("step", parent=traceparent, links=[traceparent]) as step:
        pass
    record = spans_of(tmp_path / "spans.db", step.traceparent)["step"]
    assert record.parent_id is None
    assert record.links == ()


def test_a_span_continues_the_given_parent_and_is_what_inject_returns(tmp_path: Path) -> None:
    with setup("p", spans_path=tmp_path / "spans.db"):
        with span("outer", parent=PARENT) as outer:
            assert inject() == outer.traceparent
            with span("inner", kind="producer", attributes={"stream": "LOG"}) as inner:
                inner.set(sequence=5)
        assert inject() == ""
    records = spans_of(tmp_path / "spans.db", PARENT)
    assert records["outer"].parent_id == PARENT.split("-")[2]
    assert records["inner"].parent_id == records["outer"].span_id
    assert (records["inner"].kind, records["inner"].service) == ("producer", "p")
    assert records["inner"].attributes == {"stream": "LOG", "sequence": 5}


def test_a_later_version_of_traceparent_is_understood(tmp_path: Path) -> None:
    with setup("p", spans_path=tmp_path / "spans.db"), span("step", parent="01" + PARENT[2:] + "-extra") as step:
        pass
    assert step.traceparent.split("-")[1] == PARENT.split("-")[1]


def test_links_are_kept_once_each_up_to_128(tmp_path: Path) -> None:
    others = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 200)]
    path, links = tmp_path / "spans.db", [*others[:3], *others]
    with setup("p", spans_path=path), span("step", parent=others[0], links=links) as step:
        pass
    kept = spans_of(path, step.traceparent)["step"].links
    assert kept == tuple((f"{number:032x}", f"{number:016x}") for number in range(2, 130))


def test_an_error_that_leaves_the_block_marks_the_span_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with setup("p", spans_path=path), pytest.raises(ValueError, match="too hot"), span("step") as step:
        raise ValueError("too hot")
    record = spans_of(tmp_path / "spans.db", step.traceparent)["step"]
    assert (record.status, record.message) == ("error", "ValueError: too hot")
    assert record.events[0].name == "exception"


def test_cancelling_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    with setup("p", spans_path=path), pytest.raises(asyncio.CancelledError), span("step") as step:
        raise asyncio.CancelledError
    assert spans_of(tmp_path / "spans.db", step.traceparent)["step"].status == "unset"


def test_tasks_running_at_once_do_not_see_each_others_span(tmp_path: Path) -> None:
    async def task(name: str) -> tuple[str, str]:
        with span(name) as step:
            await asyncio.sleep(0.01)
            return step.traceparent, inject()

    async def both() -> tuple[tuple[str, str], tuple[str, str]]:
        return await asyncio.gather(task("a"), task("b"))

    with setup("p", spans_path=tmp_path / "spans.db"):
        first, second = asyncio.run(both())
    assert first[0] == first[1] != second[0] == second[1]


def test_with_nothing_to_record_to_a_given_parent_is_passed_on(tmp_path: Path) -> None:
    with setup("p"):
        with span("step") as alone:
            assert (alone.traceparent, inject()) == ("", "")
        with span("step", parent=PARENT) as step:
            step.set(a=1)
            assert step.traceparent == inject() == PARENT
    assert list(tmp_path.iterdir()) == []


def test_the_sampler_of_the_environment_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with setup("p", spans_path=tmp_path / "spans.db"), span("step") as step:
        pass
    assert step.traceparent.endswith("-00") or step.traceparent.endswith("-02")
    assert not (tmp_path / "spans.db").exists()


def test_a_second_setup_replaces_the_first_and_flushes_its_spans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = setup("one", log_format="json", spans_path=tmp_path / "one.db")
    with span("first") as step:
        pass
    with setup("two", log_format="json", spans_path=tmp_path / "two.db"), span("second"):
        first.shutdown()
        emit(OUTAGE)
    assert [record.name for record in traces.recent(tmp_path / "one.db", 9)] == ["first"]
    assert [record.name for record in traces.recent(tmp_path / "two.db", 9)] == ["second"]
    assert spans_of(tmp_path / "one.db", step.traceparent)["first"].service == "one"
    assert [line["process"] for line in lines(capsys)] == ["two"]


def test_a_process_that_ends_without_shutdown_still_delivers_its_spans(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom tidegate.telemetry import *\n"
        "setup('p', spans_path=pathlib.Path(sys.argv[1]))\nwith span('last'): pass"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "spans.db")], check=True)
    assert [record.name for record in traces.recent(tmp_path / "spans.db", 9)] == ["last"]


# ---- the collector


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP/HTTP receiver on loopback: its URL, and the requests it has received."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("specific", [False, True])
def test_spans_reach_an_otlp_collector_and_the_store(
    specific: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    url, received = collector
    if specific:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{url}/v1/traces")
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with (
        setup("storage-manager", spans_path=tmp_path / "spans.db"),
        span("apply", parent=PARENT, kind="consumer", links=[OTHER]),
    ):
        emit(COMMIT)
    (resource,) = received[0].resource_spans
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes["service.name"] == "storage-manager"
    (sent,) = resource.scope_spans[0].spans
    assert (sent.name, sent.trace_id.hex(), sent.parent_span_id.hex()) == ("apply", *PARENT.split("-")[1:3])
    assert sent.links[0].trace_id.hex() == "1" * 32
    assert {one.key: one.value.int_value for one in sent.attributes}["tidegate.records"] == 7
    assert spans_of(tmp_path / "spans.db", PARENT)["apply"].span_id == sent.span_id.hex()


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_a_collector_that_is_away_delays_neither_the_work_nor_the_end(
    silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        collecting = setup("p", log_format="json", spans_path=tmp_path / "spans.db")
        start = time.monotonic()
        for _ in range(2_000):
            with span("step"):
                emit(COMMIT)
        assert time.monotonic() - start < 2
        start = time.monotonic()
        collecting.shutdown()
        assert time.monotonic() - start < 3
        # The exporter's own thread outlives the shutdown; its complaints must not reach the next test.
        for thread in threading.enumerate():
            if thread.name.startswith("OtelBatch"):
                thread.join(10)
    assert len(traces.recent(tmp_path / "spans.db", 5_000)) == 2_000
    assert len(capsys.readouterr().err.splitlines()) < 5


def test_a_setting_of_the_sdk_that_makes_no_sense_is_refused_and_leaves_nothing_set_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "many")
    with pytest.raises(ConfigError, match="OTEL_SPAN_LINK_COUNT_LIMIT") as refused:
        setup("p")
    assert refused.value.where == "OTEL_*"
    emit(OUTAGE)
    assert [record.name for record in caplog.records] == ["tidegate"]
