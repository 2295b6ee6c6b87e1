"""Avro, Protobuf and Parquet: what goes in comes out, other implementations agree, and no bytes do harm."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import msgspec
import pyarrow.parquet as pq
import pytest
import zstandard
from fastavro import _read_py  # the same in Python: a decoder of its own
from google.protobuf import text_format
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.codec import strategies
from tidegate.codec import avro, parquet, protobuf
from tidegate.codec.versions import avro_schema
from tidegate.errors import CodecError
from tidegate.event import Envelope
from tidegate.ocsf import Metadata, OcsfEvent, Process, Product

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
EVENT = OcsfEvent(
    class_uid=1007, category_uid=1, activity_id=0, type_uid=100700, severity_id=0, time=-1,
    metadata=Metadata(version="1.8.0", product=Product(name="p"), uid="u", correlation_uid="c"),
)  # fmt: skip
KINDS = st.sampled_from([Envelope, OcsfEvent])
VALUES = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(strategies.of(kind), max_size=4)))
CODECS: dict[str, tuple[Callable[..., bytes], Callable[..., list[Any]]]] = {
    "avro": (avro.encode, avro.decode),
    "protobuf": (protobuf.encode, protobuf.decode),
    "parquet": (parquet.encode, parquet.decode),
}


@pytest.mark.parametrize("codec", CODECS)
@given(found=VALUES)
@QUICK
def test_what_goes_in_comes_out(codec: str, found: tuple[Any, list[Any]]) -> None:
    encode, decode = CODECS[codec]
    kind, values = found
    assert decode(kind, encode(kind, values)) == values


@given(found=VALUES)
@QUICK
def test_one_record_alone_also_does(found: tuple[Any, list[Any]]) -> None:
    kind, values = found
    for value in values:
        assert avro.from_datum(kind, avro.datum(value)) == value
        assert protobuf.from_message(kind, protobuf.to_message(value)) == value
        assert avro.from_confluent(kind, avro.to_confluent(value, 70_000)) == (70_000, value)


@pytest.mark.parametrize("codec", CODECS)
def test_a_process_far_up_comes_back_too(codec: str) -> None:
    encode, decode = CODECS[codec]
    process = Process(pid=0)
    for pid in range(1, 9):
        process = Process(pid=pid, parent_process=process)
    value = msgspec.structs.replace(EVENT, process=process)
    assert decode(OcsfEvent, encode(OcsfEvent, [value])) == [value]


def test_an_empty_list_is_none_in_protobuf_and_itself_elsewhere() -> None:
    value = msgspec.structs.replace(EVENT, privileges=[])
    assert protobuf.decode(OcsfEvent, protobuf.encode(OcsfEvent, [value])) == [EVENT]
    assert avro.decode(OcsfEvent, avro.encode(OcsfEvent, [value])) == [value]
    assert parquet.decode(OcsfEvent, parquet.encode(OcsfEvent, [value])) == [value]


@given(found=VALUES, compression=st.sampled_from(["null", "deflate"]))
@QUICK
def test_fastavros_own_files_and_ours_are_the_same_records(found: tuple[Any, list[Any]], compression: str) -> None:
    kind, values = found
    ours = avro.encode(kind, values)
    rows = list(fastavro.reader(io.BytesIO(ours)))
    assert rows == list(_read_py.reader(io.BytesIO(ours)))
    out = io.BytesIO()
    fastavro.writer(out, avro_schema(kind), rows, codec=compression, sync_interval=100)
    assert avro.decode(kind, out.getvalue()) == values


def test_compressed_files_are_smaller_and_the_same_records() -> None:
    packed = avro.encode(OcsfEvent, [EVENT] * 100, "zstandard")
    assert len(packed) < len(avro.encode(OcsfEvent, [EVENT] * 100)) - 1000
    assert avro.decode(OcsfEvent, packed) == [EVENT] * 100


@given(found=VALUES)
@QUICK
def test_protobuf_text_reads_as_the_same_message(found: tuple[Any, list[Any]]) -> None:
    kind, values = found
    made: type[Message] = protobuf._class(kind)
    for value in values:
        message = made.FromString(protobuf.to_message(value))
        again = text_format.Parse(text_format.MessageToString(message), made())
        assert protobuf.from_message(kind, again.SerializeToString()) == value


def test_duckdb_and_pyarrow_read_the_parquet_files(tmp_path: Path) -> None:
    process = Process(pid=7, parent_process=Process(pid=6, name="sh"))
    values = [EVENT, msgspec.structs.replace(EVENT, process=process, unmapped={"a": [1, None]}, is_mfa=False)]
    path = tmp_path / "events.parquet"
    path.write_bytes(parquet.encode(OcsfEvent, values))
    found = duckdb.execute(
        "SELECT time, metadata.product.name, process.parent_process.name, unmapped::JSON->>'$.a[0]', is_mfa"
        f" FROM read_parquet('{path}') ORDER BY process.pid NULLS FIRST"
    ).fetchall()
    assert found == [(-1, "p", None, None, None), (-1, "p", "sh", "1", False)]
    assert pq.read_table(path).column("process").to_pylist()[1]["parent_process"]["pid"] == 6


@pytest.mark.parametrize("codec", CODECS)
def test_a_number_beyond_64_bits_is_refused_as_such(codec: str) -> None:
    with pytest.raises(CodecError, match="not encodable"):
        CODECS[codec][0](OcsfEvent, [msgspec.structs.replace(EVENT, count=2**63)])
    if codec != "parquet":  # there a time stamp is JSON text
        with pytest.raises(CodecError, match="64 bits"):
            CODECS[codec][0](Envelope, [Envelope(data=1, timestamp=2**63)])


def damaged(codec: str, kind: type[Any]) -> st.SearchStrategy[bytes]:
    """Good bytes with a few of them changed, cut off or put in."""
    value = EVENT if kind is OcsfEvent else Envelope(data={"a": 1}, timestamp=5, event_id="e")
    good = CODECS[codec][0](kind, [value] * 3)
    change = st.tuples(st.integers(0, len(good)), st.integers(0, 4), st.binary(max_size=6))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for at, removed, added in changes:
            data = data[:at] + added + data[at + removed :]
        return data

    return st.lists(change, min_size=1, max_size=4).map(apply) | st.binary(max_size=80)


@pytest.mark.parametrize("kind", [Envelope, OcsfEvent])
@pytest.mark.parametrize("codec", ["avro", "protobuf"])
def test_damaged_bytes_are_refused_or_read_and_nothing_else(codec: str, kind: type[Any]) -> None:
    decode = CODECS[codec][1]

    @given(data=damaged(codec, kind))
    @settings(QUICK, max_examples=300)
    def check(data: bytes) -> None:
        try:
            found = decode(kind, data, max_records=100, max_bytes=100_000)
        except CodecError:
            return
        assert all(isinstance(one, kind) for one in found)

    check()


@given(data=st.binary(max_size=60))
@QUICK
def test_any_datum_of_either_format_is_refused_or_read(data: bytes) -> None:
    for kind in (Envelope, OcsfEvent):
        for read in (avro.from_datum, protobuf.from_message, avro.from_confluent):
            try:
                read(kind, data)
            except CodecError:
                continue


def _file(schema: Any, block: bytes, count: int, compression: bytes = b"null") -> bytes:
    out = io.BytesIO(b"Obj\x01")
    out.seek(4)
    meta = {"avro.schema": json.dumps(schema).encode(), "avro.codec": compression}
    fastavro.schemaless_writer(out, {"type": "map", "values": "bytes"}, meta)
    out.write(bytes(16))
    fastavro.schemaless_writer(out, "long", count)
    fastavro.schemaless_writer(out, "bytes", block)
    out.write(bytes(16))
    return out.getvalue()


ENVELOPE: Any = avro_schema(Envelope)
NESTED = {"type": "record", "name": "Envelope", "namespace": "tidegate.v1",
          "fields": [{"name": "data", "type": ["null", "Envelope"]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (_file(NESTED, b"\x02" * 1_000_000, 1), "none of ours"),
        (_file({"type": "array", "items": "null"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", 1), "none of ours"),
        (_file("nonsense", b"", 1), "none of ours"),
        (_file([[[]]], b"", 1), "none of ours"),
        (_file(ENVELOPE, b"", 2**62), "more than"),
        (_file(ENVELOPE, b"", -5), "more than"),
        (_file(ENVELOPE, zstandard.compress(bytes(500_000_000)), 1, b"zstandard"), "more bytes"),
        (_file(ENVELOPE, b"\x28\xb5\x2f\xfd", 1, b"zstandard"), "damaged"),
        (_file(ENVELOPE, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", 1), "damaged"),
        (_file(ENVELOPE, b"", 0, b"snappy"), "unknown compression"),
    ],
)
def test_hostile_containers_cost_little(payload: bytes, says: str) -> None:
    avro.encode(Envelope, [])
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(CodecError, match=says):
        avro.decode(Envelope, payload, max_records=1000, max_bytes=1_000_000)
    assert time.monotonic() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_messages_in_one_another_without_end_are_refused() -> None:
    data = b""
    for _ in range(200):
        size = protobuf._varint(len(data))
        data = b"\x9a\x01" + size + data
    with pytest.raises(CodecError):
        protobuf.decode(OcsfEvent, protobuf.delimited([data]))
    with pytest.raises(CodecError, match="length"):
        protobuf.decode(OcsfEvent, b"\xff" * 20)
