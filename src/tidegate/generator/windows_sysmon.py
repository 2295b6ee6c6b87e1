"""Sysmon and PowerShell events, each as a template in three shapes.

Invariant: field names and value forms are those of Sysmon 15 and of PowerShell's script block log.
"""

from __future__ import annotations

from tidegate.generator.windows_shapes import Channel, Shapes, event

__all__ = ["SHELL", "SYSMON"]

_SYSMON = Channel(
    "Microsoft-Windows-Sysmon/Operational", "Microsoft-Windows-Sysmon", "5770385F-C22A-43E0-BF4C-06F5698FFBD9", 4, 3172
)
_SHELL = Channel(
    "Microsoft-Windows-PowerShell/Operational",
    "Microsoft-Windows-PowerShell",
    "A0C1853B-5C40-4B15-8766-3CF1C58F985A",
    5,
    5120,
)

_PROCESS = {"RuleName": "-", "UtcTime": "$date $clock.$milli", "ProcessGuid": "{$guid}", "ProcessId": "$pid"}
_SIGNED = {
    "FileVersion": "10.0.22621.1 (WinBuild.160101.0800)",
    "Description": "$description",
    "Product": "Microsoft® Windows® Operating System",
    "Company": "Example Software",
    "OriginalFileName": "$original",
}


def _sysmon(number: int, title: str, fields: dict[str, str], version: int) -> Shapes:
    return event(_SYSMON, number, number, title, fields, version=version)


SYSMON = {
    1: _sysmon(
        1,
        "Process Create",
        {
            **_PROCESS,
            "Image": "$image",
            **_SIGNED,
            "CommandLine": "$command",
            "CurrentDirectory": "C:\\Windows\\System32\\",
            "User": "EXAMPLE\\$user",
            "LogonGuid": "{$logon_guid}",
            "LogonId": "0x$logon",
            "TerminalSessionId": "1",
            "IntegrityLevel": "Medium",
            "Hashes": "$hashes",
            "ParentProcessGuid": "{$parent_guid}",
            "ParentProcessId": "$parent_pid",
            "ParentImage": "$parent_image",
            "ParentCommandLine": "$parent_command",
        },
        5,
    ),
    3: _sysmon(
        3,
        "Network connection detected",
        {
            **_PROCESS,
            "Image": "$image",
            "User": "EXAMPLE\\$user",
            "Protocol": "tcp",
            "Initiated": "true",
            "SourceIsIpv6": "false",
            "SourceIp": "$src_ip",
            "SourceHostname": "$fqdn",
            "SourcePort": "$src_port",
            "SourcePortName": "-",
            "DestinationIsIpv6": "false",
            "DestinationIp": "$dest_ip",
            "DestinationHostname": "-",
            "DestinationPort": "$dest_port",
            "DestinationPortName": "-",
        },
        5,
    ),
    5: _sysmon(5, "Process terminated", {**_PROCESS, "Image": "$image"}, 3),
    7: _sysmon(
        7,
        "Image loaded",
        {
            **_PROCESS,
            "Image": "$image",
            "ImageLoaded": "$module",
            **_SIGNED,
            "Hashes": "$module_hashes",
            "Signed": "true",
            "Signature": "Microsoft Windows",
            "SignatureStatus": "Valid",
        },
        3,
    ),
    10: _sysmon(
        10,
        "Process accessed",
        {
            "RuleName": "-",
            "UtcTime": "$date $clock.$milli",
            "SourceProcessGUID": "{$guid}",
            "SourceProcessId": "$pid",
            "SourceThreadId": "$thread",
            "SourceImage": "$image",
            "TargetProcessGUID": "{$target_guid}",
            "TargetProcessId": "$target_pid",
            "TargetImage": "$target_image",
            "GrantedAccess": "0x$access",
            "CallTrace": "C:\\Windows\\SYSTEM32\\ntdll.dll+9d4c4|C:\\Windows\\System32\\rpcrt4.dll+2c13e|$module+1a2f",
        },
        3,
    ),
    11: _sysmon(
        11,
        "File created",
        {**_PROCESS, "Image": "$image", "TargetFilename": "$file", "CreationUtcTime": "$date $clock.$milli"},
        2,
    ),
    13: _sysmon(
        13,
        "Registry value set",
        {
            "RuleName": "-",
            "EventType": "SetValue",
            **{name: value for name, value in _PROCESS.items() if name != "RuleName"},
            "Image": "$image",
            "TargetObject": "$key",
            "Details": "DWORD (0x0000000$digit)",
        },
        2,
    ),
    22: _sysmon(
        22,
        "Dns query",
        {**_PROCESS, "QueryName": "$site", "QueryStatus": "0", "QueryResults": "::ffff:$rdata;", "Image": "$image"},
        5,
    ),
}

SHELL = event(
    _SHELL,
    4104,
    2,
    "Creating Scriptblock text (1 of 1)",
    {
        "MessageNumber": "1",
        "MessageTotal": "1",
        "ScriptBlockText": "$script",
        "ScriptBlockId": "$block",
        "Path": "$path",
    },
    version=1,
)
