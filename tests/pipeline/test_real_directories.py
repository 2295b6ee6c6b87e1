"""Real records of Okta, Entra, GitHub and PowerShell: valid events of fitting classes, all values kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.pipeline.data import FOLDER, records_of, run
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

EXPECTED = {
    "okta_system": {
        "account_change",
        "api_activity",
        "application_lifecycle",
        "authentication",
        "detection_finding",
        "entity_management",
        "group_management",
        "user_access",
    },
    "entra": {"application_lifecycle", "authentication", "entity_management", "user_access"},
    "github_audit": {"api_activity", "group_management", "user_access", "web_resources_activity"},
}
_PATHS = {
    "okta_system": FOLDER / "okta_system.panther.jsonl",
    "entra": FOLDER / "entra_signin_audit.panther.jsonl",
    "github_audit": FOLDER / "github_audit.panther.jsonl",
}
_BLANKED = "2024-12-17 00:00:00000000"
"""What whoever shared some of GitHub's records made of their time."""


def _leaves(value: Any) -> list[bytes]:
    """The encoded values of a record, without nulls and quotes."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [leaf for each in inner for leaf in _leaves(each)]
    return [] if value is None else [msgspec.json.encode(value).strip(b'"')]


pytestmark = pytest.mark.skipif(
    not all(path.is_file() for path in _PATHS.values()),
    reason="the folder with real records (../shared/data) is not there",
)


@pytest.mark.parametrize("source", EXPECTED)
class TestSource:
    def test_all_but_those_with_a_blanked_time_become_valid_events_of_their_classes(
        self, pipeline: Pipeline, source: str
    ) -> None:
        records = records_of(_PATHS[source])
        events, dead = run(pipeline, source, records)
        assert [letter for letter in dead if _BLANKED not in letter.error] == []
        assert len(dead) == sum(_BLANKED.encode() in record for record in records)
        assert [problem for problem in map(problem_of, events) if problem] == []
        classes = Counter(CLASS_NAMES[event["class_uid"]] for event in events)
        assert classes.keys() == EXPECTED[source]

    def test_no_native_value_is_lost(self, pipeline: Pipeline, source: str) -> None:
        for record in records_of(_PATHS[source]):
            for event in run(pipeline, source, [record])[0]:
                there = msgspec.json.encode(event)
                lost = [leaf for leaf in _leaves(msgspec.json.decode(record)) if leaf not in there]
                assert not lost, (lost, event)


def test_powershell_s_records_are_scripts_but_for_starts_and_ends_of_blocks(pipeline: Pipeline) -> None:
    records = [record for path in sorted(FOLDER.glob("windows_events.*.jsonl")) for record in records_of(path)]
    events, _ = run(pipeline, "windows", [record for record in records if b"PowerShell" in record])
    providers = {"PowerShell", "Microsoft-Windows-PowerShell"}
    found = [event for event in events if event["metadata"].get("log_provider") in providers]
    assert Counter((event["metadata"]["event_code"], event["class_uid"]) for event in found) == {
        ("4103", 1009): 74,
        ("4104", 1009): 7,
        ("800", 1009): 86,
        ("4105", 0): 34,
        ("4106", 0): 22,
    }
    assert all(event["metadata"]["correlation_uid"] != event["metadata"]["uid"] for event in found)
