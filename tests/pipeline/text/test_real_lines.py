"""Real lines of text sources become valid events; Zeek's TSV the same ones as its JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.pipeline.data import FOLDER, records_of
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tests.pipeline.text.data import essence, run_lines
from tidegate.pipeline.lines.framing import frames_of
from tidegate.pipeline.runner import Pipeline

TSV = sorted((FOLDER / "zeek_tsv").glob("*.log"))
LINES = {
    "linux_auditd": ["linux_auditd.otrf.log", "linux_auditd.go_libaudit.log"],
    "paloalto": ["paloalto_syslog.splunk_samples.log"],
}

pytestmark = pytest.mark.skipif(not TSV, reason="the folder with real records (../shared/data) is not there")


def _valid(events: list[dict[str, Any]]) -> Counter[str]:
    for event in events[:200]:
        assert problem_of(event) is None
    return Counter(CLASS_NAMES[event["class_uid"]] for event in events)


def test_audit_events_are_put_together(pipeline: Pipeline) -> None:
    result = run_lines(pipeline, "linux_auditd", records_of(FOLDER / "linux_auditd.otrf.log"))
    assert _valid(result.events) == {"process_activity": 3}
    assert (result.dead, result.filtered) == ([], {"linux_auditd.joined": 15})
    first, _, last = result.events
    assert first["process"] == {
        "pid": 2168,
        "name": "dd",
        "path": "/bin/dd",
        "cmd_line": "dd if=/dev/zero bs=1 count=1",
        "working_directory": "/home/wardog",
        "user": {"uid": "1000"},
    }
    assert first["actor"]["process"] == {"pid": 29002, "session": {"uid": "104", "terminal": "pts0"}}
    assert first["time"] == 1604996384965
    assert first["metadata"]["correlation_uid"] == "1604996384.965:93777"
    assert last["unmapped"]["argv"] == ["grep", "-v", "^?"]


def test_audit_records_of_many_kinds(pipeline: Pipeline) -> None:
    result = run_lines(pipeline, "linux_auditd", records_of(FOLDER / "linux_auditd.go_libaudit.log"))
    (letter,) = result.dead
    assert (letter.original, letter.rule) == (b"type=UNKNOWN[1329] msg=?", "linux_auditd.id")
    classes = _valid(result.events)
    assert classes["authentication"] >= 12
    assert {"process_activity", "account_change", "group_management", "detection_finding"} <= classes.keys()
    by_id = {event["metadata"]["correlation_uid"]: event for event in result.events}
    assert by_id["1492896301.818:19955"]["user"]["name"] == "(invalid user)"
    assert by_id["1488862769.030:19469538"]["process"]["cmd_line"].startswith(
        "/usr/lib64/nagios/plugins/check_asterisk"
    )
    assert by_id["1490995752.404:20614537"]["actor"]["process"]["path"] == "/usr/libexec/strongswan/charon (deleted)"
    assert by_id["1500661699.656:1208725"]["unmapped"]["cwd"] == "/tmp/a b c"
    assert not any("requires" in event.get("status_detail", "") for event in result.events)


def test_firewall_rows_of_old_versions(pipeline: Pipeline) -> None:
    result = run_lines(pipeline, "paloalto", records_of(FOLDER / "paloalto_syslog.splunk_samples.log"))
    assert result.dead == []
    assert _valid(result.events) == {"base_event": 103, "api_activity": 37, "detection_finding": 8}
    first = result.events[0]
    assert (first["actor"]["user"]["name"], first["api"]["operation"], first["status"]) == ("admin", "set", "Succeeded")
    assert first["src_endpoint"] == {"ip": "192.168.0.2"}
    assert first["unmapped"]["action_flags"] == "0x0"
    assert first["time"] == 1330131110000
    correlated = result.events[-1]
    assert correlated["finding_info"]["title"] == "exploit-kit-activity"
    assert correlated["evidences"][0]["user"] == {"name": "picard", "domain": "tng"}
    assert correlated["severity_id"] == 5


def test_flow_records_as_json(pipeline: Pipeline) -> None:
    result = run_lines(pipeline, "aws_vpcflow", records_of(FOLDER / "aws_vpcflow_json.panther.jsonl"), "json")
    assert result.dead == []
    assert _valid(result.events) == {"network_activity": 9}
    event = result.events[0]
    assert (event["src_endpoint"]["ip"], event["dst_endpoint"]["port"]) == ("10.0.0.1", 8080)
    assert event["src_endpoint"]["vpc_uid"] == "vpc-12345678"
    assert event["connection_info"]["direction_id"] == 2


def _as_json(lines: list[str]) -> list[dict[str, Any]]:
    """What Zeek's JSON writer would have written, by way of a reader of its own."""
    names: list[str] = []
    types: list[str] = []
    path = ""
    found = []
    for line in lines:
        values = line.split("\t")
        if line.startswith("#"):
            names = values[1:] if values[0] == "#fields" else names
            types = values[1:] if values[0] == "#types" else types
            path = values[1] if values[0] == "#path" else path
            continue
        record: dict[str, Any] = {"_path": path}
        for name, kind, value in zip(names, types, values, strict=True):
            if value == "-":
                continue
            base = kind.removeprefix("vector[").removeprefix("set[").rstrip("]")
            read: Any = {"time": float, "interval": float, "double": float, "count": int, "port": int}.get(base, str)
            read = (lambda text: text == "T") if base == "bool" else read
            items = [] if value == "(empty)" else [read(each) for each in value.split(",")]
            record[name] = items if base != kind else "" if value == "(empty)" else read(value)
        found.append(record)
    return found


@pytest.mark.parametrize("path", TSV, ids=[path.name for path in TSV])
def test_tsv_gives_the_events_of_json(pipeline: Pipeline, path: Path) -> None:
    records = records_of(path)
    result = run_lines(pipeline, "zeek", records)
    assert result.dead == []
    assert result.filtered == {"zeek.header": sum(record.startswith(b"#") for record in records)}
    _valid(result.events)
    plain = [line for line in path.read_text().splitlines() if "\\" not in line]
    same = run_lines(pipeline, "zeek", [line.encode() for line in plain]).events
    other = run_lines(pipeline, "zeek", [msgspec.json.encode(each) for each in _as_json(plain)], "json").events
    assert [essence(event) for event in same] == [essence(event) for event in other]


def test_a_long_file_is_read_in_frames(pipeline: Pipeline) -> None:
    lines = records_of(FOLDER / "zeek_tsv" / "dns.otrf_lsass05.log")
    results = [run_lines(pipeline, "zeek", frame) for frame, _ in frames_of(lines)]
    assert len(results) == 3
    assert sum(len(result.events) for result in results) == 2872
    assert not any(result.dead for result in results)
