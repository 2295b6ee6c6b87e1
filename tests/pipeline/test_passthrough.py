"""A record that is an OCSF event goes through as it is; one that only claims to be is kept, and told why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from tests.pipeline.cloud_records import RECORDS, base
from tests.pipeline.data import RECEIVED_MS, one, run
from tests.pipeline.ocsf_table import SHIPPED, table
from tests.pipeline.schema import problem_of
from tests.pipeline.test_bad_input import DNS
from tidegate.ocsf import OcsfEvent
from tidegate.pipeline.ocsf_schema import Shape, shapes
from tidegate.pipeline.rules import fields_of, hints_of, shape_of
from tidegate.pipeline.runner import Pipeline

SIGN_IN, FINDING = RECORDS["ocsf"]["sign_in"], RECORDS["ocsf"]["finding"]


def test_the_shipped_table_is_that_of_the_published_schema() -> None:
    assert SHIPPED.read_bytes() == table(), "run python -m tests.pipeline.ocsf_table"


def test_tidegate_has_no_attribute_that_ocsf_has_not_and_requires_none_that_it_does_not() -> None:
    seen: set[tuple[type[Struct], int]] = set()
    wrong: set[str] = set()
    names: set[str] = set()

    def compare(struct: type[Struct], shape: Shape) -> None:
        if (struct, id(shape)) in seen:
            return
        seen.add((struct, id(shape)))
        for field in fields_of(struct):
            name = field.encode_name
            attribute = shape.attributes.get(name)
            if attribute is None:
                if struct is not OcsfEvent:  # It has the attributes of all classes.
                    wrong.add(f"{struct.__name__}.{name} is not there")
                continue
            names.add(f"{struct.__name__}.{name}")
            inner, many, _ = shape_of(hints_of(struct)[name])
            if (many, inner is None) != (attribute.many, attribute.shape is None):
                wrong.add(f"{struct.__name__}.{name} is of another kind")
            if field.required and name not in shape.required:
                wrong.add(f"{struct.__name__}.{name} is not required")
            if inner is not None and attribute.shape is not None:
                compare(inner, attribute.shape)

    for shape in shapes().values():
        compare(OcsfEvent, shape)
    assert wrong == {"Metadata.uid is not required", "Metadata.correlation_uid is not required"}
    assert {f"OcsfEvent.{field.encode_name}" for field in fields_of(OcsfEvent)} <= names


def test_a_valid_event_changes_in_its_metadata_only(pipeline: Pipeline) -> None:
    event = one(pipeline, "ocsf", SIGN_IN)
    assert problem_of(event) is None
    added = {"correlation_uid": "ev-1", "log_source": "ocsf"}
    assert event == {**SIGN_IN, "metadata": {**SIGN_IN["metadata"], **added}}


def test_an_event_without_an_id_gets_one_and_keeps_its_correlation(pipeline: Pipeline) -> None:
    metadata = one(pipeline, "ocsf", FINDING)["metadata"]
    assert len(metadata["uid"]) == 36
    assert metadata["correlation_uid"] == "case-1"


def test_attributes_that_ocsf_does_not_have_move_to_unmapped_in_their_objects(pipeline: Pipeline) -> None:
    event = one(pipeline, "ocsf", {**FINDING, "team": "blue", "message": None, "unmapped": {"team": 1}})
    assert problem_of(event) is None
    assert event["vulnerabilities"] == FINDING["vulnerabilities"]
    assert event["resources"] == [{"uid": "r-1", "criticality": "high"}, {"name": "r-2"}]
    assert event["unmapped"] == {"team": 1, "team'": "blue", "resources": [{"colour": "red"}, {}]}


def test_nulls_and_objects_of_nothing_else_are_not_there(pipeline: Pipeline) -> None:
    nulls = {"actor": {"idp": {"name": None}}, "src_endpoint": {"ip": "203.0.113.50", "port": None}, "message": None}
    event = one(
        pipeline, "ocsf", {**SIGN_IN, **nulls, "auth_factors": [{"device": {"name": None}}], "unmapped": {"kept": None}}
    )
    assert problem_of(event) is None
    assert not {"actor", "auth_factors"} & event.keys()
    assert event["src_endpoint"] == {"ip": "203.0.113.50"}
    assert event["unmapped"] == {"kept": None}


def test_what_tidegate_itself_makes_goes_through_again_unchanged(pipeline: Pipeline) -> None:
    made = [one(pipeline, "suricata", DNS)]
    made += [
        one(pipeline, source, record)
        for source, records in RECORDS.items()
        if source != "ocsf"
        for record in records.values()
    ]
    for event in made:
        assert one(pipeline, "ocsf", event) == event


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"class_uid": 3999}, "ocsf: '3999' is not the number of a class"),
        ({"class_uid": "3002"}, "ocsf: '3002' is not the number of a class"),
        ({"type_uid": 300202}, "ocsf: type_uid 300202 does not fit activity_id 1 of 3002"),
        ({"category_uid": 4}, "ocsf: category_uid 4 does not fit class_uid 3002"),
        ({"severity_id": "1"}, "ocsf: severity_id must be int, not str"),
        ({"severity_id": None}, "ocsf: severity_id is required"),
        ({"user": None}, "ocsf: user is required"),
        ({"user": {"domain": "x"}}, "ocsf: user requires one of account, name, uid"),
        ({"user": {"groups": [{"name": 5}]}}, "ocsf: user.groups.name must be str, not int"),
        ({"user": {"groups": {"name": "x"}}}, "ocsf: user.groups must be a list, not dict"),
        ({"service": None}, "ocsf: the event requires one of dst_endpoint, service"),
        ({"metadata": {"version": "1.8.0"}}, "ocsf: metadata.product is required"),
        ({"metadata": "1.8.0"}, "ocsf: metadata is required"),
        ({"unmapped": "x"}, "ocsf: unmapped must be dict, not str"),
        ({"time": SIGN_IN["time"] * 1000}, "ocsf: time must be a whole number of milliseconds since 1970"),
    ],
)
def test_an_event_that_is_not_valid_is_a_base_event_that_says_why_and_keeps_it(
    pipeline: Pipeline, change: dict[str, Any], why: str
) -> None:
    record = base("ocsf", "sign_in", **change)
    event = one(pipeline, "ocsf", record)
    assert problem_of(event) is None
    assert (event["class_uid"], event["status_detail"], event["time"]) == (0, why, SIGN_IN["time"])
    kept = {key: value for key, value in record.items() if key != "time"}
    assert event["unmapped"] == kept


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"time": None}, "ocsf.time"),
        ({"time": "soon"}, "ocsf.time"),
        ({"time": True}, "ocsf.time"),
        ({"time": -1}, "ocsf.time"),
        ({"metadata": {**SIGN_IN["metadata"], "uid": ["x"]}}, "ocsf.id"),
        ({"metadata": {**SIGN_IN["metadata"], "correlation_uid": {"a": 1}}}, "ocsf.correlation"),
    ],
)
def test_an_event_without_a_time_or_with_an_odd_id_is_a_dead_letter(
    pipeline: Pipeline, change: dict[str, Any], rule: str
) -> None:
    good = msgspec.json.encode(SIGN_IN)
    events, dead = run(pipeline, "ocsf", [good, msgspec.json.encode(base("ocsf", "sign_in", **change)), good])
    assert len(events) == 2
    assert [(letter.stage, letter.rule) for letter in dead] == [("normalise", rule)]


def test_an_envelope_adds_its_ids_and_keeps_what_tidegate_does_not_know(pipeline: Pipeline) -> None:
    envelope = {"source": "ocsf", "event_id": "e-9", "correlation_id": "c-9", "timestamp": RECEIVED_MS, "data": FINDING}
    event = one(pipeline, "acme", envelope)
    assert problem_of(event) is None
    assert event["time"] == RECEIVED_MS
    assert (event["metadata"]["uid"], event["metadata"]["correlation_uid"]) == ("e-9", "c-9")
    assert event["metadata"]["original_time"] == str(FINDING["time"])
    assert event["vulnerabilities"] == FINDING["vulnerabilities"]


def test_in_an_envelope_or_bare_every_kind_of_event_is_the_same(pipeline: Pipeline) -> None:
    for source, records in RECORDS.items():
        for record in records.values():
            event = one(pipeline, source, record)
            assert one(pipeline, "ocsf", {"source": "ocsf", "data": event}) == event


def test_what_comes_out_can_be_read_as_an_event(pipeline: Pipeline) -> None:
    for record in RECORDS["ocsf"].values():
        event = msgspec.json.decode(msgspec.json.encode(one(pipeline, "ocsf", record)), type=OcsfEvent)
        assert event.metadata.log_source == "ocsf"
