"""Frames of envelopes in Avro or Protobuf: what the pipeline gets and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec import strategies
from tidegate import frame
from tidegate.codec import avro, protobuf
from tidegate.errors import FrameError
from tidegate.event import Envelope

MAX = 1_000_000
ENCODE: dict[str, Callable[[Sequence[Envelope]], bytes]] = {
    frame.AVRO: lambda values: avro.encode(Envelope, values, "zstandard"),
    frame.PROTOBUF: lambda values: protobuf.encode(Envelope, values),
}


@pytest.mark.parametrize("content_type", ENCODE)
@given(values=st.lists(strategies.of(Envelope), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_envelopes_become_the_same_envelopes_in_json(content_type: str, values: list[Envelope]) -> None:
    codec, records = frame.open_frame(ENCODE[content_type](values), f"{content_type}; v=1", "", MAX)
    assert codec == "json"
    # JSON has no infinity, so the time stamp of such an envelope is null there too.
    assert [msgspec.json.decode(one, type=Envelope) for one in records] == [
        msgspec.json.decode(msgspec.json.encode(value), type=Envelope) for value in values
    ]


def _raw(content_type: str, texts: list[str]) -> bytes:
    """Envelopes whose data is these texts, JSON or not."""
    if content_type == frame.AVRO:
        # In the datum: the length of the text, the text, and six absent fields.
        return avro.container(Envelope, [bytes([2 * len(text)]) + text.encode() + bytes(6) for text in texts])
    return protobuf.delimited([b"\x0a" + bytes([len(text)]) + text.encode() for text in texts])


@pytest.mark.parametrize("content_type", ENCODE)
def test_data_that_is_not_json_spoils_only_its_own_record(content_type: str) -> None:
    _, records = frame.open_frame(_raw(content_type, ["{}", '1},"source":"x"', "", "[" * 60]), content_type, "", MAX)
    assert records[0] == b'{"data":{}}'
    for record in records[1:3]:
        with pytest.raises((msgspec.DecodeError, msgspec.ValidationError)):
            msgspec.json.decode(record, type=Envelope)
    assert records[3] == b"[" * 60


@pytest.mark.parametrize(
    ("payload", "content_type", "rule"),
    [
        (b"", frame.AVRO, "empty"),
        (avro.container(Envelope, []), frame.AVRO, "empty"),
        (b"{}", frame.AVRO, "avro"),
        (b"{}", frame.PROTOBUF, "protobuf"),
        (bytes(frame.MAX_RECORDS + 1), frame.PROTOBUF, "protobuf"),
        (avro.container(Envelope, [bytes(7)] * (frame.MAX_RECORDS + 1)), frame.AVRO, "avro"),
        (avro.encode(Envelope, [Envelope(data="x" * MAX)] * 3, "zstandard"), frame.AVRO, "avro"),
    ],
)
def test_what_is_not_such_a_frame_is_refused_by_a_rule(payload: bytes, content_type: str, rule: str) -> None:
    with pytest.raises(FrameError) as caught:
        frame.open_frame(payload, content_type, "", MAX)
    assert caught.value.rule == rule


@pytest.mark.parametrize("content_type", ENCODE)
@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"Obj\x01", b"\x05\x0a"]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_opened_or_refused(content_type: str, data: bytes, start: bytes) -> None:
    rule, records = "", []
    try:
        records = frame.open_frame(start + data, content_type, "", MAX)[1]
    except FrameError as error:
        rule = error.rule
    assert records if rule == "" else rule in ("avro", "protobuf", "empty")
