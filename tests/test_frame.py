"""Frames: what is split into records, what is refused, and that no payload costs more than its bound."""

from __future__ import annotations

import gzip
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable

import msgspec
import pytest
import zstandard

from tidegate import frame
from tidegate.errors import FrameError

MAX = 1024 * 1024
RECORDS = [b'{"a":1}', b'{"b":"\xc3\xa9"}', b'{"c":[1,2,{"d":null}]}']


def opened(payload: bytes, content_type: str = "", encoding: str = "", limit: int = MAX) -> tuple[str, list[bytes]]:
    return frame.open_frame(payload, content_type, encoding, limit)


def refused(payload: bytes, content_type: str = "", encoding: str = "", limit: int = MAX) -> str:
    with pytest.raises(FrameError) as caught:
        frame.open_frame(payload, content_type, encoding, limit)
    assert caught.value.problem == str(caught.value) != ""
    return caught.value.rule


@pytest.mark.parametrize("content_type", [frame.NDJSON, "application/jsonl", "Application/X-NDJSON; charset=utf-8", ""])
def test_ndjson_is_split_into_lines_in_order(content_type: str) -> None:
    assert opened(b"\n".join(RECORDS), content_type) == ("json", RECORDS)
    assert opened(b"\n".join(RECORDS) + b"\n", content_type) == ("json", RECORDS)


@pytest.mark.parametrize("content_type", [frame.NDJSON, ""])
def test_crlf_blank_lines_and_a_byte_order_mark_are_not_part_of_the_records(content_type: str) -> None:
    assert opened(b"\xef\xbb\xbf" + b"\r\n".join([*RECORDS, b"", b" \t"]), content_type) == ("json", RECORDS)


@pytest.mark.parametrize("content_type", [frame.JSON, ""])
def test_an_array_is_split_into_its_elements_byte_for_byte(content_type: str) -> None:
    payload = b'\xef\xbb\xbf [{"a": 1 },\n {"b" : [",",{}]}, "text" , 7]'
    assert opened(payload, content_type) == ("json", [b'{"a": 1 }', b'{"b" : [",",{}]}', b'"text"', b"7"])


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("content_type", [frame.JSON, ""])
def test_a_pretty_printed_object_is_one_record(content_type: str, start: bytes) -> None:
    pretty = json.dumps({"a": {"b": [1, 2]}, "c": "d"}, indent=2).replace("\n", "\r\n").encode()
    assert opened(start + pretty, content_type) == ("json", [pretty])


def test_lines_of_which_one_is_broken_are_still_lines() -> None:
    assert opened(b'{"a":\n{"b":2}\n{"c":3}') == ("json", [b'{"a":', b'{"b":2}', b'{"c":3}'])
    assert opened(b'{"a":1}\n{"b":\n') == ("json", [b'{"a":1}', b'{"b":'])


def test_what_is_not_json_and_has_no_content_type_is_text_lines() -> None:
    assert opened(b"Jan  1 host sshd[1]: hello\nsecond\n") == ("text", [b"Jan  1 host sshd[1]: hello", b"second"])
    assert opened(b"\xff\xfe", "text/plain") == ("text", [b"\xff\xfe"])


