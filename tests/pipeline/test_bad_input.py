"""Whatever arrives becomes an event or a dead letter with a reason, and never hurts its neighbours."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.data import SHARDS, one, run
from tests.pipeline.schema import problem_of
from tidegate.pipeline.library import load_library
from tidegate.pipeline.runner import Codec, Outcome, Pipeline, RawFrame, record_id
from tidegate.subject import shard_of

DNS: dict[str, Any] = {
    "timestamp": "2025-01-29T18:38:00.271178+0000",
    "flow_id": 168058025415743,
    "event_type": "dns",
    "src_ip": "10.16.1.11",
    "src_port": 42345,
    "dest_ip": "192.203.230.10",
    "dest_port": 53,
    "proto": "UDP",
    "dns": {"type": "answer", "rrname": "suricata.io", "rrtype": "A", "rcode": "NOERROR", "id": 19118},
}


_JSON_SOURCES = ["ocsf", *(source.source for source, _ in load_library().sources.values() if source.format == "json")]


def _nested(depth: int) -> bytes:
    return msgspec.json.encode(DNS)[:-1] + b',"deep":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


@pytest.mark.parametrize(
    ("source", "codec", "raw", "stage", "rule"),
    [
        ("suricata", "json", b"", "parse", "json"),
        ("suricata", "json", b"{", "parse", "json"),
        ("suricata", "json", b"\xff\xfe", "parse", "json"),
        ("suricata", "json", b'{"a": "\xff"}', "parse", "utf8"),
        ("suricata", "json", b'{"a": "\\ud800"}', "parse", "json"),
        ("suricata", "json", b'{"a": NaN}', "parse", "json"),
        ("suricata", "json", b'{"a": 1e999}', "parse", "json"),
        ("suricata", "json", b"[1, 2]", "parse", "suricata.object"),
        ("suricata", "json", b'"text"', "parse", "json"),
        ("suricata", "text", b"not json", "parse", "json"),
        ("suricata", "json", b"null", "parse", "suricata.object"),
        ("suricata", "json", _nested(10_000), "parse", "depth"),
        ("suricata", "msgpack", b"\xc1", "parse", "msgpack"),
        ("syslog", "text", b"caf\xe9", "parse", "utf8"),
        ("syslog", "msgpack", msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(5, b"x")}), "validate", "encode"),
        ("syslog", "msgpack", b"\x81\xc0\x01", "validate", "encode"),
        ("suricata", "json", json.dumps({**DNS, "event_type": {}}).encode(), "normalise", "suricata.event_type"),
        ("suricata", "json", json.dumps({**DNS, "event_type": 1.5}).encode(), "normalise", "suricata.event_type"),
        ("suricata", "json", json.dumps({**DNS, "flow_id": {"a": 1}}).encode(), "normalise", "suricata.correlation"),
        ("suricata", "json", json.dumps({**DNS, "timestamp": "soon"}).encode(), "normalise", "suricata.dns.time"),
        ("suricata", "json", json.dumps({**DNS, "timestamp": None}).encode(), "normalise", "suricata.dns.time"),
        ("suricata", "json", json.dumps({**DNS, "timestamp": 1e300}).encode(), "normalise", "suricata.dns.time"),
        ("suricata", "json", json.dumps({**DNS, "timestamp": 10**400}).encode(), "normalise", "suricata.dns.time"),
        ("zeek", "json", b'{"_path": "dns", "ts": "9999-12-31T23:59:59-23:59"}', "normalise", "zeek.dns.time"),
        ("aws_cloudtrail", "json", b'{"eventName": "A", "eventID": ["x"]}', "normalise", "aws_cloudtrail.id"),
    ],
)
def test_a_malformed_record_is_a_dead_letter_and_its_neighbours_are_events(
    pipeline: Pipeline, source: str, codec: Codec, raw: bytes, stage: str, rule: str
) -> None:
    good = (
        b"a line"
        if codec == "text" and source == "syslog"
        else b"{}"
        if source != "suricata"
        else json.dumps(DNS).encode()
    )
    if codec == "msgpack":
        good = msgspec.msgpack.encode(DNS)
    events, dead = run(pipeline, source, [good, raw, good], codec)
    assert len(events) == 2
    (letter,) = dead
    assert (letter.stage, letter.rule, letter.original, letter.origin) == (stage, rule, raw, "INGEST/7#1")
    assert letter.error


@pytest.mark.parametrize("source", _JSON_SOURCES)
def test_every_source_survives_what_is_no_record_of_it(pipeline: Pipeline, source: str) -> None:
    good = b'{"something": "else"}'
    bad = [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b'"text"', b'{"a": NaN}', b'{"a": ' * 9_000]
    events, dead = run(pipeline, source, [raw for each in bad for raw in (each, good)])
    assert [letter.original for letter in sorted(dead, key=lambda each: int(each.origin.partition("#")[2]))] == bad
    assert all(letter.error for letter in dead)
    assert [event["class_uid"] for event in events] == [0] * len(bad)
    assert not [problem for problem in map(problem_of, events) if problem]


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({**DNS, "big": 2**70, "small": -(2**70)}).encode(),
        json.dumps({**DNS, "src_ip": 5, "src_port": "99999", "proto": ["x"], "dns": "?"}).encode(),
        json.dumps({**DNS, "flow_id": "text"}).encode(),
        json.dumps({**DNS, "nul\x00key": "nul\x00value"}).encode(),
        json.dumps({**DNS, "timestamp": "1738175880.25"}).encode(),
        json.dumps({"event_type": "of tomorrow"}).encode(),
        json.dumps(DNS).encode().replace(b'"proto"', b'"flow_id": 1, "proto"'),
    ],
)
def test_odd_values_are_kept_in_a_valid_event(pipeline: Pipeline, raw: bytes) -> None:
    event = one(pipeline, "suricata", raw)
    assert problem_of(event) is None
    text = json.dumps(event)
    for value in json.loads(raw).values():
        assert isinstance(value, dict) or str(value).strip("[]'") in text.replace("\\u0000", "\x00").replace(
            '", "', "', '"
        )


def test_a_record_nested_too_deep_to_encode_is_a_dead_letter(pipeline: Pipeline) -> None:
    events, dead = run(pipeline, "suricata", [_nested(depth) for depth in (10, 500, 900, 950, 990, 1100, 2000)])
    assert len(events) >= 1
    assert {letter.rule for letter in dead} <= {"depth"}


def test_a_source_without_rules_becomes_a_base_event_with_its_content(pipeline: Pipeline) -> None:
    event = one(pipeline, "acme", {"msg": "hello", "time": "2025-01-01 00:00:00", "n": [1], "trace_id": "t-1"})
    assert problem_of(event) is None
    assert event["class_uid"] == 0
    assert event["message"] == "hello"
    assert event["time"] == 1_735_689_600_000
    assert event["metadata"]["original_time"] == "2025-01-01 00:00:00"
    assert event["metadata"]["correlation_uid"] == "t-1"
    assert event["unmapped"] == {"n": [1], "trace_id": "t-1"}


@pytest.mark.parametrize(("raw", "kept"), [(b"[1,2]", {"value": [1, 2]}), (b"7", {"value": 7}), (b'"text"', None)])
def test_a_value_that_is_no_object_is_kept_where_there_are_no_rules(
    pipeline: Pipeline, raw: bytes, kept: object
) -> None:
    event = one(pipeline, "acme", raw)
    assert event.get("unmapped") == kept
    assert event.get("message") == (None if kept else "text")


def test_a_text_line_becomes_the_message_and_is_received_when_it_was(pipeline: Pipeline) -> None:
    event = one(pipeline, "syslog", "Jan  1 sshd: Ümlaut".encode(), "text")
    assert event["message"] == "Jan  1 sshd: Ümlaut"
    assert event["time"] == 1_750_000_000_000


def test_ids_follow_from_the_place_in_the_stream(pipeline: Pipeline) -> None:
    records = [json.dumps(DNS).encode()] * 5000
    frame = RawFrame(source="suricata", codec="json", records=records, received_ms=1_750_000_000_000, origin="INGEST/7")
    ids = [event["metadata"]["uid"] for event in run(pipeline, "suricata", records)[0]]
    assert ids == [record_id(frame, index) for index in range(5000)]
    assert len(set(ids)) == 5000
    assert all(len(each) == 36 and each[14] == "7" and each[19] in "89ab" for each in ids)
    other = [event["metadata"]["uid"] for event in run(pipeline, "suricata", records, origin="INGEST/8")[0]]
    assert not set(ids) & set(other)


def test_shard_follows_from_the_correlation_id_alone(pipeline: Pipeline) -> None:
    flows = [json.dumps({**DNS, "flow_id": number % 7}).encode() for number in range(70)]
    outcome = Outcome(SHARDS)
    pipeline.run(RawFrame(source="suricata", codec="json", records=flows, received_ms=1, origin="a/1"), outcome)
    for shard, lines in enumerate(outcome.lines):
        for line in lines:
            assert shard_of(msgspec.json.decode(line)["metadata"]["correlation_uid"], SHARDS) == shard


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KEYS = st.sampled_from(
    [
        "event_type",
        "timestamp",
        "_path",
        "ts",
        "uid",
        "id.orig_h",
        "EventID",
        "SourceName",
        "UtcTime",
        "Event",
        "winlog",
        "eventName",
        "eventTime",
        "eventID",
        "userIdentity",
        "src_ip",
        "dns",
        "flow",
        "data",
        "source",
        "metadata",
        "Hashes",
        "type",
        "detail",
        "logName",
        "protoPayload",
        "verb",
        "category",
        "operationName",
        "RecordType",
        "Operation",
        "AuditData",
        "class_uid",
        "time",
    ]
)
_VALUES = _JSON | st.sampled_from(
    [
        "dns",
        "alert",
        "flow",
        "conn",
        "notice",
        1,
        3,
        "4624",
        4624,
        10,
        0.5,
        "2025-01-01T00:00:00Z",
        "ConsoleLogin",
        "-",
        15,
    ]
)
_RECORD = st.dictionaries(_KEYS, _VALUES, max_size=10)
_SOURCES = st.sampled_from([*load_library().sources, "ocsf", "acme"])


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=_SOURCES, codec=st.sampled_from(["json", "msgpack", "text"]), records=st.lists(st.binary(max_size=60)))
def test_any_bytes_are_accounted_for(pipeline: Pipeline, source: str, codec: Codec, records: list[bytes]) -> None:
    run(pipeline, source, records, codec)


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=_SOURCES, record=_RECORD)
def test_any_object_is_a_valid_event_or_a_dead_letter(pipeline: Pipeline, source: str, record: dict[str, Any]) -> None:
    found, _ = run(pipeline, source, [json.dumps(record).encode()])
    with suppress(OverflowError, UnicodeEncodeError):  # msgpack has no such number or text
        found += run(pipeline, source, [msgspec.msgpack.encode(record)], "msgpack")[0]
    for event in found:
        assert problem_of(event) is None
