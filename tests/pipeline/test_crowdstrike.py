"""What becomes of events of CrowdStrike's sensors and of its detections, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import one
from tests.pipeline.schema import problem_of
from tidegate.pipeline.runner import Pipeline

SHA256 = "9cedee4eca1b34434ccdd654da4faf4c7ca7a723eaab248e4ff9717db26a1f55"
AID = "4d92d2adf9009775a446ce0fe2689915"
SENSOR = {
    "aid": AID,
    "aip": "203.0.113.20",
    "cid": "c4e1f8a2b7d94e0f9a6b3c2d1e0f4a5b",
    "event_platform": "Win",
    "ComputerName": "FIN-142",
    "ConfigBuild": "1007.3.0019807.1",
    "Entitlements": "15",
    "timestamp": "1749988801417",
    "id": "6a1f0c9e-9b42-11f1-8a6e-02b7c41d5e21",
}
DEVICE = {
    "uid": AID,
    "hostname": "FIN-142",
    "ip": "10.20.14.87",
    "type_id": 0,
    "os": {"name": "Windows", "type_id": 100},
}


def _event(name: str, **fields: str) -> dict[str, Any]:
    return {**SENSOR, "event_simpleName": name, "name": f"{name}V5", "LocalAddressIP4": "10.20.14.87", **fields}


PROCESS = _event(
    "ProcessRollup2",
    TargetProcessId="289741187433",
    ParentProcessId="289734651298",
    ParentBaseFileName="WINWORD.EXE",
    RawProcessId="7412",
    ImageFileName="\\Device\\HarddiskVolume3\\Windows\\System32\\cmd.exe",
    CommandLine="cmd.exe /c whoami",
    IntegrityLevel="8192",
    MD5HashData="6ac5e4c66d56a4c2a2fab09e18bcc23f",
    SHA1HashData="0" * 40,
    SHA256HashData=SHA256,
    AuthenticationId="2338751",
    UserSid="S-1-5-21-1-2-3-1604",
    ProcessStartTime="1749988800.402",
    ProcessEndTime="",
)
CONTEXT = {
    "ContextProcessId": "289741187433",
    "ContextBaseFileName": "cmd.exe",
    "ContextTimeStamp": "1749988801.212",
}


@pytest.mark.parametrize("name", ["ProcessRollup2", "SyntheticProcessRollup2"])
def test_a_process_start(pipeline: Pipeline, name: str) -> None:
    event = one(pipeline, "crowdstrike_fdr", {**PROCESS, "event_simpleName": name})
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (1007, 1, 1)
    assert event["time"] == 1_749_988_800_402
    assert event["process"] == {
        "uid": "289741187433",
        "pid": 7412,
        "name": "cmd.exe",
        "path": "\\Device\\HarddiskVolume3\\Windows\\System32\\cmd.exe",
        "cmd_line": "cmd.exe /c whoami",
        "integrity": "Medium",
        "created_time": 1_749_988_800_402,
        "file": {
            "name": "cmd.exe",
            "type_id": 8,
            "hashes": [
                {"algorithm_id": 1, "value": "6ac5e4c66d56a4c2a2fab09e18bcc23f"},
                {"algorithm_id": 3, "value": SHA256},
            ],
        },
        "user": {"uid": "S-1-5-21-1-2-3-1604"},
        "session": {"uid": "2338751"},
    }
    assert event["actor"]["process"] == {"uid": "289734651298", "name": "WINWORD.EXE"}
    assert event["device"] == DEVICE
    metadata = event["metadata"]
    assert metadata["uid"] == SENSOR["id"]
    assert metadata["correlation_uid"] == f"{AID}:289741187433"
    assert (metadata["event_code"], metadata["tenant_uid"]) == (name, SENSOR["cid"])
    assert SHA256 in {each["value"] for each in event["observables"] if each["type_id"] == 8}


def test_what_a_process_does_correlates_with_its_start(pipeline: Pipeline) -> None:
    start = one(pipeline, "fdr", PROCESS)["metadata"]["correlation_uid"]
    for record in (
        _event("NetworkConnectIP4", RemoteAddressIP4="203.0.113.9", **CONTEXT),
        _event("DnsRequest", DomainName="example.org", **CONTEXT),
        _event("PeFileWritten", TargetFileName="\\Device\\x.exe", **CONTEXT),
        _event("AsepValueUpdate", RegObjectName="\\REGISTRY\\MACHINE\\Run", **CONTEXT),
        _event("EndOfProcess", TargetProcessId="289741187433", ContextTimeStamp="1749988802.1"),
        DETECTION,
    ):
        event = one(pipeline, "fdr", record)
        assert problem_of(event) is None
        assert event["class_uid"] != 0
        assert event["metadata"]["correlation_uid"] == start


@pytest.mark.parametrize(
    ("name", "local", "remote", "fields"),
    [
        ("NetworkConnectIP4", "10.20.14.87", "203.0.113.9", {"RemoteAddressIP4": "203.0.113.9"}),
        (
            "NetworkConnectIP6",
            "fe80::1",
            "2001:db8::9",
            {"LocalAddressIP6": "fe80::1", "RemoteAddressIP6": "2001:db8::9"},
        ),
    ],
)
def test_a_connection(pipeline: Pipeline, name: str, local: str, remote: str, fields: dict[str, str]) -> None:
    numbers = {"LocalPort": "52817", "RemotePort": "443", "Protocol": "6", "ConnectionDirection": "0"}
    record = _event(name, **CONTEXT, **numbers, **fields)
    if name == "NetworkConnectIP6":
        del record["LocalAddressIP4"]
    event = one(pipeline, "crowdstrike", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (4001, 1)
    assert event["time"] == 1_749_988_801_212
    assert event["src_endpoint"] == {"ip": local, "port": 52817}
    assert event["dst_endpoint"] == {"ip": remote, "port": 443}
    assert event["connection_info"] == {"direction_id": 2, "protocol_num": 6}
    assert event["actor"]["process"] == {"uid": "289741187433", "name": "cmd.exe"}
    assert event["device"] == {**DEVICE, "ip": "203.0.113.20"}


def test_an_accepted_connection_comes_from_the_other_side(pipeline: Pipeline) -> None:
    fields = {"RemoteAddressIP4": "198.51.100.7", "RemotePort": "40000", "LocalPort": "3389", "Protocol": "6"}
    event = one(pipeline, "crowdstrike", _event("NetworkReceiveAcceptIP4", **CONTEXT, **fields))
    assert problem_of(event) is None
    assert event["src_endpoint"] == {"ip": "198.51.100.7", "port": 40000}
    assert event["dst_endpoint"] == {"ip": "10.20.14.87", "port": 3389}
    assert event["connection_info"]["direction_id"] == 1


def test_a_dns_request_has_its_answers(pipeline: Pipeline) -> None:
    fields = {"DomainName": "cdn.example.org", "RequestType": "1", "IP4Records": "203.0.113.9;203.0.113.10;"}
    event = one(
        pipeline,
        "crowdstrike",
        _event("DnsRequest", **CONTEXT, **fields, QueryStatus="0", RespondingDnsServer="10.20.0.10"),
    )
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (4003, 1)
    assert event["query"] == {"hostname": "cdn.example.org", "type": "A"}
    assert event["answers"] == [{"rdata": "203.0.113.9"}, {"rdata": "203.0.113.10"}]
    assert event["src_endpoint"] == {"ip": "10.20.14.87", "uid": AID}
    assert event["dst_endpoint"] == {"ip": "10.20.0.10"}
    assert event["status_code"] == "0"
    assert {"name": "query.hostname", "type_id": 1, "value": "cdn.example.org"} in event["observables"]


@pytest.mark.parametrize(
    ("name", "activity", "status"),
    [("UserLogon", 1, 1), ("UserLogoff", 2, 1), ("UserLogonFailed2", 1, 2)],
)
def test_a_logon(pipeline: Pipeline, name: str, activity: int, status: int) -> None:
    record = _event(
        name,
        UserName="ada",
        UserSid="S-1-5-21-1-2-3-1604",
        LogonDomain="EXAMPLE",
        LogonType="10",
        AuthenticationPackage="Kerberos",
        AuthenticationId="2338751",
        RemoteAddressIP4="198.51.100.7",
        ClientComputerName="-",
        UserIsAdmin="1",
        LogonTime="1749988801.317",
        ContextTimeStamp="1749988801.317",
    )
    event = one(pipeline, "falcon", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["status_id"]) == (3002, activity, status)
    assert event["time"] == 1_749_988_801_317
    assert event["user"] == {"name": "ada", "uid": "S-1-5-21-1-2-3-1604", "domain": "EXAMPLE", "type_id": 2}
    assert event["session"] == {"uid": "2338751"}
    assert event["src_endpoint"] == {"ip": "198.51.100.7"}
    assert event["dst_endpoint"] == {"uid": AID, "hostname": "FIN-142", "ip": "10.20.14.87"}
    assert (event["logon_type_id"], event["auth_protocol"], event["auth_protocol_id"]) == (10, "Kerberos", 2)
    assert event["metadata"]["correlation_uid"] == f"{AID}:S-1-5-21-1-2-3-1604"


@pytest.mark.parametrize(
    ("name", "activity", "kind"),
    [
        ("NewExecutableWritten", 1, 8),
        ("PeFileWritten", 1, 8),
        ("OoxmlFileWritten", 1, 1),
        ("ExecutableDeleted", 4, 8),
        ("OfTomorrowFileWritten", 99, 1),
    ],
)
def test_a_written_file(pipeline: Pipeline, name: str, activity: int, kind: int) -> None:
    path = "\\Device\\HarddiskVolume3\\ProgramData\\upd.exe"
    record = _event(name, **CONTEXT, TargetFileName=path, Size="318464", SHA256HashData=SHA256, UserName="ada")
    event = one(pipeline, "crowdstrike", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"]) == (1001, activity)
    assert event["file"] == {
        "name": "upd.exe",
        "path": path,
        "type_id": kind,
        "size": 318464,
        "hashes": [{"algorithm_id": 3, "value": SHA256}],
    }
    assert event["actor"] == {"process": {"uid": "289741187433", "name": "cmd.exe"}, "user": {"name": "ada"}}
    assert event["device"] == DEVICE


@pytest.mark.parametrize(("name", "severity"), [("AsepValueUpdate", 2), ("RegGenericValueUpdate", 1)])
def test_a_registry_value(pipeline: Pipeline, name: str, severity: int) -> None:
    path = "\\REGISTRY\\MACHINE\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run"
    fields = {"RegObjectName": path, "RegValueName": "upd", "RegStringValue": "C:\\upd.exe", "RegType": "1"}
    event = one(pipeline, "crowdstrike", _event(name, **CONTEXT, **fields))
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (201002, 2, severity)
    assert event["reg_value"] == {"name": "upd", "path": path, "data": "C:\\upd.exe", "type_id": 10}


DETECTION: dict[str, Any] = {
    "ExternalApiType": "Event_DetectionSummaryEvent",
    "DetectId": f"ldt:{AID}:12884902151",
    "DetectName": "Suspicious Activity",
    "DetectDescription": "An Office application launched a shell.",
    "SeverityName": "High",
    "Severity": 4,
    "Tactic": "Execution",
    "Technique": "PowerShell",
    "Objective": "Follow Through",
    "SensorId": AID,
    "ComputerName": "FIN-142",
    "UserName": "ada",
    "MachineDomain": "EXAMPLE",
    "LocalIP": "10.20.14.87",
    "FileName": "cmd.exe",
    "FilePath": "\\Device\\HarddiskVolume3\\Windows\\System32",
    "CommandLine": "cmd.exe /c whoami",
    "MD5String": "6ac5e4c66d56a4c2a2fab09e18bcc23f",
    "SHA1String": "0" * 40,
    "SHA256String": SHA256,
    "ProcessId": 289741187433,
    "ParentProcessId": 289734651298,
    "ProcessStartTime": 1749988800,
    "ProcessEndTime": 0,
    "PatternDispositionValue": 2048,
    "PatternDispositionDescription": "Prevention, process was blocked from execution.",
    "FalconHostLink": "https://falcon.example.org/activity/detections/1",
    "cid": "c4e1f8a2b7d94e0f9a6b3c2d1e0f4a5b",
    "timestamp": 1749988809885,
}


def _check_detection(event: dict[str, Any]) -> None:
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (2004, 1, 4)
    assert event["time"] == 1_749_988_809_885
    assert event["is_alert"] is True
    assert (event["action_id"], event["disposition_id"]) == (2, 2)
    assert event["finding_info"]["title"] == "Suspicious Activity"
    assert event["finding_info"]["attacks"] == [{"tactic": {"name": "Execution"}, "technique": {"name": "PowerShell"}}]
    assert event["finding_info"]["src_url"] == "https://falcon.example.org/activity/detections/1"
    assert event["message"] == "An Office application launched a shell."
    process = event["evidences"][0]["process"]
    assert (process["uid"], process["cmd_line"]) == ("289741187433", "cmd.exe /c whoami")
    assert process["created_time"] == 1_749_988_800_000
    assert process["file"]["hashes"][-1] == {"algorithm_id": 3, "value": SHA256}
    assert [each["algorithm_id"] for each in process["file"]["hashes"]] == [1, 3]
    assert process["parent_process"] == {"uid": "289734651298"}
    assert event["actor"]["user"]["name"] == "ada"
    assert event["device"] == {"uid": AID, "hostname": "FIN-142", "ip": "10.20.14.87", "type_id": 0}
    assert event["metadata"]["correlation_uid"] == f"{AID}:289741187433"


def test_a_detection_as_replicated(pipeline: Pipeline) -> None:
    event = one(pipeline, "crowdstrike", DETECTION)
    _check_detection(event)
    assert event["finding_info"]["uid"] == DETECTION["DetectId"]
    named = {key: value for key, value in DETECTION.items() if key != "ExternalApiType"}
    _check_detection(one(pipeline, "crowdstrike", {**named, "event_simpleName": "DetectionSummary"}))


def test_a_detection_as_streamed_under_its_newer_names(pipeline: Pipeline) -> None:
    names = {
        "DetectId": "CompositeId",
        "DetectName": "Name",
        "DetectDescription": "Description",
        "ComputerName": "Hostname",
        "SensorId": "AgentId",
    }
    inner = {
        names.get(key, key): value
        for key, value in DETECTION.items()
        if key not in ("ExternalApiType", "cid", "timestamp")
    }
    outer = {
        "customerIDString": DETECTION["cid"],
        "offset": 884213,
        "eventType": "EppDetectionSummaryEvent",
        "eventCreationTime": DETECTION["timestamp"],
        "version": "1.0",
    }
    event = one(pipeline, "crowdstrike", {"metadata": outer, "event": inner})
    _check_detection(event)
    assert event["metadata"]["tenant_uid"] == DETECTION["cid"]
    assert event["unmapped"]["metadata"]["offset"] == 884213


@pytest.mark.parametrize("time", ["1749988801", "1749988801.000", "1749988801000"])
def test_seconds_and_milliseconds_in_texts_are_told_apart(pipeline: Pipeline, time: str) -> None:
    event = one(pipeline, "crowdstrike", _event("AgentOnline", ContextTimeStamp=time))
    assert event["time"] == 1_749_988_801_000


def test_an_event_without_a_rule_keeps_host_and_content(pipeline: Pipeline) -> None:
    event = one(pipeline, "crowdstrike", _event("AgentOnline", BootArgs="x"))
    assert problem_of(event) is None
    assert event["class_uid"] == 0
    assert event["device"] == DEVICE
    assert event["unmapped"]["BootArgs"] == "x"
    assert event["metadata"]["correlation_uid"] == AID
