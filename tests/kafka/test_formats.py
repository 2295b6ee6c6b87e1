"""Values in their formats, settings, and the numbers by which a record is found again in its topic."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kafka.registry import registry
from tidegate.codec import avro, protobuf
from tidegate.config import Kafka, KafkaInput, KafkaOutput, load
from tidegate.edges.kafka.avro import AvroReader
from tidegate.edges.kafka.client import check
from tidegate.edges.kafka.formats import JsonReader, ProtobufReader, encoder
from tidegate.edges.kafka.registry import Registry
from tidegate.errors import ConfigError, FrameError, TierUnavailableError
from tidegate.event import Envelope
from tidegate.ocsf import Metadata, OcsfEvent, Product
from tidegate.origin import offset_at, spans

EVENT = OcsfEvent(
    class_uid=4003,
    category_uid=4,
    activity_id=1,
    type_uid=400301,
    severity_id=1,
    time=1_700_000_000_000,
    metadata=Metadata(version="1.8.0", product=Product(name="x"), uid="u-1", correlation_uid="c-1"),
)
ENVELOPE = Envelope(event_id="e-1", source="billing", data={"n": [1, None, "ä"]})


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60).map(sorted), st.integers(0, 2**62))
def test_the_offset_of_each_record_is_found_again(offsets: list[int], base: int) -> None:
    offsets = [base + one for one in offsets]
    text = spans(offsets)
    assert [offset_at(text, index) for index in range(len(offsets))] == offsets
    assert offset_at(text, len(offsets)) is None


def test_offsets_in_a_row_are_short_and_rubbish_tells_nothing() -> None:
    assert spans(range(7, 5007)) == "7-5006"
    assert spans([7, 8, 9, 12, 15, 15]) == "7-9 12 15*2"
    assert [offset_at(text, 0) for text in ("", "x", "1-", "-1", "1*x")] == [None] * 5


@pytest.mark.parametrize(
    ("value", "records"),
    [
        (b'{"a":1}', [b'{"a":1}']),
        (b'\xef\xbb\xbf{"a":1}', [b'{"a":1}']),
        (b'{"a":\n1}', [b'{"a": 1}']),
        (b'{"a":1}\n\n{"a":2}\r\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\nbroken', [b'{"a":1}', b"broken"]),
        (b'broken\n{"a":1}', [b"broken", b'{"a":1}']),
        (b'[{"a":1},\n{"a":\n2}]', [b'{"a":1}', b'{"a": 2}']),
        (b"no json at all", [b"no json at all"]),  # a line that the pipeline refuses
    ],
)
def test_json_is_one_record_or_lines_or_an_array(value: bytes, records: list[bytes]) -> None:
    assert JsonReader().read(value) == records


@pytest.mark.parametrize("value", [b"", b" \n", b'{"a":\n', b'{"a": [\n {"b":1}\n', b"[1,", b"[]"])
def test_what_is_no_json_as_a_whole_is_refused_as_a_whole(value: bytes) -> None:
    with pytest.raises(FrameError):
        JsonReader().read(value)


def read(schema_or_id: Any, datum: bytes, *, kind: str = "AVRO") -> Any:
    """What an Avro value becomes with a registry that has the schema."""
    with registry() as one:
        number = one.add(schema_or_id, kind) if not isinstance(schema_or_id, int) else schema_or_id
        value = b"\0" + number.to_bytes(4, "big") + datum
        reader = AvroReader(Registry(one.url))
        for _ in range(2):
            asyncio.run(reader.prepare([value, value, b"", b"\0"]))
        assert one.asked == [f"/schemas/ids/{number}"]
        (record,) = reader.read(value)
        return msgspec.json.decode(record)


def written(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def test_avro_of_any_schema_in_the_registry_becomes_json() -> None:
    schema = {
        "type": "record",
        "name": "Login",
        "namespace": "shop",
        "fields": [
            {"name": "user", "type": ["null", "string"], "default": None},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "score", "type": "double"},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
        ],
    }
    datum = written(schema, {"user": "mira", "at": 1_700_000_000_000, "score": float("nan"), "tags": ["a"]})
    assert read(schema, datum) == {"user": "mira", "at": "2023-11-14T22:13:20Z", "score": None, "tags": ["a"]}
    with pytest.raises(FrameError, match="2 bytes follow"):
        read(schema, datum + b"xx")
    with pytest.raises(FrameError, match="not a record of schema"):
        read(schema, datum[:-3])


def test_envelopes_in_avro_are_read_with_and_without_a_registry() -> None:
    expected = {"event_id": "e-1", "source": "billing", "data": {"n": [1, None, "ä"]}}
    from tidegate.codec.versions import avro_schema

    assert read(avro_schema(Envelope), avro.datum(ENVELOPE)) == expected
    (record,) = AvroReader(None).read(avro.to_confluent(ENVELOPE, 7))
    assert msgspec.json.decode(record) == expected
    for value in (b"", b"\0\0\0", b"{}", avro.to_confluent(ENVELOPE, 7)[:-2]):
        with pytest.raises(FrameError):
            AvroReader(None).read(value)


def test_schemas_with_which_few_bytes_do_much_are_refused() -> None:
    nested = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}
    with pytest.raises(FrameError, match="contains itself"):
        read(nested, b"\x02" * 100_000 + b"\0")
    empty = {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}
    many = {"type": "record", "name": "M", "fields": [{"name": "all", "type": {"type": "array", "items": empty}}]}
    with pytest.raises(FrameError, match="no bytes"):
        read(many, b"\xfe\xff\xff\xff\x0f\0")
    doubled: Any = empty
    for number in range(40):
        fields = [{"name": "a", "type": doubled}, {"name": "b", "type": doubled["name"]}]
        doubled = {"type": "record", "name": f"D{number}", "fields": fields}
    with pytest.raises(FrameError, match="more than 20000 values"):
        read(doubled, b"")
    with pytest.raises(FrameError, match="PROTOBUF"):
        read("syntax", b"", kind="PROTOBUF")
    with pytest.raises(FrameError, match="no schema 9"):
        read(9, b"")


def test_a_registry_that_is_away_is_waited_for() -> None:
    with pytest.raises(TierUnavailableError, match="no schema registry answers"):
        asyncio.run(AvroReader(Registry("http://127.0.0.1:9")).prepare([b"\0\0\0\0\1"]))


def test_protobuf_envelopes_are_read_bare_and_framed() -> None:
    message = protobuf.to_message(ENVELOPE)
    for value in (message, b"\0\0\0\0\7\0" + message, b"\0\0\0\0\7\2\6" + message):
        (record,) = ProtobufReader().read(value)
        assert msgspec.json.decode(record) == {"event_id": "e-1", "source": "billing", "data": {"n": [1, None, "ä"]}}
    for value in (b"\0\0\0\0\7", b"\0\0\0\0\7\xff\xff\xff\xff\xff\xff", b"\xff\xff", b"\0\0\0\0\7\xfe\xff\xff\xff\x07"):
        with pytest.raises(FrameError):
            ProtobufReader().read(value)


def test_events_go_out_in_each_format() -> None:
    line = msgspec.json.encode(EVENT)
    with registry() as one:
        made = {
            kind: asyncio.run(_encoded(KafkaOutput(topic="o", format=kind), Registry(one.url), line))
            for kind in ("json", "avro", "protobuf")
        }
        assert one.asked == ["/subjects/o-value/versions"]
    assert msgspec.json.decode(made["json"], type=OcsfEvent) == EVENT
    assert avro.from_confluent(OcsfEvent, made["avro"]) == (100_000, EVENT)
    assert protobuf.from_message(OcsfEvent, made["protobuf"]) == EVENT
    bare = asyncio.run(_encoded(KafkaOutput(topic="o", format="avro"), None, line))
    assert avro.from_confluent(OcsfEvent, bare) == (0, EVENT)


async def _encoded(output: KafkaOutput, one: Registry | None, line: bytes) -> bytes:
    return (await encoder(output, one)())(line)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Kafka(), "kafka.brokers: is not set"),
        (Kafka(brokers="host"), "kafka.brokers: 'host' is not host:port"),
        (Kafka(brokers="a:1,b:x"), "'b:x' is not host:port"),
        (Kafka(brokers="a:1", inputs=[KafkaInput(topic="t", source="s")] * 2), "kafka.inputs: 't' is there twice"),
        (
            Kafka(brokers="a:1", outputs=[KafkaOutput(topic="a.b"), KafkaOutput(topic="a_b")]),
            "kafka.outputs: 'a_b' is there twice",
        ),
        (
            Kafka(brokers="a:1", inputs=[KafkaInput(topic="t", source="s")], outputs=[KafkaOutput(topic="t")]),
            "go round for ever",
        ),
        (
            Kafka(brokers="a:1", outputs=[KafkaOutput(topic="t")], protocol="SASL_SSL"),
            "kafka.username: and kafka.password are needed",
        ),
        (
            Kafka(brokers="a:1", outputs=[KafkaOutput(topic="t")], protocol="SSL", ca_file="/nowhere"),
            "kafka.ca_file: /nowhere cannot be used",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(settings: Kafka, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(settings)
    assert message in str(caught.value)


def test_tables_of_topics_can_come_from_the_environment() -> None:
    found = load(environ={"KAFKA_BROKERS": "a:1", "TIDEGATE_KAFKA_INPUTS": '[{"topic":"eve","source":"suricata"}]'})
    assert found.kafka.inputs == [KafkaInput(topic="eve", source="suricata")]
    for wrong in ("eve", '[{"topic":"eve"}]', '[{"topic":"e v","source":"s"}]'):
        with pytest.raises(ConfigError, match="TIDEGATE_KAFKA_INPUTS"):
            load(environ={"TIDEGATE_KAFKA_INPUTS": wrong})
