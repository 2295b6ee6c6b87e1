"""Events of the Windows Security channel, each as a template in three shapes.

Invariant: field names and value forms are those of Windows 10 and Server 2019 and later.
"""

from __future__ import annotations

from tidegate.generator.windows_shapes import Channel, Shapes, event

__all__ = ["SECURITY"]

_SECURITY = Channel("Security", "Microsoft-Windows-Security-Auditing", "54849625-5478-4994-A5BA-3E3B0328C30D", 0, 760)

_NOBODY = {"SubjectUserSid": "S-1-0-0", "SubjectUserName": "-", "SubjectDomainName": "-", "SubjectLogonId": "0x0"}
_SUBJECT = {
    "SubjectUserSid": "$sid", "SubjectUserName": "$user", "SubjectDomainName": "EXAMPLE", "SubjectLogonId": "0x$logon",
}  # fmt: skip
_TARGET = {
    "TargetUserSid": "$sid", "TargetUserName": "$user", "TargetDomainName": "EXAMPLE", "TargetLogonId": "0x$logon",
}  # fmt: skip
_NEW_ACCOUNT = {"TargetUserName": "$account", "TargetDomainName": "EXAMPLE", "TargetSid": "$account_sid"}
_ORIGIN = {"ProcessId": "0x0", "ProcessName": "-", "IpAddress": "$ip", "IpPort": "$port"}


def _security(number: int, task: int, title: str, fields: dict[str, str], version: int = 0) -> Shapes:
    audit = "FAILURE" if number == 4625 else "SUCCESS"
    return event(_SECURITY, number, task, title, fields, audit=audit, version=version)


SECURITY = {
    4624: _security(
        4624,
        12544,
        "An account was successfully logged on",
        {
            **_NOBODY,
            **_TARGET,
            "LogonType": "$logon_type",
            "LogonProcessName": "Kerberos",
            "AuthenticationPackageName": "Kerberos",
            "WorkstationName": "$workstation",
            "LogonGuid": "{$logon_guid}",
            "TransmittedServices": "-",
            "LmPackageName": "-",
            "KeyLength": "0",
            **_ORIGIN,
            "ImpersonationLevel": "%%1833",
            "RestrictedAdminMode": "-",
            "TargetOutboundUserName": "-",
            "TargetOutboundDomainName": "-",
            "VirtualAccount": "%%1843",
            "TargetLinkedLogonId": "0x0",
            "ElevatedToken": "%%1842",
        },
        2,
    ),
    4625: _security(
        4625,
        12544,
        "An account failed to log on",
        {
            **_NOBODY,
            "TargetUserSid": "S-1-0-0",
            "TargetUserName": "$user",
            "TargetDomainName": "EXAMPLE",
            "Status": "0xc000006d",
            "FailureReason": "%%2313",
            "SubStatus": "0xc000006a",
            "LogonType": "$logon_type",
            "LogonProcessName": "NtLmSsp ",
            "AuthenticationPackageName": "NTLM",
            "WorkstationName": "$workstation",
            "TransmittedServices": "-",
            "LmPackageName": "-",
            "KeyLength": "0",
            **_ORIGIN,
        },
    ),
    4634: _security(4634, 12545, "An account was logged off", {**_TARGET, "LogonType": "$logon_type"}),
    4672: _security(
        4672,
        12548,
        "Special privileges assigned to new logon",
        {**_SUBJECT, "PrivilegeList": "SeSecurityPrivilege\r\n\t\t\tSeBackupPrivilege\r\n\t\t\tSeDebugPrivilege"},
    ),
    4688: _security(
        4688,
        13312,
        "A new process has been created",
        {
            **_SUBJECT,
            "NewProcessId": "0x$pid_hex",
            "NewProcessName": "$image",
            "TokenElevationType": "%%1938",
            "ProcessId": "0x$parent_pid_hex",
            "CommandLine": "$command",
            "TargetUserSid": "S-1-0-0",
            "TargetUserName": "-",
            "TargetDomainName": "-",
            "TargetLogonId": "0x0",
            "ParentProcessName": "$parent_image",
            "MandatoryLabel": "S-1-16-8192",
        },
        2,
    ),
    4720: _security(
        4720,
        13824,
        "A user account was created",
        {
            **_NEW_ACCOUNT,
            **_SUBJECT,
            "PrivilegeList": "-",
            "SamAccountName": "$account",
            "DisplayName": "%%1793",
            "UserPrincipalName": "$account@corp.example.com",
            "PrimaryGroupId": "513",
            "OldUacValue": "0x0",
            "NewUacValue": "0x15",
        },
    ),
    4726: _security(4726, 13824, "A user account was deleted", {**_NEW_ACCOUNT, **_SUBJECT, "PrivilegeList": "-"}),
    4732: _security(
        4732,
        13826,
        "A member was added to a security-enabled local group",
        {
            "MemberName": "-",
            "MemberSid": "$account_sid",
            "TargetUserName": "Administrators",
            "TargetDomainName": "Builtin",
            "TargetSid": "S-1-5-32-544",
            **_SUBJECT,
            "PrivilegeList": "-",
        },
    ),
    4740: _security(
        4740,
        13824,
        "A user account was locked out",
        {
            "TargetUserName": "$user",
            "TargetDomainName": "$workstation",
            "TargetSid": "$sid",
            "SubjectUserSid": "S-1-5-18",
            "SubjectUserName": "DC01$",
            "SubjectDomainName": "EXAMPLE",
            "SubjectLogonId": "0x3e7",
        },
    ),
}
