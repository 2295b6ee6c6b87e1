"""Records of the cloud sources become events of the right class with the right attributes, however they are wrapped."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.cloud_records import RECORDS, WRAPPED, base
from tests.pipeline.data import ODD, RECEIVED_MS, distort, lost, one, run
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

_ALL = [(source, name) for source, records in RECORDS.items() for name in records]
_RULED = [source for source in RECORDS if source != "ocsf"]

EXPECTED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "aws_cloudtrail": {
        "read": (
            "api_activity",
            {
                "time": 1_772_358_240_000,
                "activity_id": 2,
                "metadata.uid": "3f0a6c1e-0f7b-4c55-9a53-0a1b2c3d4e5f",
                "metadata.correlation_uid": "ASIAEXAMPLE7",
                "api.operation": "GetObject",
                "cloud.region": "eu-west-1",
                "cloud.account.uid": "111122223333",
                "src_endpoint.ip": "203.0.113.9",
            },
        ),
        "sign_in": ("authentication", {"status_id": 2, "user.name": "mira", "src_endpoint.ip": "203.0.113.9"}),
    },
    "aws_guardduty": {
        "api": (
            "detection_finding",
            {
                "time": 1_772_358_000_456,
                "activity_id": 2,
                "severity_id": 4,
                "is_alert": True,
                "count": 4,
                "metadata.event_code": "Discovery:IAMUser/AnomalousBehavior",
                "metadata.correlation_uid": "AKIAEXAMPLE7",
                "cloud": {
                    "provider": "AWS",
                    "region": "eu-west-1",
                    "account": {"uid": "111122223333", "type_id": 10},
                    "cloud_partition": "aws",
                },
                "finding_info.uid": "f4c1d2e3a5b6978877665544332211aa",
                "finding_info.types": ["Discovery:IAMUser/AnomalousBehavior"],
                "finding_info.first_seen_time": 1_772_352_000_000,
                "evidences.0.actor.user": {
                    "name": "mira",
                    "uid": "AIDAEXAMPLE",
                    "type": "IAMUser",
                    "type_id": 1,
                    "credential_uid": "AKIAEXAMPLE7",
                },
                "evidences.0.api": {
                    "operation": "ListBuckets",
                    "service": {"name": "s3.amazonaws.com"},
                    "response": {"error": "AccessDenied"},
                },
                "evidences.0.src_endpoint": {"ip": "203.0.113.9"},
            },
        ),
        "inbound": (
            "detection_finding",
            {
                "severity_id": 3,
                "evidences.0.src_endpoint": {"ip": "203.0.113.9", "port": 51234},
                "evidences.0.dst_endpoint": {"ip": "10.1.2.3", "port": 22},
                "evidences.0.connection_info.direction_id": 1,
                "resources": [{"uid": "i-0abc", "type": "EC2 instance"}],
                "metadata.correlation_uid": "i-0abc",
            },
        ),
        "outbound": (
            "detection_finding",
            {
                "evidences.0.src_endpoint": {"ip": "10.1.2.3", "port": 22},
                "evidences.0.dst_endpoint": {"ip": "203.0.113.9", "port": 51234},
                "evidences.0.connection_info.direction_id": 2,
            },
        ),
        "dns": ("detection_finding", {"evidences.0.query.hostname": "bad.example.com"}),
        "bucket": (
            "detection_finding",
            {
                "resources": [
                    {"name": "pay", "uid": "arn:aws:s3:::pay", "type": "S3 bucket"},
                    {"name": "hr", "uid": "arn:aws:s3:::hr", "type": "S3 bucket"},
                ]
            },
        ),
        "runtime": (
            "detection_finding",
            {"activity_id": 3, "evidences.0.process.pid": 7, "evidences.0.process.user.name": "root"},
        ),
        "kubernetes": (
            "detection_finding",
            {"evidences.0.api.operation": "list", "evidences.0.actor.user.name": "system:anonymous"},
        ),
        "database": (
            "detection_finding",
            {"evidences.0": {"src_endpoint": {"ip": "203.0.113.9"}, "user": {"name": "admin"}}},
        ),
    },
    "gcp_audit": {
        "activity": (
            "api_activity",
            {
                "time": 1_772_445_600_123,
                "activity_id": 1,
                "severity_id": 1,
                "status_id": 1,
                "api": {
                    "operation": "v1.compute.instances.insert",
                    "service": {"name": "compute.googleapis.com"},
                    "request": {"uid": "Unknown", "data": {"name": "web-1"}},
                    "response": {"data": {"status": "RUNNING"}},
                },
                "actor.user": {"name": "ada@example.com", "uid": "user:ada@example.com"},
                "src_endpoint": {"ip": "203.0.113.20"},
                "cloud": {
                    "provider": "GCP",
                    "zone": "europe-west1-b",
                    "account": {"uid": "acme-prod", "type_id": 11},
                    "project_uid": "acme-prod",
                },
                "resources": [
                    {"name": "projects/acme-prod/zones/europe-west1-b/instances/web-1", "type": "gce_instance"}
                ],
                "metadata.correlation_uid": "ada@example.com",
                "metadata.logged_time": 1_772_445_601_500,
            },
        ),
        "data_access": (
            "api_activity",
            {
                "activity_id": 2,
                "severity_id": 3,
                "status_id": 2,
                "status_code": "7",
                "status_detail": "PERMISSION_DENIED",
            },
        ),
        "system_event": ("api_activity", {"actor": {"app_name": "compute.googleapis.com"}}),
        "policy_denied": ("api_activity", {"action_id": 2, "disposition_id": 2, "status_id": 2, "severity_id": 3}),
        "sign_in": (
            "authentication",
            {"activity_id": 1, "status_id": 2, "user.name": "ada@example.com", "service.name": "login.googleapis.com"},
        ),
        "service_account": (
            "account_change",
            {
                "activity_id": 1,
                "user": {"name": "ci@acme-prod.iam.gserviceaccount.com", "uid": "110022", "type_id": 4},
                "actor.user.name": "ada@example.com",
            },
        ),
        "iam_policy": (
            "user_access",
            {"activity_id": 1, "user.name": "eve@example.net", "privileges": ["roles/owner", "roles/viewer"]},
        ),
        "redacted": (
            "api_activity",
            {
                "actor": {"app_uid": "Unknown"},
                "src_endpoint": {"svc_name": "gce-internal-ip"},
                "metadata.correlation_uid": "acme-prod:gce-internal-ip",
            },
        ),
        "request": (
            "http_activity",
            {
                "activity_id": 3,
                "action_id": 2,
                "http_request.url.url_string": "https://shop.example.com/a?b=c",
                "http_response.code": 403,
                "src_endpoint.ip": "203.0.113.9",
                "dst_endpoint.ip": "10.0.0.7",
            },
        ),
    },
    "kubernetes_audit": {
        "get": (
            "api_activity",
            {
                "time": 1_772_535_600_250,
                "start_time": 1_772_535_600_000,
                "activity_id": 2,
                "status_id": 1,
                "action_id": 1,
                "actor.user": {
                    "name": "system:serviceaccount:shop:deployer",
                    "uid": "5d2f",
                    "type_id": 4,
                    "credential_uid": "ASIAEXAMPLE",
                    "groups": [{"name": "system:serviceaccounts"}, {"name": "system:authenticated"}],
                },
                "src_endpoint": {"ip": "198.51.100.4", "intermediate_ips": ["10.0.0.2"]},
                "api.request.uid": "0c5c4c2e-5c1f-4b6d-9f3a-1d2e3f405162",
                "resources": [{"name": "web-0", "uid": "77aa", "type": "pods", "namespace": "shop"}],
                "http_request.url.path": "/api/v1/namespaces/shop/pods/web-0",
                "metadata.correlation_uid": "system:serviceaccount:shop:deployer",
            },
        ),
        "list": (
            "api_activity",
            {"status_id": 2, "status_code": "403", "action_id": 2, "resources.0.name": "secrets"},
        ),
        "exec": ("api_activity", {"activity_id": 99, "severity_id": 2, "status_id": 1}),
        "service_account": (
            "account_change",
            {"activity_id": 1, "user": {"name": "robot", "domain": "shop", "type_id": 4}},
        ),
        "rbac": (
            "entity_management",
            {
                "activity_id": 1,
                "entity": {"name": "all-power", "type": "clusterrolebindings", "type_id": 5},
                "api.group.name": "rbac.authorization.k8s.io",
                "api.request.data.roleRef.name": "cluster-admin",
            },
        ),
        "anonymous": ("api_activity", {"actor.user.name": "Unknown", "src_endpoint": {"ip": "::1"}, "status_id": 2}),
    },
    "azure_activity": {
        "write": (
            "api_activity",
            {
                "time": 1_772_625_600_123,
                "activity_id": 3,
                "severity_id": 1,
                "status_id": 99,
                "status": "Start",
                "actor": {
                    "user": {"name": "ada@example.com", "uid": "0d0d-ada"},
                    "app_uid": "c44b4083-0000-4000-8000-000000000003",
                },
                "src_endpoint": {"ip": "203.0.113.30", "port": 50123},
                "api.operation": "MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE",
                "api.service.name": "MICROSOFT.COMPUTE",
                "api.request.data": '{"a":1}',
                "resources.0.name": "VM-1",
                "cloud.account": {"uid": "0b1c2d3e-0000-4000-8000-000000000001", "type_id": 13},
                "cloud.region": "westeurope",
                "metadata.tenant_uid": "7e7e7e7e-0000-4000-8000-000000000004",
                "metadata.correlation_uid": "0d0d-ada",
            },
        ),
        "action": ("api_activity", {"activity_id": 3, "status_id": 2}),
        "rest": (
            "api_activity",
            {
                "time": 1_772_625_601_500,
                "activity_id": 4,
                "severity_id": 2,
                "status_id": 1,
                "api.operation": "Microsoft.KeyVault/vaults/delete",
                "actor.user": {"name": "ada@example.com", "uid": "0d0d-ada"},
                "src_endpoint.ip": "203.0.113.30",
                "metadata.uid": "f5f5f5f5-0000-4000-8000-000000000005",
                "metadata.log_name": "Administrative",
            },
        ),
        "security": (
            "detection_finding",
            {
                "severity_id": 4,
                "is_alert": True,
                "finding_info.title": "Suspicious sign-in to a virtual machine",
                "evidences.0": {
                    "src_endpoint": {"ip": "198.51.100.77"},
                    "dst_endpoint": {"name": "VM-1"},
                    "user": {"name": "root"},
                },
            },
        ),
        "health": ("base_event", {"message": "Degraded", "metadata.log_name": "ResourceHealth", "severity_id": 1}),
        "storage": (
            "api_activity",
            {"activity_id": 2, "status_id": 2, "status_code": "403", "resources.0.name": "salaries.xlsx"},
        ),
    },
    "m365_unified_audit": {
        "sign_in": (
            "authentication",
            {
                "time": 1_772_715_600_000,
                "activity_id": 1,
                "status_id": 2,
                "status_code": "50126",
                "user": {"name": "ada@example.com", "uid": "10030000A1B2C3D4", "type_id": 1},
                "src_endpoint": {"ip": "203.0.113.40"},
                "http_request.user_agent": "Mozilla/5.0",
                "actor.app_uid": "4345a7b9",
                "cloud.account": {"uid": "7e7e7e7e-0000-4000-8000-000000000004", "type_id": 17},
                "metadata.uid": "6f1e2d3c-4b5a-4968-8776-5544332211ff",
                "metadata.event_code": "UserLoginFailed",
                "metadata.log_name": "AzureActiveDirectory",
                "metadata.correlation_uid": "7e7e7e7e-0000-4000-8000-000000000004:ada@example.com",
            },
        ),
        "account": (
            "account_change",
            {"activity_id": 4, "user": {"name": "bob@example.com"}, "actor.user.name": "ada@example.com"},
        ),
        "group_joined": (
            "group_management",
            {"activity_id": 3, "group": {"name": "Payroll", "uid": "9a9a"}, "user.name": "bob@example.com"},
        ),
        "role_granted": (
            "user_access",
            {
                "activity_id": 1,
                "severity_id": 3,
                "privileges": ["Global Administrator"],
                "user.name": "bob@example.com",
            },
        ),
        "directory": (
            "entity_management",
            {"activity_id": 1, "entity": {"name": "Backup tool", "type": "ServicePrincipal"}},
        ),
        "exchange_admin": (
            "api_activity",
            {
                "activity_id": 1,
                "status_id": 1,
                "api.operation": "New-InboxRule",
                "api.request.data": [{"Name": "ForwardTo", "Value": "eve@example.net"}],
                "src_endpoint": {"ip": "2001:db8::7", "port": 51000},
                "metadata.correlation_uid": "s-9",
            },
        ),
        "mail_sent": (
            "email_activity",
            {
                "activity_id": 1,
                "email": {
                    "from": "boss@example.com",
                    "subject": "Invoice",
                    "message_uid": "<m1@example.com>",
                    "uid": "i-1",
                    "size": 4096,
                },
                "actor.user.name": "ada@example.com",
            },
        ),
        "mailbox": (
            "api_activity",
            {"activity_id": 2, "resources": [{"name": "boss@example.com", "uid": "mb-1", "type": "Mailbox"}]},
        ),
        "mailbox_sign_in": ("authentication", {"status_id": 1, "service.name": "Exchange"}),
        "file": (
            "file_hosting",
            {
                "activity_id": 2,
                "file.name": "salaries.xlsx",
                "file.type_id": 1,
                "file.ext": "xlsx",
                "file.path": "Shared Documents/pay",
                "file.url.url_string": "https://example.sharepoint.com/sites/hr/Shared Documents/pay/salaries.xlsx",
                "actor.session.uid": "s-1",
                "actor.app_uid": "app-1",
                "metadata.correlation_uid": "s-1",
            },
        ),
        "file_moved": (
            "file_hosting",
            {"activity_id": 7, "file_result": {"name": "x.xlsx", "type_id": 1, "path": "Public"}},
        ),
        "shared": ("file_hosting", {"activity_id": 12}),
        "site": (
            "web_resources_activity",
            {"activity_id": 3, "web_resources.0.url_string": "https://example.sharepoint.com/sites/hr"},
        ),
        "power_bi": (
            "web_resources_activity",
            {
                "activity_id": 7,
                "status_id": 1,
                "web_resources": [{"name": "Revenue", "uid": "r-1", "type": "PowerBIReport"}],
            },
        ),
        "teams_sign_in": ("authentication", {"user.name": "ada@example.com", "service.name": "MicrosoftTeams"}),
        "team": (
            "group_management",
            {
                "activity_id": 3,
                "group": {"name": "Deal room", "uid": "19:abc@thread.skype"},
                "user.name": "eve@example.net",
            },
        ),
        "alert": (
            "detection_finding",
            {
                "activity_id": 1,
                "severity_id": 4,
                "status_id": 1,
                "finding_info.uid": "al-1",
                "finding_info.title": "Suspicious email forwarding",
                "finding_info.analytic": {"type_id": 1, "uid": "po-1"},
                "metadata.correlation_uid": "al-1",
            },
        ),
        "threat": (
            "detection_finding",
            {
                "severity_id": 4,
                "disposition_id": 2,
                "evidences.0.email": {
                    "from": "boss@example.com",
                    "to": ["ada@example.com", "bob@example.com"],
                    "subject": "Invoice",
                    "smtp_from": "eve@example.net",
                },
                "evidences.0.src_endpoint.ip": "198.51.100.77",
                "metadata.correlation_uid": "nm-1",
            },
        ),
        "dlp": (
            "data_security_finding",
            {
                "activity_id": 1,
                "severity_id": 4,
                "finding_info.title": "Card numbers",
                "actor.user.name": "ada@example.com",
                "resources": [{"name": "list", "uid": "<m>", "type": "Email"}],
                "metadata.correlation_uid": "in-1",
            },
        ),
        "compliance": ("api_activity", {"activity_id": 2, "api.service.name": "SecurityComplianceCenter"}),
    },
}


def _at(event: Any, path: str) -> Any:
    for step in path.split("."):
        event = event[int(step)] if isinstance(event, list) else event.get(step)
    return event


def test_every_record_has_its_expectations() -> None:
    assert {source: set(EXPECTED[source]) for source in _RULED} == {source: set(RECORDS[source]) for source in _RULED}


@pytest.mark.parametrize(("source", "name"), [each for each in _ALL if each[0] in _RULED])
def test_a_record_becomes_what_it_says(pipeline: Pipeline, source: str, name: str) -> None:
    wanted, attributes = EXPECTED[source][name]
    event = one(pipeline, source, RECORDS[source][name])
    assert problem_of(event) is None
    assert CLASS_NAMES[event["class_uid"]] == wanted
    assert {path: _at(event, path) for path in attributes} == attributes
    assert not lost(RECORDS[source][name], event)


@pytest.mark.parametrize(("source", "name", "record"), [(s, *each) for s, found in WRAPPED.items() for each in found])
def test_a_wrapped_record_becomes_what_it_becomes_bare(
    pipeline: Pipeline, source: str, name: str, record: dict[str, Any]
) -> None:
    wrapped, bare = one(pipeline, source, record), one(pipeline, source, RECORDS[source][name])
    assert problem_of(wrapped) is None
    assert {key: value for key, value in wrapped.items() if key != "unmapped"} == {
        key: value for key, value in bare.items() if key != "unmapped"
    }


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("aws_cloudtrail", "Records"),
        ("aws_guardduty", "findings"),
        ("azure_activity", "records"),
        ("m365_unified_audit", "records"),
        ("gcp_audit", "entries"),
    ],
)
def test_several_records_in_one_object_stay_together_in_a_base_event(pipeline: Pipeline, source: str, key: str) -> None:
    several = list(RECORDS[source].values())[:2]
    event = one(pipeline, source, {key: several})
    assert (event["class_uid"], event["time"]) == (0, RECEIVED_MS)
    assert event["unmapped"] == {key: several}


def test_a_record_without_its_usual_fields_is_still_an_event_of_its_class(pipeline: Pipeline) -> None:
    for source, record, wanted in [
        ("aws_guardduty", {"type": "Recon:EC2/Portscan"}, "detection_finding"),
        ("azure_activity", {"operationName": "Microsoft.Web/sites/read"}, "api_activity"),
        ("gcp_audit", {"protoPayload": {"methodName": "storage.objects.get"}}, "api_activity"),
        ("kubernetes_audit", {"verb": "get"}, "api_activity"),
        ("m365_unified_audit", {"Operation": "Anything"}, "api_activity"),
    ]:
        event = one(pipeline, source, record)
        assert problem_of(event) is None
        assert (CLASS_NAMES[event["class_uid"]], event["time"]) == (wanted, RECEIVED_MS)


def test_placeholders_for_what_is_not_there_are_no_values(pipeline: Pipeline) -> None:
    event = one(
        pipeline, "m365_unified_audit", base("m365_unified_audit", "account", ObjectId="Not Available", UserId="")
    )
    assert event["user"]["name"] == "Unknown"
    assert "name" not in event["actor"]["user"]
    assert event["metadata"]["correlation_uid"] == event["metadata"]["uid"]
    event = one(pipeline, "azure_activity", base("azure_activity", "write", callerIpAddress="", identity="redacted"))
    assert event["src_endpoint"] == {"svc_name": "Unknown"}
    assert event["unmapped"]["identity"] == "redacted"


def test_changes_of_a_policy_for_several_principals_are_not_ascribed_to_one(pipeline: Pipeline) -> None:
    record = base("gcp_audit", "iam_policy")
    record["protoPayload"]["serviceData"]["policyDelta"]["bindingDeltas"][1] |= {
        "action": "REMOVE",
        "member": "group:x@y.z",
    }
    event = one(pipeline, "gcp_audit", record)
    assert (event["user"]["name"], event["activity_id"]) == ("Several", 99)
    assert not lost(record, event)


def test_an_update_of_a_finding_is_another_event_of_the_same_finding(pipeline: Pipeline) -> None:
    first = one(pipeline, "aws_guardduty", RECORDS["aws_guardduty"]["api"])
    again = one(pipeline, "aws_guardduty", base("aws_guardduty", "api", updatedAt="2026-03-01T10:00:00.000Z"))
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert again["finding_info"]["uid"] == first["finding_info"]["uid"]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from([each for each in _ALL if each[0] in _RULED]), path=st.lists(st.integers(0, 60)), odd=ODD)
def test_a_record_with_an_odd_value_is_a_valid_event_or_a_dead_letter(
    pipeline: Pipeline, which: tuple[str, str], path: list[int], odd: Any
) -> None:
    record = base(*which)
    distort(record, path, odd)
    events, _ = run(pipeline, which[0], [msgspec.json.encode(record)])
    for event in events:
        assert problem_of(event) is None
        assert not lost(record, event)
