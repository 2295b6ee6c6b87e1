"""How lines arrive: as they are, as strings, in a shipper's object, with others; and what refusing one means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.pipeline.data import SHARDS
from tests.pipeline.schema import problem_of
from tests.pipeline.text.data import essence, lines_of, run_lines
from tests.pipeline.text.samples import AUDIT, SAMPLES, VPC, ZEEK
from tidegate.frame import open_frame
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.lines.framing import frames_of
from tidegate.pipeline.runner import Codec, Pipeline

FORMS: dict[str, Callable[[str], Any]] = {
    "string": lambda line: line,
    "filebeat": lambda line: {"@timestamp": "2030-01-01T00:00:00Z", "message": line, "log": {"offset": 7}},
    "ecs": lambda line: {"event": {"original": line, "dataset": "x"}, "message": line},
    "dotted": lambda line: {"event.original": line},
    "old filebeat": lambda line: {"@timestamp": "2030-01-01T00:00:00Z", "message": line, "type": "log", "source": "/x"},
    "docker": lambda line: {"log": line + "\n", "stream": "stdout"},
}


_ENCODE: dict[str, Callable[[str], bytes]] = {
    "text": str.encode,
    "json": msgspec.json.encode,
    "msgpack": msgspec.msgpack.encode,
}


def _essences(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for event in map(essence, events):
        unmapped = {key: value for key, value in event.get("unmapped", {}).items() if key != "shipper"}
        found.append({**event, "unmapped": unmapped})
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("source", SAMPLES)
def test_a_shipped_line_becomes_what_the_line_itself_does(
    pipeline: Pipeline, source: str, codec: Codec, form: str
) -> None:
    # Without a time of its own a line takes the shipper's; those are looked at in another test.
    lines = [line for line in SAMPLES[source] if source not in ("cef", "leef", "cisco_asa") or "Jun 15" in line]
    encode: Callable[[Any], bytes] = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    plain = run_lines(pipeline, source, [line.encode() for line in lines])
    shipped = run_lines(pipeline, source, [encode(FORMS[form](line)) for line in lines], codec)
    assert shipped.filtered == plain.filtered
    assert not shipped.dead
    wanted, found = _essences(plain.events), _essences(shipped.events)
    if form in ("filebeat", "old filebeat", "docker"):
        assert all("shipper" in event["unmapped"] for event in shipped.events)
    for one, other in zip(found, wanted, strict=True):
        assert one == other


def test_a_line_without_time_has_that_of_its_shipper(pipeline: Pipeline) -> None:
    record = {"@timestamp": "2025-01-01T00:00:00Z", "message": "app[1]: hello", "host": {"name": "web9"}}
    (event,) = run_lines(pipeline, "linux_syslog", [json.dumps(record).encode()], "json").events
    assert (event["time"], event["device"]["hostname"], event["message"]) == (1735689600000, "web9", "hello")


def test_an_object_with_fields_of_the_source_is_taken_as_it_is(pipeline: Pipeline) -> None:
    record = {"action": "ACCEPT", "srcaddr": "10.0.0.5", "dstaddr": "10.0.0.6", "end": 1750000000, "message": "a note"}
    (event,) = run_lines(pipeline, "aws_vpcflow", [json.dumps(record).encode()], "json").events
    assert (event["dst_endpoint"]["ip"], event["unmapped"]["message"]) == ("10.0.0.6", "a note")


def test_json_that_was_shipped_as_a_line_is_a_record(pipeline: Pipeline) -> None:
    native = {"_path": "dns", "ts": 1.5, "uid": "C1", "id.orig_h": "10.0.0.5", "query": "example.org"}
    record = {"message": json.dumps(native), "host": {"name": "web9"}}
    (event,) = run_lines(pipeline, "zeek", [json.dumps(record).encode()], "json").events
    assert (event["query"]["hostname"], event["unmapped"]["shipper"]) == ("example.org", {"host": {"name": "web9"}})


def test_records_of_each_kind_may_be_in_one_frame(pipeline: Pipeline) -> None:
    native = {"_path": "dns", "ts": 1.5, "uid": "C1", "id.orig_h": "10.0.0.5"}
    records = [
        *map(str.encode, ZEEK),
        json.dumps(native).encode(),
        json.dumps({"message": ZEEK[8]}).encode(),
        b"{",
        b"5",
    ]
    result = run_lines(pipeline, "zeek", records)
    assert [event["connection_info"]["uid"] for event in result.events if "connection_info" in event] == [
        "Cabc",
        "Cdef",
        "C1",
        "Cabc",
    ]
    assert [letter.original[-1:] for letter in result.dead] == [b"{", b"5"]


def test_an_envelope_may_hold_a_line(pipeline: Pipeline) -> None:
    line = SAMPLES["cisco_asa"][0]
    (plain,) = run_lines(pipeline, "cisco_asa", [line.encode()]).events
    record = {"source": "cisco_asa", "data": line, "event_id": "e-1"}
    (event,) = run_lines(pipeline, "linux_syslog", [json.dumps(record).encode()], "json").events
    assert (event["metadata"]["uid"], event["metadata"]["log_source"]) == ("e-1", "cisco_asa")
    assert event["src_endpoint"] == plain["src_endpoint"]
    (letter,) = run_lines(pipeline, "zeek", [json.dumps({"data": ZEEK[0]}).encode()], "json").dead
    assert (letter.stage, letter.rule) == ("parse", "zeek.header")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("fortigate", "source=zeek data=x event_id=e-1 metadata=1"),
        ("leef", "LEEF:1.0|a|b|c|d|source=zeek\tdata=x\tevent_id=e-1"),
        ("cef", "CEF:0|a|b|c|d|e|1|source=zeek data=x event_id=e-1"),
    ],
)
def test_what_a_line_says_is_never_taken_for_an_envelope(pipeline: Pipeline, source: str, line: str) -> None:
    (event,) = run_lines(pipeline, source, [line.encode()]).events
    assert event["metadata"]["log_source"] == source
    assert event["metadata"]["uid"] != "e-1"
    assert event["unmapped"]["data"] == "x"


@pytest.mark.parametrize(
    ("source", "line", "rule", "reason"),
    [
        ("cisco_asa", "no mark", "cisco", "%ASA"),
        ("paloalto", "just words", "csv", "more columns"),
        ("paloalto", '1,2,"' + "x" * 140_000, "csv", "field"),
        ("paloalto", "1,soon,001,TRAFFIC,end", "paloalto.traffic.time", "not a time"),
        ("fortigate", "just words", "keyvalue", "no key=value"),
        ("cef", "no mark", "cef", "no CEF:"),
        ("cef", "CEF:0|a|b", "cef", "7 parts"),
        ("leef", "LEEF:3.0|a|b|c|d|", "leef", "LEEF:1.0"),
        ("linux_auditd", "type=X msg=?", "linux_auditd.id", "audit(time:serial)"),
        ("linux_auditd", "msg=audit(1.0:1): a=1", "linux_auditd.type", "type="),
        ("zeek", "1.0\tx", "zeek.header", "tidegate publish"),
        ("aws_vpcflow", "1 2 3", "aws_vpcflow.fields", "14 fields"),
        ("linux_syslog", "[1]", "linux_syslog.line", "list"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_dead_letter(
    pipeline: Pipeline, source: str, line: str, rule: str, reason: str
) -> None:
    result = run_lines(pipeline, source, [line.encode()])
    (letter,) = result.dead
    assert (letter.rule, letter.original, letter.content_type) == (rule, line.encode(), "text/plain")
    assert reason in letter.error


def test_bytes_that_are_not_utf8_are_kept_readably(pipeline: Pipeline) -> None:
    (event,) = run_lines(pipeline, "linux_syslog", [b"Jun 15 12:00:00 web1 app: caf\xe9\xff"]).events
    assert event["message"] == "caf\\xe9\\xff"


def test_an_event_over_two_frames_is_two_events_with_one_correlation_id(pipeline: Pipeline) -> None:
    first = run_lines(pipeline, "linux_auditd", lines_of("linux_auditd")[:1]).events
    rest = run_lines(pipeline, "linux_auditd", lines_of("linux_auditd")[1:6])
    assert rest.filtered == {"linux_auditd.joined": 4}
    (one, other) = [*first, *rest.events]
    assert one["metadata"]["correlation_uid"] == other["metadata"]["correlation_uid"] == "web1:1750000000.123:77"
    assert (other["message"], problem_of(other)) == ("sh -c echo hi &  x", None)


def test_the_end_of_an_audit_event_is_none_by_itself(pipeline: Pipeline) -> None:
    result = run_lines(pipeline, "linux_auditd", [AUDIT[5].encode()])
    assert result.filtered == {"linux_auditd.joined": 1}


@pytest.mark.parametrize("codec", ["text", "json", "msgpack"])
def test_a_dead_letter_has_what_is_needed_to_read_it_again(pipeline: Pipeline, codec: Codec) -> None:
    encode = _ENCODE[codec]
    kind = {"text": "text/plain", "json": "application/x-ndjson", "msgpack": "application/msgpack"}[codec]
    lines = [*ZEEK[:8], ZEEK[8], "1.0\ttoo short"]
    (letter,) = run_lines(pipeline, "zeek", [encode(line) for line in lines], codec).dead
    _, again = open_frame(letter.original, kind, "", 1_000_000)
    assert again == [encode(line) for line in [*ZEEK[:5], *ZEEK[6:8], lines[-1]]]
    (second,) = run_lines(pipeline, "zeek", again, codec).dead
    assert (second.rule, second.original) == (letter.rule, letter.original) == ("zeek.fields", letter.original)


def test_a_file_is_cut_into_frames_that_can_be_read_by_themselves(pipeline: Pipeline) -> None:
    rows = [ZEEK[8].replace("Cabc", f"C{number}") for number in range(25)]
    lines = [line.encode() for line in [*ZEEK[:8], *rows, ZEEK[10], "#separator |", "#fields|ts", "#types|time", "1.5"]]
    cut = list(frames_of(lines, most_records=10))
    assert sum(len(frame) - repeated for frame, repeated in cut) == len(lines)
    assert len(cut) == 4
    results = [run_lines(pipeline, "zeek", frame) for frame, _ in cut]
    assert not any(result.dead for result in results)
    assert sum(len(result.events) for result in results) == 26


def test_frames_keep_audit_events_together_and_repeat_the_header_of_flow_logs(pipeline: Pipeline) -> None:
    events = [line.replace(":77)", f":{number})") for number in range(100, 120) for line in AUDIT[:6]]
    cut = list(frames_of([line.encode() for line in events], most_records=10))
    assert [repeated for _, repeated in cut] == [0] * len(cut)
    assert len(cut) == 10
    assert sum(len(run_lines(pipeline, "linux_auditd", frame).events) for frame, _ in cut) == 20
    endless = [AUDIT[1].encode()] * 50
    assert max(len(frame) for frame, _ in frames_of(endless, most_records=10)) == 20
    flows = [line.encode() for line in [VPC[0], *[VPC[1]] * 15]]
    assert [(len(frame), repeated) for frame, repeated in frames_of(flows, most_records=10)] == [(10, 0), (7, 1)]


def test_lines_that_only_look_like_headers_are_not_repeated() -> None:
    lines = [b"# a comment", b"#fields\tx", *[b"text"] * 25]
    assert [repeated for _, repeated in frames_of(lines, most_records=10)] == [0, 0, 0]


def test_stages_take_joined_lines_as_one_event_and_refuse_them_with_all_their_lines(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'pipeline = "own"\nsources = ["auditd"]\n[[stage]]\nname = "users"\ntype = "filter"\n'
        'drop = "metadata.event_code == \'USER_LOGIN\'"\n[[stage]]\nname = "known"\ntype = "validate"\n'
        '[[stage.rules]]\nname = "to"\ncheck = "dst_endpoint.ip is not None"\n'
    )
    pipeline = load_pipeline(SHARDS, tmp_path)
    result = run_lines(pipeline, "linux_auditd", lines_of("linux_auditd"))
    assert result.filtered == {"linux_auditd.joined": 8, "own.users": 1}
    assert [event["dst_endpoint"]["ip"] for event in result.events] == ["203.0.113.80"]
    assert [letter.original for letter in result.dead] == [
        b"\n".join(line.encode() for line in lines) for lines in (AUDIT[:6], AUDIT[8:11])
    ]
