"""What becomes of records of GitHub's audit log, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.data import RECEIVED_MS, one
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

# As streamed.
PUSH: dict[str, Any] = {
    "@timestamp": 1_749_988_800_123,
    "_document_id": "n3Xr9Q0dT2WhvYm7nXqP1g",
    "action": "git.push",
    "actor": "ada",
    "actor_id": 4711,
    "actor_ip": "198.51.100.7",
    "actor_is_bot": False,
    "actor_location": {"country_code": "IT"},
    "business": "example",
    "business_id": 12,
    "hashed_token": "Zm9v",
    "org": "engines",
    "org_id": 99,
    "programmatic_access_type": "Personal access token (classic)",
    "public_repo": False,
    "repo": "engines/analytical",
    "repo_id": 815,
    "repository": "engines/analytical",
    "request_id": "ABCD:1",
    "transport_protocol_name": "http",
    "user_agent": "git/2.45.0",
}


def _action(action: str, **changes: Any) -> dict[str, Any]:
    return {**PUSH, "action": action, **changes}


def test_a_push_has_who_from_where_and_which_repository(pipeline: Pipeline) -> None:
    event = one(pipeline, "github_audit", PUSH)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (6001, 3, 1)
    assert (event["time"], event["status_id"]) == (1_749_988_800_123, 1)
    assert event["actor"]["user"] == {"name": "ada", "uid": "4711", "type_id": 1, "credential_uid": "Zm9v"}
    assert event["src_endpoint"] == {"ip": "198.51.100.7", "location": {"country": "IT"}}
    assert event["http_request"] == {"user_agent": "git/2.45.0", "uid": "ABCD:1"}
    assert event["web_resources"] == [{"name": "engines/analytical", "uid": "815", "type": "repository"}]
    metadata = event["metadata"]
    assert metadata["correlation_uid"] == "ada"
    assert metadata["event_code"] == "git.push"
    assert metadata["tenant_uid"] == "engines"
    assert {each["name"]: each["value"] for each in event["observables"]} == {
        "actor.user.name": "ada",
        "src_endpoint.ip": "198.51.100.7",
    }


def test_the_id_is_that_of_the_document_wherever_it_arrives(pipeline: Pipeline) -> None:
    first = one(pipeline, "github", PUSH)["metadata"]["uid"]
    assert one(pipeline, "github", {**PUSH, "user_agent": "curl"})["metadata"]["uid"] == first
    assert one(pipeline, "github", {**PUSH, "_document_id": "other"})["metadata"]["uid"] != first


@pytest.mark.parametrize(
    ("record", "name", "activity", "expected"),
    [
        (_action("git.clone"), "web_resources_activity", 2, {}),
        (_action("repo.create"), "web_resources_activity", 1, {}),
        (_action("repo.destroy"), "web_resources_activity", 4, {"severity_id": 3}),
        (_action("repo.access"), "web_resources_activity", 3, {"severity_id": 3}),
        (
            _action("repo.add_member", user="grace", user_id=5, permission="admin"),
            "user_access",
            1,
            {"user": {"name": "grace", "uid": "5"}, "privileges": ["admin"]},
        ),
        (
            _action("repo.remove_member", user="grace"),
            "user_access",
            2,
            {"user": {"name": "grace"}, "privileges": ["engines/analytical"]},
        ),
        (
            _action("team.add_member", team="engines/admirals", user="grace"),
            "group_management",
            3,
            {"group": {"name": "engines/admirals"}, "user": {"name": "grace"}},
        ),
        (
            _action("org.remove_member", user="grace"),
            "group_management",
            4,
            {"group": {"name": "engines", "uid": "99"}},
        ),
        (
            _action("user.failed_login"),
            "authentication",
            1,
            {"status_id": 2, "severity_id": 2, "service": {"name": "GitHub"}},
        ),
        (_action("user.login"), "authentication", 1, {"status_id": 1}),
        (
            _action("protected_branch.policy_override", operation_type="modify"),
            "api_activity",
            3,
            {
                "severity_id": 3,
                "api": {"operation": "protected_branch.policy_override", "service": {"name": "GitHub"}},
                "resources": [
                    {"name": "engines/analytical", "uid": "815", "type": "repository"},
                    {"name": "engines", "uid": "99", "type": "organization"},
                ],
            },
        ),
        (_action("hook.create"), "api_activity", 1, {"severity_id": 2}),
        (_action("workflows.completed_workflow_run", conclusion="failure"), "api_activity", 99, {"status_id": 2}),
    ],
)
def test_each_kind_of_action_has_its_class(
    pipeline: Pipeline, record: dict[str, Any], name: str, activity: int, expected: dict[str, Any]
) -> None:
    event = one(pipeline, "github", record)
    assert problem_of(event) is None
    assert (CLASS_NAMES[event["class_uid"]], event["activity_id"]) == (name, activity)
    assert {key: event[key] for key in expected} == expected


def test_a_record_of_the_rest_api_has_less_and_becomes_an_event_as_well(pipeline: Pipeline) -> None:
    record = {
        "action": "git.fetch",
        "actor": "",
        "created_at": 1_749_988_800_123,
        "repository": "engines/a",
        "user": "",
    }
    event = one(pipeline, "github", record)
    assert problem_of(event) is None
    assert event["time"] == 1_749_988_800_123
    assert event["web_resources"] == [{"name": "engines/a", "type": "repository"}]
    assert "actor" not in event
    assert event["metadata"]["correlation_uid"] == "engines/a"


def test_a_bot_is_a_service(pipeline: Pipeline) -> None:
    assert one(pipeline, "github", {**PUSH, "actor_is_bot": True})["actor"]["user"]["type_id"] == 4


def test_the_wrapper_of_splunk_is_opened(pipeline: Pipeline) -> None:
    wrapped = {"time": 1_749_988_900, "sourcetype": "github:enterprise:audit", "event": PUSH}
    event = one(pipeline, "github", wrapped)
    assert event["web_resources"] == one(pipeline, "github", PUSH)["web_resources"]
    assert event["time"] == PUSH["@timestamp"]


def test_without_a_time_the_time_of_reception_counts(pipeline: Pipeline) -> None:
    assert one(pipeline, "github", {"action": "repo.create", "actor": "ada", "repo": "a/b"})["time"] == RECEIVED_MS
