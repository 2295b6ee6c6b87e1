"""What becomes of PowerShell's events in each shape of Windows records: flat, Winlogbeat, and EVTX rendered to JSON."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import one
from tests.pipeline.schema import problem_of
from tidegate.pipeline.runner import Pipeline

OPERATIONAL = ("Microsoft-Windows-PowerShell", "Microsoft-Windows-PowerShell/Operational")
CLASSIC = ("PowerShell", "Windows PowerShell")
SHAPES = ["flat", "winlogbeat", "evtx"]
BLOCK = "15df629b-a6ab-4bc7-96b1-4aad7d97503e"
HOST = "1372cbf7-30b6-4e48-bce6-058659e77cf4"
APPLICATION = "C:\\windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe -noP -w 1"


def _record(shape: str, event_id: int, log: tuple[str, str], data: Any, level: int, message: str) -> dict[str, Any]:
    """An event of host pc-7 in one of the shapes; `data` is named values, or the texts of a classic log."""
    provider, channel = log
    time = "2025-06-15T12:00:00.123Z"
    if shape == "evtx":
        return {
            "Event": {
                "#attributes": {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"},
                "System": {
                    "Provider": {"#attributes": {"Name": provider}},
                    "EventID": event_id
                    if log is OPERATIONAL
                    else {"#attributes": {"Qualifiers": 0}, "#text": event_id},
                    "Level": level,
                    "TimeCreated": {"#attributes": {"SystemTime": time}},
                    "EventRecordID": 17,
                    "Execution": {"#attributes": {"ProcessID": 7456, "ThreadID": 840}},
                    "Channel": channel,
                    "Computer": "pc-7",
                    "Security": {"#attributes": {"UserID": "S-1-5-21-1-2-3-1104"}},
                },
                "EventData": data if isinstance(data, dict) else {"Data": {"#text": data}, "Binary": None},
            }
        }
    named = data if isinstance(data, dict) else {f"param{number}": text for number, text in enumerate(data, 1)}
    if shape == "winlogbeat":
        return {
            "@timestamp": time,
            "message": message,
            "log": {"level": {3: "warning"}.get(level, "information")},
            "winlog": {
                "provider_name": provider,
                "event_id": str(event_id),
                "record_id": 17,
                "channel": channel,
                "computer_name": "pc-7",
                "process": {"pid": 7456, "thread": {"id": 840}},
                "user": {"identifier": "S-1-5-21-1-2-3-1104"},
                "event_data": named,
            },
        }
    return {
        "@timestamp": time,
        "SourceName": provider,
        "EventID": event_id,
        "Channel": channel,
        "Hostname": "pc-7",
        "Level": str(level),
        "RecordNumber": 17,
        "ExecutionProcessID": 7456,
        "UserID": "S-1-5-21-1-2-3-1104",
        "Message": message,
        **(data if isinstance(data, dict) else {}),
    }


def _event(pipeline: Pipeline, record: dict[str, Any]) -> dict[str, Any]:
    event = one(pipeline, "windows", record)
    assert problem_of(event) is None
    assert event["time"] == 1_749_988_800_123
    assert event["device"] == {"hostname": "pc-7", "type_id": 0}
    return event


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_of_a_script_block_share_its_id_and_are_numbered(pipeline: Pipeline, shape: str) -> None:
    for number in (1, 2):
        data = {
            "MessageNumber": str(number),
            "MessageTotal": "2",
            "ScriptBlockText": f"Get-Process # {number}",
            "ScriptBlockId": BLOCK,
            "Path": "C:\\tools\\list.ps1",
        }
        event = _event(pipeline, _record(shape, 4104, OPERATIONAL, data, 3, "Creating Scriptblock text"))
        assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (1009, 1, 3)
        assert event["script"] == {
            "type_id": 2,
            "uid": BLOCK,
            "script_content": {"value": f"Get-Process # {number}"},
            "file": {"name": "list.ps1", "path": "C:\\tools\\list.ps1", "type_id": 1},
        }
        assert event["metadata"]["correlation_uid"] == BLOCK
        assert event["metadata"]["sequence"] == number
        assert event["actor"]["process"] == {"pid": 7456}
        assert event["actor"]["user"] == {"uid": "S-1-5-21-1-2-3-1104"}
        assert event["unmapped"]["MessageTotal"] == "2"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_run_of_a_script_block_correlates_with_it(pipeline: Pipeline, shape: str) -> None:
    data = {"ScriptBlockId": BLOCK.upper(), "RunspaceId": "c8dcbdf2-4d7e-4438-a6b2-2483ab7be104"}
    event = _event(pipeline, _record(shape, 4105, OPERATIONAL, data, 5, "Started invocation"))
    assert event["metadata"]["correlation_uid"] == BLOCK


@pytest.mark.parametrize("shape", SHAPES)
def test_an_ordinary_script_block_is_no_warning(pipeline: Pipeline, shape: str) -> None:
    data = {"MessageNumber": "1", "MessageTotal": "1", "ScriptBlockText": "1", "ScriptBlockId": BLOCK, "Path": ""}
    event = _event(pipeline, _record(shape, 4104, OPERATIONAL, data, 5, "Creating Scriptblock text"))
    assert event["severity_id"] == 1
    assert "file" not in event["script"]


CONTEXT = (
    "        Severity = Informational\r\n        Host Name = ConsoleHost\r\n        Host Version = 5.1.18362.752\r\n"
    f"        Host ID = {HOST}\r\n        Host Application = {APPLICATION}\r\n"
    "        Engine Version = 5.1.18362.752\r\n        Command Name = New-Object\r\n"
    "        Script Name = C:\\tools\\list.ps1\r\n        Command Path = \r\n        User = SHIRE\\ada\r\n"
    "        Connected User = \r\n        Shell ID = Microsoft.PowerShell\r\n"
)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_command_tells_user_host_application_and_script(pipeline: Pipeline, shape: str) -> None:
    data = {"ContextInfo": CONTEXT, "UserData": "", "Payload": 'CommandInvocation(New-Object): "New-Object"'}
    event = _event(pipeline, _record(shape, 4103, OPERATIONAL, data, 4, "CommandInvocation"))
    assert (event["class_uid"], event["activity_id"]) == (1009, 1)
    assert event["script"] == {
        "type_id": 2,
        "script_content": {"value": 'CommandInvocation(New-Object): "New-Object"'},
        "file": {"name": "list.ps1", "path": "C:\\tools\\list.ps1", "type_id": 1},
    }
    assert event["actor"] == {
        "app_name": "PowerShell",
        "process": {"pid": 7456, "uid": HOST, "cmd_line": APPLICATION},
        "user": {"name": "ada", "domain": "SHIRE", "uid": "S-1-5-21-1-2-3-1104"},
    }
    assert event["metadata"]["correlation_uid"] == HOST
    assert event["unmapped"]["ContextInfo"] == CONTEXT


COMMAND = "if ($true) {\n  Get-Random -Max 9 }"
DETAILS = (
    "\tDetailSequence=1\r\n\tDetailTotal=1\r\n\r\n\tSequenceNumber=16262\r\n\r\n\tUserId=SHIRE\\ada\r\n"
    f"\tHostName=ConsoleHost\r\n\tHostVersion=5.1.18362.752\r\n\tHostId={HOST}\r\n\tHostApplication={APPLICATION}\r\n"
    "\tEngineVersion=5.1.18362.752\r\n\tRunspaceId=1\r\n\tPipelineId=1\r\n\tScriptName=\r\n"
    f"\tCommandLine={COMMAND}"
)
STATE = (
    "\tNewEngineState=Available\r\n\tPreviousEngineState=None\r\n\r\n\tSequenceNumber=13\r\n\r\n\tHostName=ConsoleHost\r\n"
    f"\tHostVersion=5.1.18362.752\r\n\tHostId={HOST}\r\n\tHostApplication={APPLICATION}\r\n"
    "\tEngineVersion=5.1.18362.752\r\n\tRunspaceId=1\r\n\tPipelineId=\r\n\tCommandLine="
)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pipeline_of_the_classic_log(pipeline: Pipeline, shape: str) -> None:
    message = (
        f"Pipeline execution details for command line: {COMMAND}. \r\n\r\nContext Information: \r\n{DETAILS} \r\n\r\n"
        'Details: \r\nCommandInvocation(Get-Random): "Get-Random"'
    )
    data = [COMMAND, DETAILS, 'CommandInvocation(Get-Random): "Get-Random"']
    event = _event(pipeline, _record(shape, 800, CLASSIC, data, 4, message))
    assert (event["class_uid"], event["activity_id"]) == (1009, 1)
    assert event["script"] == {"type_id": 2, "script_content": {"value": COMMAND}}
    assert event["actor"] == {
        "app_name": "PowerShell",
        "process": {"uid": HOST, "cmd_line": APPLICATION},
        "user": {"name": "ada", "domain": "SHIRE"},
    }
    assert event["metadata"]["correlation_uid"] == HOST


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("event_id", "activity"), [(400, 3), (403, 4), (600, 3)])
def test_the_engine_starts_and_stops(pipeline: Pipeline, shape: str, event_id: int, activity: int) -> None:
    message = f"Engine state is changed from None to Available. \r\n\r\nDetails: \r\n{STATE}"
    event = _event(pipeline, _record(shape, event_id, CLASSIC, ["Available", "None", STATE], 4, message))
    assert (event["class_uid"], event["activity_id"]) == (6002, activity)
    assert event["app"] == {"name": "PowerShell", "version": "5.1.18362.752"}
    assert event["actor"] == {"process": {"uid": HOST, "cmd_line": APPLICATION}}
    assert event["metadata"]["correlation_uid"] == HOST


def test_other_events_of_the_same_numbers_are_left_alone(pipeline: Pipeline) -> None:
    event = _event(pipeline, _record("flat", 400, ("Microsoft-Windows-Kernel-PnP", "System"), {}, 4, "Device"))
    assert event["class_uid"] == 0
