"""The three shapes in which agents write one Windows event.

Invariant: a shape differs in what surrounds the fields and in how numbers are written, never in the fields themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tidegate.generator.template import template

__all__ = ["Channel", "Shapes", "event"]

Shapes = tuple[str, str, str]
"""An event as Winlogbeat writes it through Logstash (flat, with a message), as NXLog does (flat), and as EVTX-JSON."""

# Numbers and booleans in EVTX-JSON, where the flat shapes write text.
_TYPED = {
    "ProcessId", "ParentProcessId", "SourceProcessId", "TargetProcessId", "SourceThreadId", "SourcePort", "LogonType",
    "DestinationPort", "TerminalSessionId", "KeyLength", "Initiated", "SourceIsIpv6", "DestinationIsIpv6",
    "MessageNumber", "MessageTotal",
}  # fmt: skip
_BOOLEANS = {"true": True, "false": False}


class Channel(NamedTuple):
    """An event channel and the provider that writes to it."""

    name: str
    provider: str
    guid: str
    level: int
    process_id: int


def event(
    channel: Channel, number: int, task: int, title: str, fields: dict[str, str], *, audit: str = "", version: int = 0
) -> Shapes:
    """The event in its three shapes; `audit` is success or failure in the Security channel."""
    keywords = {"": 1 << 63, "SUCCESS": (1 << 63) + (1 << 53), "FAILURE": (1 << 63) + (1 << 52)}[audit]
    failed = audit == "FAILURE"
    flat = {
        "SourceName": channel.provider,
        "ProviderGuid": f"{{{channel.guid.lower()}}}",
        "Level": str(channel.level),
        "Keywords": f"0x{keywords:x}",
        "Channel": channel.name,
        "Hostname": "$fqdn",
        "TimeCreated": "${iso}.${milli}Z",
        "@timestamp": "${iso}.${milli}Z",
        "EventID": number,
        "Message": _message(title, fields),
        "Task": str(task),
        **fields,
    }
    shipped = {
        "EventTime": "$date $clock",
        "Hostname": "$fqdn",
        "Keywords": keywords - (1 << 64),  # NXLog writes them as a signed number.
        "EventType": f"AUDIT_{audit}" if audit else "INFO",
        "SeverityValue": 4 if failed else 2,
        "Severity": "ERROR" if failed else "INFO",
        "EventID": number,
        "SourceName": channel.provider,
        "ProviderGuid": f"{{{channel.guid}}}",
        "Version": version,
        "Task": task,
        "OpcodeValue": 0,
        "RecordNumber": "#$record",
        "ExecutionProcessID": channel.process_id,
        "ThreadID": "#$thread",
        "Channel": channel.name,
        "Category": title,
        "Opcode": "Info",
        # NXLog keeps its own EventType and moves the event's aside.
        **{("EventTypeOriginal" if name == "EventType" else name): value for name, value in fields.items()},
        "EventReceivedTime": "$date $clock",
        "SourceModuleName": "eventlog",
        "SourceModuleType": "im_msvistalog",
        "@timestamp": "${iso}.${milli}Z",
        "@version": "1",
        "host": "wec01.corp.example.com",
        "port": 60412,
    }
    nested = {
        "Event": {
            "#attributes": {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"},
            "System": {
                "Provider": {"#attributes": {"Name": channel.provider, "Guid": channel.guid}},
                "EventID": number,
                "Version": version,
                "Level": channel.level,
                "Task": task,
                "Opcode": 0,
                "Keywords": f"0x{keywords:x}",
                "TimeCreated": {"#attributes": {"SystemTime": "${time}Z"}},
                "EventRecordID": "#$record",
                "Correlation": None,
                "Execution": {"#attributes": {"ProcessID": channel.process_id, "ThreadID": "#$thread"}},
                "Channel": channel.name,
                "Computer": "$fqdn",
                "Security": None if audit else {"#attributes": {"UserID": "S-1-5-18"}},
            },
            "EventData": {name: _typed(name, value) for name, value in fields.items()},
        }
    }
    return template(flat), template(shipped), template(nested)


def _typed(name: str, value: str) -> Any:
    if name in _TYPED and not value.startswith("0x"):
        return f"#{value}" if value.startswith("$") else _BOOLEANS[value] if value in _BOOLEANS else int(value)
    return value[1:-1] if value.startswith("{$") else value


def _message(title: str, fields: dict[str, str]) -> str:
    return "\r\n".join([f"{title}:", *(f"{name}: {value}" for name, value in fields.items())])
