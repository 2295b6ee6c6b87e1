"""What becomes of osquery's results and status logs, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import one
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline


def _result(name: str, columns: dict[str, str], action: str = "added") -> dict[str, Any]:
    return {
        "name": name,
        "hostIdentifier": "web-1",
        "calendarTime": "Sun Jun 15 12:01:00 2025 UTC",
        "unixTime": 1_749_988_860,
        "epoch": 0,
        "counter": 31,
        "numerics": False,
        "decorations": {"host_uuid": "4c4c4544-0042", "hostname": "web-1.example.org", "username": "ada"},
        "columns": columns,
        "action": action,
    }


PROCESS = _result(
    "pack_security_process_events",
    {
        "atime": "1749980000",
        "auid": "1000",
        "cmdline": "/usr/bin/curl -o /tmp/x http://203.0.113.9/x",
        "cwd": '"/root"',
        "egid": "0",
        "eid": "0000004711",
        "euid": "0",
        "gid": "0",
        "mode": "0100755",
        "parent": "4100",
        "path": "/usr/bin/curl",
        "pid": "4242",
        "syscall": "execve",
        "time": "1749988800",
        "uid": "0",
        "uptime": "12345",
    },
)

SOCKET = {
    "action": "connect",
    "auid": "1000",
    "eid": "0000004712",
    "family": "2",
    "fd": "3",
    "local_address": "10.0.0.5",
    "local_port": "51234",
    "path": "/usr/bin/curl",
    "pid": "4242",
    "protocol": "6",
    "remote_address": "203.0.113.9",
    "remote_port": "80",
    "success": "1",
    "time": "1749988801",
}

USER_EVENT = {
    "address": "198.51.100.7",
    "auid": "4294967295",
    "eid": "0000004713",
    "message": 'op=PAM:authentication acct="ada" exe="/usr/sbin/sshd" hostname=198.51.100.7 terminal=ssh res=failed',
    "path": "/usr/sbin/sshd",
    "pid": "900",
    "terminal": "ssh",
    "time": "1749988802",
    "type": "1100",
    "uid": "0",
}

LOGGED_IN = {
    "host": "198.51.100.7",
    "pid": "901",
    "time": "1749988700",
    "tty": "pts/0",
    "type": "user",
    "user": "ada",
}

FILE = {
    "action": "UPDATED",
    "atime": "1749988790",
    "category": "etc",
    "eid": "0000004714",
    "hashed": "1",
    "inode": "1234",
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "mtime": "1749988803",
    "sha1": "",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "size": "2048",
    "target_path": "/etc/passwd",
    "time": "1749988803",
    "transaction_id": "0",
}

DEVICE = {"hostname": "web-1.example.org", "uid": "4c4c4544-0042", "type_id": 0}


def test_a_process_event_has_the_time_at_which_the_process_began(pipeline: Pipeline) -> None:
    event = one(pipeline, "osquery", PROCESS)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (1007, 1)
    assert event["time"] == 1_749_988_800_000
    assert event["process"] == {
        "pid": 4242,
        "path": "/usr/bin/curl",
        "name": "curl",
        "cmd_line": "/usr/bin/curl -o /tmp/x http://203.0.113.9/x",
        "working_directory": '"/root"',
        "file": {"name": "curl", "type_id": 8},
        "user": {"uid": "0"},
    }
    assert event["actor"] == {"process": {"pid": 4100}, "user": {"name": "ada", "uid": "1000"}}
    assert event["device"] == DEVICE
    metadata = event["metadata"]
    assert metadata["correlation_uid"] == "web-1:4242"
    assert (metadata["event_code"], metadata["sequence"]) == ("pack_security_process_events", 31)


def test_the_number_of_an_event_identifies_it(pipeline: Pipeline) -> None:
    first = one(pipeline, "osquery", PROCESS)["metadata"]["uid"]
    assert one(pipeline, "osquery", {**PROCESS, "counter": 32})["metadata"]["uid"] == first
    assert one(pipeline, "osquery", {**PROCESS, "hostIdentifier": "web-2"})["metadata"]["uid"] != first


@pytest.mark.parametrize(
    ("way", "activity", "direction", "source", "destination"),
    [
        ("connect", 1, 2, "10.0.0.5", "203.0.113.9"),
        ("accept", 1, 1, "203.0.113.9", "10.0.0.5"),
        ("bind", 7, 0, "10.0.0.5", "203.0.113.9"),
    ],
)
def test_a_socket_event_knows_which_way_it_goes(
    pipeline: Pipeline, way: str, activity: int, direction: int, source: str, destination: str
) -> None:
    event = one(pipeline, "osquery", _result("sockets", {**SOCKET, "action": way}))
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["status_id"]) == (4001, activity, 1)
    assert event["src_endpoint"]["ip"] == source
    assert event["dst_endpoint"]["ip"] == destination
    assert event["connection_info"] == {"direction_id": direction, "protocol_num": 6}
    assert event["actor"]["process"] == {"pid": 4242, "path": "/usr/bin/curl", "name": "curl"}
    assert event["time"] == 1_749_988_801_000
    assert event["metadata"]["correlation_uid"] == "web-1:4242"


def test_a_user_event_tells_who_failed_to_sign_in(pipeline: Pipeline) -> None:
    event = one(pipeline, "osquery", _result("logins", USER_EVENT))
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["status_id"]) == (3002, 1, 2)
    assert event["user"] == {"name": "ada", "uid": "0"}
    assert event["src_endpoint"] == {"ip": "198.51.100.7"}
    assert event["dst_endpoint"] == {"hostname": "web-1"}
    assert event["session"] == {"terminal": "ssh"}
    assert event["logon_process"] == {"pid": 900, "path": "/usr/sbin/sshd", "name": "sshd"}
    assert event["time"] == 1_749_988_802_000


@pytest.mark.parametrize(("action", "activity"), [("added", 1), ("removed", 2)])
def test_a_session_that_came_or_went_is_a_sign_in_or_out_at_the_time_of_the_query(
    pipeline: Pipeline, action: str, activity: int
) -> None:
    event = one(pipeline, "osquery", _result("users", LOGGED_IN, action))
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (3002, activity)
    assert event["user"] == {"name": "ada"}
    assert event["src_endpoint"] == {"ip": "198.51.100.7"}
    assert event["session"] == {"terminal": "pts/0", "created_time": 1_749_988_700_000}
    assert event["time"] == 1_749_988_860_000


def test_a_session_in_a_snapshot_is_a_finding_of_a_query(pipeline: Pipeline) -> None:
    event = one(pipeline, "osquery", _result("users", {**LOGGED_IN, "host": "desk-3"}, "snapshot"))
    assert problem_of(event) is None
    assert (event["class_uid"], event["query_result_id"]) == (5017, 1)
    assert event["session"]["terminal"] == "pts/0"
    assert event["actor"]["user"] == {"name": "ada"}
    assert event["device"] == DEVICE


def test_a_file_event_has_the_hashes_that_are_there(pipeline: Pipeline) -> None:
    event = one(pipeline, "osquery", _result("fim", FILE))
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (1001, 3)
    assert event["file"] == {
        "name": "passwd",
        "path": "/etc/passwd",
        "type_id": 0,
        "uid": "1234",
        "size": 2048,
        "accessed_time": 1_749_988_790_000,
        "modified_time": 1_749_988_803_000,
        "hashes": [
            {"algorithm_id": 1, "value": FILE["md5"]},
            {"algorithm_id": 3, "value": FILE["sha256"]},
        ],
    }
    assert FILE["sha256"] in {each["value"] for each in event["observables"] if each["type_id"] == 8}


@pytest.mark.parametrize(
    "record",
    [
        _result("os", {"name": "Debian", "version": "12"}, "snapshot"),
        _result("ports", {"port": "22", "pid": "700"}, "removed"),
        {key: value for key, value in _result("rpm", {}, "snapshot").items() if key != "columns"}
        | {"snapshot": [{"name": "bash"}, {"name": "zsh"}]},
        {
            "diffResults": {"added": [{"name": "zsh"}], "removed": ""},
            "name": "rpm",
            "hostIdentifier": "web-1",
            "unixTime": "1749988860",
        },
    ],
)
def test_rows_of_other_tables_are_inventory_and_are_kept(pipeline: Pipeline, record: dict[str, Any]) -> None:
    event = one(pipeline, "osquery", record)
    assert problem_of(event) is None
    assert CLASS_NAMES[event["class_uid"]] == "inventory_info"
    assert event["time"] == 1_749_988_860_000
    assert event["metadata"]["correlation_uid"].startswith("web-1")
    for name in {"columns", "snapshot", "diffResults"} & record.keys():
        assert event["unmapped"][name] == record[name]


def test_a_status_log_keeps_message_and_level(pipeline: Pipeline) -> None:
    record = {
        "hostIdentifier": "web-1",
        "calendarTime": "Sun Jun 15 12:01:00 2025 UTC",
        "unixTime": "1749988860",
        "severity": "2",
        "filename": "scheduler.cpp",
        "line": "83",
        "message": "Error executing scheduled query",
        "version": "5.12.1",
    }
    event = one(pipeline, "osquery", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["severity_id"]) == (0, 4)
    assert event["message"] == "Error executing scheduled query"
    assert (event["metadata"]["log_version"], event["metadata"]["log_name"]) == ("5.12.1", "scheduler.cpp")
    assert event["device"] == {"hostname": "web-1", "type_id": 0}
