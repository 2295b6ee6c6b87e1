"""What becomes of Entra's sign-in and audit records in the shapes of Graph and of Azure Monitor, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import one
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

SIGN_IN: dict[str, Any] = {
    "id": "66ea54eb-6301-4ee5-be62-ff5a759b0100",
    "createdDateTime": "2025-06-15T12:00:00.1234567Z",
    "userDisplayName": "Ada Byron",
    "userPrincipalName": "ada@example.org",
    "userId": "26be570a-ae82-4189-b4e2-a37c6808512d",
    "userType": "Member",
    "appId": "de8bc8b5-d9f9-48b1-a8ad-b748da725064",
    "appDisplayName": "Graph explorer",
    "ipAddress": "198.51.100.7",
    "clientAppUsed": "Browser",
    "correlationId": "d79f5bee-5860-4832-928f-3133e22ae912",
    "conditionalAccessStatus": "success",
    "isInteractive": True,
    "authenticationRequirement": "multiFactorAuthentication",
    "authenticationProtocol": "deviceCode",
    "riskLevelDuringSignIn": "medium",
    "resourceDisplayName": "Microsoft Graph",
    "resourceId": "00000003-0000-0000-c000-000000000000",
    "userAgent": "Mozilla/5.0",
    "status": {"errorCode": 50126, "failureReason": "Invalid username or password.", "additionalDetails": None},
    "deviceDetail": {
        "deviceId": "d-1",
        "displayName": "LAPTOP-7",
        "operatingSystem": "Windows 10",
        "browser": "Edge 98.0",
        "isCompliant": False,
        "isManaged": True,
        "trustType": "",
    },
    "location": {
        "city": "Turin",
        "state": "Piedmont",
        "countryOrRegion": "IT",
        "geoCoordinates": {"altitude": None, "latitude": 45.07, "longitude": 7.68},
    },
    "appliedConditionalAccessPolicies": [],
}

AUDIT: dict[str, Any] = {
    "id": "Directory_dcbf6e1c_7XBKU_4711",
    "category": "RoleManagement",
    "correlationId": "e1f237ef-6548-4172-be79-03818c04c06e",
    "result": "success",
    "resultReason": "",
    "activityDisplayName": "Add member to role",
    "activityDateTime": "2025-06-15T12:00:00.1234567Z",
    "loggedByService": "Core Directory",
    "operationType": "Assign",
    "initiatedBy": {
        "app": None,
        "user": {
            "id": "u-1",
            "displayName": "Ada Byron",
            "userPrincipalName": "ada@example.org",
            "ipAddress": "198.51.100.7",
        },
    },
    "targetResources": [
        {
            "id": "u-2",
            "displayName": "Grace Hopper",
            "type": "User",
            "userPrincipalName": "grace@example.org",
            "groupType": None,
            "modifiedProperties": [
                {"displayName": "Role.ObjectID", "oldValue": None, "newValue": '"r-9"'},
                {"displayName": "Role.DisplayName", "oldValue": None, "newValue": '"Global Reader"'},
            ],
        }
    ],
    "additionalDetails": [{"key": "User-Agent", "value": "portal/1.0"}],
}


def _monitor(record: dict[str, Any], category: str, operation: str) -> dict[str, Any]:
    """As Azure Monitor exports it."""
    return {
        "time": "2025-06-15T12:05:00.0000000Z",
        "resourceId": "/tenants/t-1/providers/Microsoft.aadiam",
        "operationName": operation,
        "operationVersion": "1.0",
        "category": category,
        "tenantId": "t-1",
        "resultSignature": "None",
        "durationMs": 0,
        "callerIpAddress": "198.51.100.7",
        "correlationId": record["correlationId"],
        "Level": 4,
        "location": "IT",
        "properties": record,
    }


def test_a_sign_in_as_graph_returns_it(pipeline: Pipeline) -> None:
    event = one(pipeline, "entra", SIGN_IN)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (3002, 1, 3)
    assert event["time"] == 1_749_988_800_123
    assert event["user"] == {
        "name": "ada@example.org",
        "uid": SIGN_IN["userId"],
        "full_name": "Ada Byron",
        "type": "Member",
        "type_id": 1,
    }
    assert event["actor"] == {"app_name": "Graph explorer", "app_uid": SIGN_IN["appId"]}
    assert event["service"] == {"name": "Microsoft Graph", "uid": SIGN_IN["resourceId"]}
    assert event["src_endpoint"] == {
        "ip": "198.51.100.7",
        "location": {"city": "Turin", "region": "Piedmont", "country": "IT", "lat": 45.07, "long": 7.68},
    }
    assert event["device"] == {
        "type_id": 0,
        "uid": "d-1",
        "name": "LAPTOP-7",
        "is_compliant": False,
        "is_managed": True,
        "os": {"name": "Windows 10", "type_id": 100},
    }
    assert (event["status_id"], event["status_code"]) == (2, "50126")
    assert event["status_detail"] == "Invalid username or password."
    assert event["is_mfa"] is True
    assert (event["auth_protocol"], event["auth_protocol_id"]) == ("deviceCode", 6)
    assert (event["risk_level"], event["risk_level_id"]) == ("medium", 2)
    metadata = event["metadata"]
    assert metadata["uid"] == SIGN_IN["id"]
    assert metadata["correlation_uid"] == SIGN_IN["correlationId"]
    assert metadata["profiles"] == ["host", "security_control"]


def test_azure_monitor_gives_the_same_as_graph_and_more(pipeline: Pipeline) -> None:
    graph = one(pipeline, "entra", SIGN_IN)
    monitor = one(pipeline, "entra", _monitor(SIGN_IN, "SignInLogs", "Sign-in activity"))
    assert problem_of(monitor) is None
    for name in (
        "time",
        "type_uid",
        "user",
        "actor",
        "service",
        "src_endpoint",
        "device",
        "status_id",
        "is_mfa",
        "severity_id",
    ):
        assert monitor[name] == graph[name]
    assert monitor["metadata"]["uid"] == graph["metadata"]["uid"]
    assert monitor["metadata"]["log_name"] == "SignInLogs"
    assert monitor["metadata"]["tenant_uid"] == "t-1"
    assert monitor["unmapped"]["settingResourceId"] == "/tenants/t-1/providers/Microsoft.aadiam"
    assert monitor["unmapped"]["country"] == "IT"


def test_a_service_principal_signs_in(pipeline: Pipeline) -> None:
    record = {
        "id": "5c1b1a3e-0000-4000-8000-000000000001",
        "createdDateTime": "2025-06-15T12:00:00Z",
        "correlationId": "c-1",
        "appId": "a-1",
        "servicePrincipalId": "sp-1",
        "servicePrincipalName": "backup",
        "ipAddress": "198.51.100.7",
        "resourceDisplayName": "Azure Key Vault",
        "status": {"errorCode": 0},
    }
    event = one(pipeline, "entra", _monitor(record, "ServicePrincipalSignInLogs", "Sign-in activity"))
    assert problem_of(event) is None
    assert event["user"] == {"name": "backup", "uid": "sp-1", "type_id": 4}
    assert event["status_id"] == 1


@pytest.mark.parametrize("shape", ["graph", "monitor"])
def test_a_role_is_given(pipeline: Pipeline, shape: str) -> None:
    record = AUDIT if shape == "graph" else _monitor(AUDIT, "AuditLogs", "Add member to role")
    event = one(pipeline, "entra", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (3005, 1, 3)
    assert event["time"] == 1_749_988_800_123
    assert event["user"] == {"name": "grace@example.org", "uid": "u-2", "full_name": "Grace Hopper"}
    assert event["actor"]["user"] == {"name": "ada@example.org", "uid": "u-1", "full_name": "Ada Byron"}
    assert event["privileges"] == ["Global Reader"]
    assert event["src_endpoint"] == {"ip": "198.51.100.7"}
    assert event["http_request"] == {"user_agent": "portal/1.0"}
    assert (event["status"], event["status_id"]) == ("success", 1)
    metadata = event["metadata"]
    assert metadata["correlation_uid"] == AUDIT["correlationId"]
    assert metadata["uid"] == one(pipeline, "entra", AUDIT)["metadata"]["uid"]
    assert metadata["log_provider"] == "Core Directory"


MEMBER = {
    "id": "u-2",
    "type": "User",
    "userPrincipalName": "grace@example.org",
    "modifiedProperties": [{"displayName": "Group.DisplayName", "oldValue": None, "newValue": '"Admirals"'}],
}


@pytest.mark.parametrize(
    ("changes", "name", "activity", "expected"),
    [
        ({"activityDisplayName": "Disable account"}, "account_change", 5, {}),
        ({"activityDisplayName": "User deleted security info"}, "account_change", 11, {}),
        (
            {
                "activityDisplayName": "Add member to group",
                "targetResources": [MEMBER, {"id": "g-1", "type": "Group", "displayName": None}],
            },
            "group_management",
            3,
            {"group": {"name": "Admirals", "uid": "g-1"}, "user": {"name": "grace@example.org", "uid": "u-2"}},
        ),
        (
            {
                "activityDisplayName": "Add service principal credentials",
                "targetResources": [{"id": "sp-1", "type": "ServicePrincipal", "displayName": "backup"}],
            },
            "application_lifecycle",
            8,
            {"app": {"name": "backup", "uid": "sp-1"}},
        ),
        (
            {
                "activityDisplayName": "Update conditional access policy",
                "operationType": "Update",
                "targetResources": [{"id": "p-1", "type": "Policy", "displayName": "Block legacy"}],
                "result": "failure",
                "resultReason": "not allowed",
            },
            "entity_management",
            3,
            {
                "entity": {"name": "Block legacy", "uid": "p-1", "type": "Policy"},
                "status_id": 2,
                "status_detail": "not allowed",
            },
        ),
    ],
)
def test_each_kind_of_audit_record_has_its_class(
    pipeline: Pipeline, changes: dict[str, Any], name: str, activity: int, expected: dict[str, Any]
) -> None:
    event = one(pipeline, "entra", {**AUDIT, **changes})
    assert problem_of(event) is None
    assert (CLASS_NAMES[event["class_uid"]], event["activity_id"]) == (name, activity)
    assert {key: event[key] for key in expected} == expected


def test_an_application_acts(pipeline: Pipeline) -> None:
    initiator = {"app": {"displayName": "Sync", "appId": None, "servicePrincipalId": "sp-9"}, "user": None}
    event = one(pipeline, "entra", {**AUDIT, "activityDisplayName": "Update user", "initiatedBy": initiator})
    assert problem_of(event) is None
    assert event["actor"] == {"app_name": "Sync", "app_uid": "sp-9"}


def test_elevated_access_is_given_to_who_takes_it(pipeline: Pipeline) -> None:
    operation = "User has elevated their access to User Access Administrator for their Azure Resources"
    record = {key: value for key, value in AUDIT.items() if key not in ("activityDisplayName", "targetResources")}
    event = one(pipeline, "entra", _monitor(record, "AuditLogs", operation))
    assert problem_of(event) is None
    assert (event["class_uid"], event["severity_id"]) == (3005, 4)
    assert event["user"]["name"] == event["actor"]["user"]["name"] == "ada@example.org"