def test_msgpack_is_one_record_or_an_array_of_them() -> None:
    one, two = msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode({"b": b"\n\xef\xbb\xbf"})
    assert opened(one, frame.MSGPACK) == ("msgpack", [one])
    assert opened(b"\x92" + one + two, "application/x-msgpack") == ("msgpack", [one, two])
    many = [msgspec.msgpack.encode({"n": n}) for n in range(1000)]
    assert opened(b"\xdc\x03\xe8" + b"".join(many), frame.MSGPACK) == ("msgpack", many)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("zstd", zstandard.compress),
        ("ZSTD ", lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:])),
        ("zstd", lambda data: _without_size(data)),
        ("gzip", gzip.compress),
        ("x-gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("identity", bytes),
    ],
)
def test_a_content_encoding_is_undone_also_in_several_pieces(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert opened(pack(b"\n".join(RECORDS)), frame.NDJSON, encoding) == ("json", RECORDS)


def _without_size(data: bytes, window_log: int = 20) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return writer.compress(data) + writer.flush()


@pytest.mark.parametrize("pack", [zstandard.compress, _without_size, gzip.compress])
def test_compressed_data_that_ends_in_the_middle_is_refused_wherever_it_was_cut(pack: Callable[[bytes], bytes]) -> None:
    dice = random.Random(7)
    for content in (b'{"a":1}\n' * 50_000, dice.randbytes(300_000), bytes(400_000)):
        packed = pack(content)
        encoding = "gzip" if pack is gzip.compress else "zstd"
        assert frame.inflate(packed, encoding, MAX) == content
        for cut in {
            1,
            3,
            5,
            9,
            len(packed) - 1,
            len(packed) // 2,
            *(dice.randrange(1, len(packed)) for _ in range(40)),
        }:
            assert refused(packed[:cut], frame.TEXT, encoding) == "content_encoding"


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_data_that_is_not_what_its_encoding_says_is_refused(encoding: str) -> None:
    good = zstandard.compress(b"{}" * 99) if encoding == "zstd" else gzip.compress(b"{}" * 99)
    for payload in (b'{"a":1}', bytes(100), good + b"more", good[:-4] + b"\xff\xff\xff\xff" + b"\0", b"\x28"):
        assert refused(payload, frame.NDJSON, encoding) == "content_encoding"


@pytest.mark.parametrize(
    ("payload", "content_type", "encoding", "rule"),
    [
        (b"", "", "", "empty"),
        (b" \n\r\n", "", "", "empty"),
        (b"[]", "", "", "empty"),
        (b" [ ] ", frame.JSON, "", "empty"),
        (b"\x90", frame.MSGPACK, "", "empty"),
        (b"", "", "zstd", "empty"),
        (b"\xef\xbb\xbf", frame.JSON, "", "empty"),
        (b"{}", "application/pdf", "", "content_type"),
        (b"{}", "x" * 10_000, "", "content_type"),
        (b"{}", frame.JSON, "br", "content_encoding"),
        (b'[{"a":1},{"b":]', frame.JSON, "", "json"),
        (b"[" * 100_000 + b"]" * 100_000, "", "", "json"),
        (b"[NaN]", frame.JSON, "", "json"),
        (b"\x92\x01", frame.MSGPACK, "", "msgpack"),
        (b"\x91" * 500_000 + b"\x01", frame.MSGPACK, "", "msgpack"),
        (b"\xdd\xff\xff\xff\xff\x01", frame.MSGPACK, "", "record_count"),
        (b"{}\n" * (frame.MAX_RECORDS + 1), "", "", "record_count"),
        (b"[" + b"1," * frame.MAX_RECORDS + b"1]", "", "", "record_count"),
        (b"x" * (MAX + 1), "", "", "inflated_size"),
    ],
)
def test_a_frame_that_cannot_be_told_apart_is_refused_by_a_rule(
    payload: bytes, content_type: str, encoding: str, rule: str
) -> None:
    assert refused(payload, content_type, encoding) == rule


def _lying(claimed: int) -> bytes:
    """A zstd frame that claims to hold `claimed` bytes (as eight bytes, in a single segment) but holds 100."""
    return b"\x28\xb5\x2f\xfd\xe0" + claimed.to_bytes(8, "little") + (100 << 3 | 1).to_bytes(3, "little") + b"x" * 100


@pytest.mark.parametrize(
    ("payload", "encoding", "rule"),
    [
        pytest.param(zstandard.compress(bytes(50 * MAX), 19), "zstd", "inflated_size", id="zstd bomb"),
        pytest.param(_without_size(bytes(50 * MAX)), "zstd", "inflated_size", id="zstd bomb of unknown size"),
        pytest.param(zstandard.compress(bytes(MAX)) * 50, "zstd", "inflated_size", id="zstd bomb of many frames"),
        pytest.param(_lying(1), "zstd", "content_encoding", id="zstd that claims less"),
        pytest.param(_lying(200), "zstd", "content_encoding", id="zstd that claims more"),
        pytest.param(_lying(2**62), "zstd", "content_encoding", id="zstd that claims exabytes"),
        pytest.param(_without_size(bytes(100), 27), "zstd", "content_encoding", id="zstd with a window of 128 MB"),
        pytest.param(zstandard.compress(b"") * 300_000, "zstd", "empty", id="zstd of 300,000 empty frames"),
        pytest.param(gzip.compress(bytes(50 * MAX)), "gzip", "inflated_size", id="gzip bomb"),
        pytest.param(gzip.compress(b"") * 200_000, "gzip", "content_encoding", id="gzip of 200,000 empty members"),
        pytest.param(zstandard.compress(b"[" + b"1," * (8 * MAX) + b"1]"), "zstd", "record_count", id="many numbers"),
        pytest.param(zstandard.compress(b"\n" * (16 * MAX) + b"x"), "zstd", "record_count", id="many lines"),
    ],
)
def test_a_bomb_is_refused_quickly_and_in_little_memory(payload: bytes, encoding: str, rule: str) -> None:
    limit = 17 * MAX if rule == "record_count" else MAX
    assert len(payload) < 4 * MAX
    tracemalloc.start()
    try:
        started = time.process_time()
        assert refused(payload, "", encoding, limit) == rule
        spent = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent < 1
    assert peak < 4 * limit + 2 * len(payload)


def test_a_bound_is_met_exactly() -> None:
    content = b"x" * MAX
    for payload, encoding in ((content, ""), (zstandard.compress(content), "zstd"), (gzip.compress(content), "gzip")):
        assert frame.inflate(payload, encoding, MAX) == content
        with pytest.raises(FrameError):
            frame.inflate(payload, encoding, MAX - 1)


def test_sealed_frames_put_one_after_the_other_are_a_sealed_frame_again() -> None:
    both = frame.seal(RECORDS[:2]) + frame.seal(RECORDS[2:])
    assert frame.inflate(both, "zstd", MAX) == b"\n".join(RECORDS) + b"\n"
    assert opened(both, frame.NDJSON, "zstd") == ("json", RECORDS)


def test_the_digest_does_not_depend_on_order_but_on_every_byte() -> None:
    assert frame.digest_of(RECORDS) == frame.digest_of(RECORDS[::-1]) == sum(map(zlib.crc32, RECORDS))
    assert frame.digest_of(RECORDS) != frame.digest_of([*RECORDS[:2], RECORDS[2] + b" "])
    assert frame.digest_of([]) == 0
