"""What an envelope says wins over what is derived, and nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pipeline.data import one, run
from tests.pipeline.schema import problem_of
from tests.pipeline.test_bad_input import DNS
from tidegate.pipeline.runner import Pipeline

FULL: dict[str, Any] = {
    "event_id": "e-1",
    "event_type": "dns.seen",
    "timestamp": "2025-02-01T00:00:00Z",
    "source": "suricata",
    "data": DNS,
    "metadata": {"sensor": 4},
    "correlation_id": "c-1",
}


def test_ids_and_time_of_the_envelope_win_and_the_rest_is_kept(pipeline: Pipeline) -> None:
    event = one(pipeline, "acme", FULL)
    assert problem_of(event) is None
    assert event["class_uid"] == 4003
    assert event["time"] == 1_738_368_000_000
    metadata = event["metadata"]
    assert (metadata["uid"], metadata["correlation_uid"], metadata["log_source"]) == ("e-1", "c-1", "suricata")
    assert (metadata["event_code"], metadata["original_time"]) == ("dns", DNS["timestamp"])
    assert event["unmapped"]["envelope"] == {
        "metadata": {"sensor": 4},
        "event_type": "dns.seen",
        "timestamp": "2025-02-01T00:00:00Z",
    }


def test_an_envelope_with_data_only_is_mapped_as_the_subject_says(pipeline: Pipeline) -> None:
    bare = one(pipeline, "suricata", DNS)
    assert one(pipeline, "suricata", {"data": DNS}) == bare


def test_text_in_the_envelope_of_a_known_source_is_its_raw_line(pipeline: Pipeline) -> None:
    assert one(pipeline, "suricata", {"data": json.dumps(DNS)}) == one(pipeline, "suricata", DNS)


def test_an_envelope_of_an_unknown_source_keeps_its_type_and_time(pipeline: Pipeline) -> None:
    event = one(pipeline, "acme", {"data": {"a": 1}, "event_type": "door", "timestamp": 1_738_368_000})
    assert event["metadata"]["event_code"] == "door"
    assert event["metadata"]["original_time"] == "1738368000"
    assert event["time"] == 1_738_368_000_000
    assert event["unmapped"] == {"a": 1}


def test_without_a_correlation_id_the_event_id_of_the_envelope_correlates(pipeline: Pipeline) -> None:
    event = one(pipeline, "acme", {"data": {}, "event_id": "e-2"})
    assert event["metadata"]["uid"] == event["metadata"]["correlation_uid"] == "e-2"


def test_the_native_id_is_kept_beside_that_of_the_envelope(pipeline: Pipeline) -> None:
    native = "ff349c7b-e2a9-4cdc-ad74-4688add834d9"
    record = {"eventName": "GetUser", "eventTime": "2025-01-01T00:00:00Z", "eventID": native}
    event = one(pipeline, "aws_cloudtrail", {"data": record, "event_id": "e-3"})
    assert (event["metadata"]["uid"], event["metadata"]["original_event_uid"]) == ("e-3", native)


def test_an_object_with_another_key_beside_data_is_a_record(pipeline: Pipeline) -> None:
    assert one(pipeline, "acme", {"data": 1, "colour": "red"})["unmapped"] == {"data": 1, "colour": "red"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"event_id": 5}, "envelope"),
        ({"metadata": "x"}, "envelope"),
        ({"source": ["x"]}, "envelope"),
        ({"correlation_id": {}}, "envelope"),
        ({"timestamp": {}}, "envelope"),
        ({"timestamp": "later"}, "envelope.timestamp"),
        ({"timestamp": -1}, "envelope.timestamp"),
    ],
)
def test_a_wrong_type_in_the_envelope_is_a_dead_letter(pipeline: Pipeline, change: dict[str, Any], rule: str) -> None:
    _, dead = run(pipeline, "acme", [json.dumps({**FULL, **change}).encode()])
    assert [(letter.stage, letter.rule) for letter in dead] == [("validate", rule)]


@pytest.mark.parametrize("data", [[1], 5, "not json", None])
def test_data_that_is_no_record_of_its_source_is_a_dead_letter(pipeline: Pipeline, data: object) -> None:
    _, dead = run(pipeline, "suricata", [json.dumps({"data": data}).encode()])
    assert [letter.stage for letter in dead] == ["parse"]
