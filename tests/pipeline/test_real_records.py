"""Every real record of the sources becomes a valid OCSF event, or a dead letter that says why it cannot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.pipeline.data import FILES, FOLDER, lost, records_of, run
from tests.pipeline.schema import CLASS_NAMES, problem_of
from tidegate.pipeline.runner import Pipeline

_PATHS = [(source, path) for source, pattern in FILES.items() for path in sorted(FOLDER.glob(pattern))]
_CHECKED_OF_A_KIND = 40

pytestmark = pytest.mark.skipif(not _PATHS, reason="the folder with real records (../shared/data) is not there")

EXPECTED = {
    "suricata": {"detection_finding", "dns_activity", "http_activity", "network_activity", "smb_activity"},
    "zeek": {"network_activity", "dns_activity", "detection_finding"},
    "aws_cloudtrail": {"api_activity", "authentication", "account_change"},
    "windows": {"process_activity", "file_activity"},
    "aws_guardduty": {"detection_finding"},
    "azure_activity": {"api_activity"},
    "gcp_audit": {"http_activity"},
}


def _kind(event: dict[str, Any]) -> tuple[object, ...]:
    metadata = event["metadata"]
    return event["class_uid"], metadata.get("event_code"), metadata.get("log_name"), event["activity_id"]


@pytest.mark.parametrize(("source", "path"), _PATHS, ids=[path.name for _, path in _PATHS])
class TestFile:
    def test_under_one_percent_are_dead_letters_and_each_says_why(
        self, pipeline: Pipeline, source: str, path: Path
    ) -> None:
        records = records_of(path)
        _, dead = run(pipeline, source, records)
        assert len(dead) < len(records) / 100
        assert all(letter.error and letter.rule and letter.original in records for letter in dead)

    def test_events_are_valid_and_of_a_sensible_class(self, pipeline: Pipeline, source: str, path: Path) -> None:
        events, _ = run(pipeline, source, records_of(path))
        seen: Counter[tuple[object, ...]] = Counter()
        for event in events:
            seen[_kind(event)] += 1
            if seen[_kind(event)] <= _CHECKED_OF_A_KIND:
                assert problem_of(event) is None
        classes = {CLASS_NAMES[event["class_uid"]] for event in events}
        assert classes & EXPECTED[source]
        base = [event for event in events if event["class_uid"] == 0]
        # OCSF has no class for certificates seen, handles closed or duplicated, and a few more.
        classless = {"x509", "pe", "4658", "4690", "4627", "4105", "4106"}
        odd = [e for e in base if not classless & {e["metadata"].get("event_code"), e["metadata"].get("log_name")}]
        assert len(odd) <= max(4, len(events) / 50)

    def test_no_native_value_is_lost(self, pipeline: Pipeline, source: str, path: Path) -> None:
        for record in records_of(path)[::7]:
            events, _ = run(pipeline, source, [record])
            if events:
                assert not lost(msgspec.json.decode(record), events[0]), events[0]

    def test_running_again_gives_the_same_bytes(self, source: str, path: Path, pipeline: Pipeline) -> None:
        records = records_of(path)[:50]
        assert run(pipeline, source, records) == run(pipeline, source, records)


def test_expected_classes_occur_in_the_sources_as_a_whole(pipeline: Pipeline) -> None:
    for source, expected in EXPECTED.items():
        found = set()
        for path in (path for name, path in _PATHS if name == source):
            found |= {CLASS_NAMES[event["class_uid"]] for event in run(pipeline, source, records_of(path))[0]}
        assert expected <= found
