"""What becomes of records of Okta's System Log, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import RECEIVED_MS, one
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

SIGN_IN: dict[str, Any] = {
    "actor": {
        "id": "00u1a2b3c4",
        "type": "User",
        "alternateId": "ada@example.org",
        "displayName": "Ada Byron",
        "detailEntry": None,
    },
    "client": {
        "userAgent": {"rawUserAgent": "Mozilla/5.0", "os": "Windows 10", "browser": "FIREFOX"},
        "zone": "null",
        "device": "Computer",
        "id": None,
        "ipAddress": "198.51.100.7",
        "geographicalContext": {
            "city": "Turin",
            "state": "Piedmont",
            "country": "Italy",
            "postalCode": "10121",
            "geolocation": {"lat": 45.07, "lon": 7.68},
        },
    },
    "device": None,
    "authenticationContext": {
        "authenticationProvider": None,
        "credentialProvider": None,
        "credentialType": None,
        "issuer": None,
        "interface": None,
        "authenticationStep": 0,
        "externalSessionId": "102Zo-abc",
    },
    "displayMessage": "User single sign on to app",
    "eventType": "user.authentication.sso",
    "outcome": {"result": "SUCCESS", "reason": None},
    "published": "2025-06-15T12:00:00.123Z",
    "securityContext": {
        "asNumber": 3269,
        "asOrg": "telecom italia",
        "isp": "tim",
        "domain": "example.net",
        "isProxy": False,
    },
    "severity": "INFO",
    "debugContext": {"debugData": {"requestId": "Yx-1", "requestUri": "/app/wiki/sso/saml"}},
    "legacyEventType": "app.auth.sso",
    "transaction": {"type": "WEB", "id": "Yx-1", "detail": {}},
    "uuid": "7f8d4a52-49e8-11f0-8c1e-0242ac120002",
    "version": "0",
    "request": {"ipChain": []},
    "target": [
        {"id": "0ua1", "type": "AppUser", "alternateId": "ada", "displayName": "Ada Byron", "detailEntry": None},
        {"id": "0oa7", "type": "AppInstance", "alternateId": "Wiki", "displayName": "SAML 2.0 App"},
    ],
}


def _with(event_type: str, *targets: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**SIGN_IN, "eventType": event_type, "target": list(targets), **changes}


USER = {"id": "00u9", "type": "User", "alternateId": "grace@example.org", "displayName": "Grace Hopper"}
GROUP = {"id": "00g5", "type": "UserGroup", "alternateId": "unknown", "displayName": "Admirals"}
APP = {"id": "0oa7", "type": "AppInstance", "alternateId": "Wiki", "displayName": "SAML 2.0 App"}
POLICY = {"id": "00p3", "type": "PolicyEntity", "alternateId": "unknown", "displayName": "Password policy"}


def test_a_sign_in_has_user_application_client_and_session(pipeline: Pipeline) -> None:
    event = one(pipeline, "okta_system", SIGN_IN)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"], event["status_id"]) == (3002, 1, 1, 1)
    assert event["time"] == 1_749_988_800_123
    assert event["message"] == "User single sign on to app"
    assert event["status"] == "SUCCESS"
    assert event["user"] == {"name": "ada@example.org", "uid": "00u1a2b3c4", "full_name": "Ada Byron", "type_id": 1}
    assert event["service"] == {"name": "Wiki", "uid": "0oa7"}
    assert event["session"] == {"uid": "102Zo-abc"}
    assert event["src_endpoint"] == {
        "ip": "198.51.100.7",
        "type": "Computer",
        "domain": "example.net",
        "isp": "tim",
        "autonomous_system": {"name": "telecom italia", "number": 3269},
        "location": {"city": "Turin", "region": "Piedmont", "postal_code": "10121", "lat": 45.07, "long": 7.68},
    }
    assert event["http_request"] == {"user_agent": "Mozilla/5.0", "uid": "Yx-1"}
    assert {each["name"]: each["value"] for each in event["observables"]} == {
        "src_endpoint.ip": "198.51.100.7",
        "user.name": "ada@example.org",
    }
    metadata = event["metadata"]
    assert metadata["uid"] == SIGN_IN["uuid"]
    assert metadata["correlation_uid"] == "102Zo-abc"
    assert metadata["event_code"] == "user.authentication.sso"
    assert event["unmapped"]["target"] == SIGN_IN["target"]


@pytest.mark.parametrize(
    ("record", "name", "activity", "expected"),
    [
        (
            _with("user.session.start", USER, outcome={"result": "FAILURE", "reason": "INVALID_CREDENTIALS"}),
            "authentication",
            1,
            {"status_id": 2, "status_detail": "INVALID_CREDENTIALS", "service": {"name": "Okta"}},
        ),
        (
            _with("policy.evaluate_sign_on", APP, outcome={"result": "CHALLENGE", "reason": None}),
            "authentication",
            99,
            {"status_id": 99, "status": "CHALLENGE"},
        ),
        (
            _with("user.mfa.factor.deactivate", USER),
            "account_change",
            11,
            {"user": {"name": "grace@example.org", "uid": "00u9", "full_name": "Grace Hopper"}},
        ),
        (_with("user.lifecycle.create", USER), "account_change", 1, {}),
        (_with("user.account.lock", USER, severity="WARN"), "account_change", 9, {"severity_id": 3}),
        (
            _with(
                "user.account.privilege.grant", USER, debugContext={"debugData": {"privilegeGranted": "Super admin"}}
            ),
            "user_access",
            1,
            {"privileges": ["Super admin"], "severity_id": 3},
        ),
        (_with("application.user_membership.add", APP, USER), "user_access", 1, {"privileges": ["Wiki"]}),
        (
            _with("group.user_membership.add", USER, GROUP),
            "group_management",
            3,
            {
                "group": {"name": "Admirals", "uid": "00g5"},
                "user": {"name": "grace@example.org", "uid": "00u9", "full_name": "Grace Hopper"},
            },
        ),
        (
            _with("application.lifecycle.deactivate", APP),
            "application_lifecycle",
            7,
            {"app": {"name": "Wiki", "uid": "0oa7"}},
        ),
        (
            _with("policy.lifecycle.update", POLICY),
            "entity_management",
            3,
            {"entity": {"name": "Password policy", "uid": "00p3", "type": "PolicyEntity"}},
        ),
        (
            _with("security.threat.detected", severity="ERROR"),
            "detection_finding",
            1,
            {"severity_id": 4, "is_alert": True, "evidences": [{"src_endpoint": {"ip": "198.51.100.7"}}]},
        ),
        (
            _with("system.email.send_factor_verify_message", USER),
            "api_activity",
            99,
            {
                "api": {"operation": "system.email.send_factor_verify_message", "service": {"name": "Okta"}},
                "resources": [{"name": "grace@example.org", "uid": "00u9", "type": "User"}],
            },
        ),
    ],
)
def test_each_kind_of_event_has_its_class(
    pipeline: Pipeline, record: dict[str, Any], name: str, activity: int, expected: dict[str, Any]
) -> None:
    event = one(pipeline, "okta", record)
    assert problem_of(event) is None
    assert (CLASS_NAMES[event["class_uid"]], event["activity_id"]) == (name, activity)
    assert {key: event[key] for key in expected} == expected
    who = event["user"] if name == "authentication" else event["actor"]["user"]
    assert who["name"] == "ada@example.org"


def test_the_envelope_of_eventbridge_is_opened(pipeline: Pipeline) -> None:
    wrapped = {
        "version": "0",
        "id": "0d1e2f3a-0000-4000-8000-000000000000",
        "detail-type": "SystemLog",
        "source": "aws.partner/okta.com/example",
        "account": "111122223333",
        "time": "2025-06-15T12:00:01Z",
        "region": "eu-west-1",
        "resources": [],
        "detail": SIGN_IN,
    }
    event, bare = one(pipeline, "okta", wrapped), one(pipeline, "okta", SIGN_IN)
    assert event["metadata"] == bare["metadata"]
    assert event["user"] == bare["user"]
    assert event["unmapped"]["region"] == "eu-west-1"


def test_a_redacted_time_counts_as_missing(pipeline: Pipeline) -> None:
    event = one(pipeline, "okta", {**SIGN_IN, "published": "redacted", "uuid": "redacted"})
    assert event["time"] == RECEIVED_MS
    assert event["metadata"]["original_time"] == "redacted"
    assert event["metadata"]["uid"] != "redacted"


def test_without_a_session_the_transaction_correlates_and_without_one_the_actor(pipeline: Pipeline) -> None:
    record = {**SIGN_IN, "authenticationContext": {"externalSessionId": "unknown"}}
    assert one(pipeline, "okta", record)["metadata"]["correlation_uid"] == "Yx-1"
    assert one(pipeline, "okta", {**record, "transaction": None})["metadata"]["correlation_uid"] == "00u1a2b3c4"


def test_nulls_all_over_leave_a_valid_event(pipeline: Pipeline) -> None:
    record = dict.fromkeys(SIGN_IN) | {"eventType": "user.session.start", "published": SIGN_IN["published"]}
    event = one(pipeline, "okta", record)
    assert problem_of(event) is None
    assert event["user"] == {"name": "Unknown", "type_id": 0}
