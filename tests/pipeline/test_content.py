"""Content of any kind: bad records are dead letters with a reason, neighbours survive, nothing is lost, ids are stable."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.test_ocsf_validity import SHARDS
from tidegate.event import DeadLetter
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame
from tidegate.subject import shard_of

PIPELINE = Pipeline.load(SHARDS)
GOOD = (
    b'{"timestamp":"2026-01-02T03:04:05.000006+0000","event_type":"flow","flow_id":1,"src_ip":"10.0.0.1",'
    b'"dest_ip":"10.0.0.2","proto":"TCP","odd":{"a.b":[1,{"c":"kept"}]}}'
)
Codec = Literal["json", "msgpack", "text"]


def outcome(source: str, records: list[bytes], codec: Codec = "json", origin: str = "INGEST/now/7") -> Outcome:
    into = Outcome(SHARDS)
    PIPELINE.run(
        RawFrame(source=source, codec=codec, records=records, received_ms=1_700_000_000_000, origin=origin), into
    )
    return into


def events(of: Outcome) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for shard in of.lines for line in shard]


def letters(of: Outcome) -> list[DeadLetter]:
    return [letter for shard in of.dead for letter in shard]


BAD = {
    "truncated": b'{"timestamp":"2026-01-02T03:04:05Z","event_type":"fl',
    "not an object": b"[1,2]",
    "a number": b"17",
    "NaN": b'{"timestamp":NaN}',
    "invalid UTF-8": b'{"timestamp":"2026-01-02T03:04:05Z","event_type":"flow","x":"\xff"}',
    "lone surrogate": b'{"timestamp":"2026-01-02T03:04:05Z","event_type":"flow","x":"\\ud800"}',
    "deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "no time": b'{"event_type":"flow"}',
    "time of a wrong type": b'{"timestamp":[1],"event_type":"flow"}',
    "time out of range": b'{"timestamp":"99999-01-02T03:04:05Z","event_type":"flow"}',
    "number out of range": b'{"timestamp":"2026-01-02T03:04:05Z","event_type":"flow","x":1e999}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_a_dead_letter_and_its_neighbours_survive(name: str) -> None:
    found = outcome("suricata", [GOOD, BAD[name], GOOD])
    (letter,) = letters(found)
    assert len(events(found)) == 2
    assert letter.original == BAD[name]
    assert letter.stage in ("parse", "normalise", "validate")
    assert letter.rule
    assert letter.error
    assert letter.origin.endswith("#1")


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, 10**40])
def test_huge_integers_are_kept(number: int) -> None:
    record = GOOD.replace(b'"kept"', str(number).encode())
    (event,) = events(outcome("suricata", [record]))
    assert event["unmapped"]["odd"]["a.b"][1]["c"] == number


def test_what_no_rule_maps_is_kept() -> None:
    (event,) = events(outcome("suricata", [GOOD]))
    assert event["unmapped"]["odd"] == {"a.b": [1, {"c": "kept"}]}
    assert event["metadata"]["original_time"] == "2026-01-02T03:04:05.000006+0000"


def test_an_unknown_source_becomes_a_base_event_with_its_content() -> None:
    (event,) = events(outcome("toaster", [b'{"slots": 2, "nested": {"a": [1]}}']))
    assert event["class_uid"] == 0
    assert event["unmapped"] == {"slots": 2, "nested": {"a": [1]}}
    (line,) = events(outcome("toaster", [b"toast is done"], "text"))
    assert line["message"] == "toast is done"


def test_an_envelope_gives_its_own_ids_and_time() -> None:
    envelope = {
        "event_id": "e-1",
        "correlation_id": "case-7",
        "timestamp": "2026-02-03T04:05:06Z",
        "event_type": "invoice.paid",
        "metadata": {"tenant": "a"},
        "data": {"amount": 3},
    }
    (event,) = events(outcome("billing", [msgspec.json.encode(envelope)]))
    assert event["metadata"]["uid"] == "e-1"
    assert event["metadata"]["correlation_uid"] == "case-7"
    assert event["time"] == 1_770_091_506_000
    assert event["unmapped"]["amount"] == 3


def test_an_envelope_of_a_known_source_goes_through_its_rules() -> None:
    envelope = b'{"source":"suricata","correlation_id":"case-8","data":' + GOOD + b"}"
    (event,) = events(outcome("gateway", [envelope]))
    assert event["class_uid"] == 4001
    assert event["src_endpoint"]["ip"] == "10.0.0.1"
    assert event["metadata"]["correlation_uid"] == "case-8"


def test_an_envelope_with_wrong_types_is_a_dead_letter() -> None:
    (letter,) = letters(outcome("billing", [b'{"event_id": 5, "data": {}}']))
    assert letter.stage == "validate"
    assert "event_id" in letter.error


def test_the_same_frame_gives_the_same_ids_and_another_frame_others() -> None:
    one, again = (events(outcome("suricata", [GOOD, GOOD])) for _ in range(2))
    other = events(outcome("suricata", [GOOD, GOOD], origin="INGEST/now/8"))
    ids = [event["metadata"]["uid"] for event in one]
    assert ids == [event["metadata"]["uid"] for event in again]
    assert len({*ids, *(event["metadata"]["uid"] for event in other)}) == 4
    assert all(one[14] == "7" for one in ids)


def test_a_record_with_an_id_of_its_own_keeps_it_in_every_frame() -> None:
    record = b'{"eventTime":"2026-01-02T03:04:05Z","eventID":"0b8d5c6e-6f0e-4c2f-9d1c-0d5c8f6f1a11","eventName":"X",'
    record += b'"eventSource":"s3.amazonaws.com","userIdentity":{"type":"Root"}}'
    (one,) = events(outcome("aws_cloudtrail", [record]))
    (other,) = events(outcome("aws_cloudtrail", [record], origin="INGEST/now/9"))
    assert one["metadata"]["uid"] == other["metadata"]["uid"]


def test_events_of_one_correlation_are_in_one_shard() -> None:
    found = outcome("suricata", [GOOD] * 20)
    used = [number for number, shard in enumerate(found.lines) if shard]
    (event, *_) = events(found)
    assert used == [shard_of(event["metadata"]["correlation_uid"], SHARDS)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    ["timestamp", "event_type", "src_ip", "dns", "alert", "eventTime", "eventID", "userIdentity", "EventID", "Event",
     "EventTime", "ts", "_path", "uid", "id.orig_h", "data", "source", "Channel"]
)  # fmt: skip
likely = st.sampled_from(["2026-01-02T03:04:05Z", "flow", "dns", "alert", "conn", "10.0.0.1", 4624, 1.5e9, "Security"])
records = st.dictionaries(keys, likely | json_values, max_size=8).map(
    lambda one: msgspec.json.encode(one, enc_hook=str) if True else b""
)


@settings(max_examples=300, deadline=None)
@given(
    source=st.sampled_from(["suricata", "aws_cloudtrail", "windows", "zeek", "other"]),
    codec=st.sampled_from(["json", "msgpack", "text"]),
    content=st.lists(st.binary(max_size=60) | records, max_size=5),
)
def test_every_record_ends_as_an_event_or_a_dead_letter(source: str, codec: Codec, content: list[bytes]) -> None:
    found = outcome(source, content, codec)
    assert len(events(found)) + len(letters(found)) == len(content) == found.records
