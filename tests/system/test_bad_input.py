"""Bad input on the real path: each record ends as an event or as a dead letter that names the reason, none is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest
import zstandard

from tests.system.harness import System, system, until
from tests.test_frame import _lying, _without_size
from tidegate import frame
from tidegate.bus import Bus, connect
from tidegate.codec import avro, protobuf
from tidegate.errors import BusError
from tidegate.event import DeadLetter, DeadLetterFact, Envelope
from tidegate.log import Log, Progress, recorded

MB = 1024 * 1024
_FACT = msgspec.json.Decoder(DeadLetterFact)


def good(case: str, number: int = 0) -> bytes:
    """A record that becomes an event with an id of its own."""
    return b'{"data":{"n":1},"event_id":"%s/%d"}' % (case.encode(), number)


def envelope(case: str, number: int) -> Envelope:
    """The same, not yet encoded."""
    return msgspec.json.decode(good(case, number), type=Envelope)


def amid(case: str, bad: bytes) -> bytes:
    """The bad record between two good ones, one a line."""
    return b"\n".join([good(case, 1), bad, good(case, 2)])


class Case(msgspec.Struct):
    """One frame, and what is to become of it."""

    name: str
    payload: bytes
    content_type: str = frame.NDJSON
    encoding: str = ""
    events: int = 2
    dead: list[tuple[str, str]] = []
    """Stage and rule of each dead letter."""
    source: str = "app"
    headers: dict[str, str] = {}


def lines(name: str, bad: bytes, *dead: tuple[str, str], events: int = 2, **more: Any) -> Case:
    return Case(name, amid(name, bad), events=events, dead=list(dead), **more)


def whole(name: str, payload: bytes, rule: str, content_type: str = "", encoding: str = "") -> Case:
    return Case(name, payload, content_type, encoding, events=0, dead=[("frame", rule)])


PACK = msgspec.msgpack.encode
CASES = [
    lines("broken json", b'{"data": ', ("parse", "json")),
    lines("nothing like json", b"<134>1 host app - - -", ("parse", "json")),
    lines("nul bytes", b"\0\0\0", ("parse", "json")),
    lines("invalid utf-8", b'{"data":"\xff\xfe"}', ("parse", "utf8")),
    lines("lone surrogate", b'{"data":"\\ud800"}', ("parse", "json")),
    lines("nan", b'{"data":NaN}', ("parse", "json")),
    lines("infinity", b'{"data":-Infinity}', ("parse", "json")),
    lines("number beyond all floats", b'{"data":1e999}', ("parse", "json")),
    lines("integer of 5000 digits", b'{"data":%s}' % (b"9" * 5000), ("parse", "json")),
    lines("huge integer is kept", b'{"data":{"n":%s},"event_id":"huge integer is kept/3"}' % (b"9" * 40), events=3),
    lines("nested 10,000 deep", b'{"data":%s1%s}' % (b"[" * 10_000, b"]" * 10_000), ("parse", "depth")),
    lines("two records on a line", b'{"data":1}{"data":2}', ("parse", "json")),
    lines("event id of a wrong type", b'{"data":1,"event_id":[1]}', ("validate", "envelope")),
    lines("source of a wrong type", b'{"data":1,"source":7}', ("validate", "envelope")),
    lines("time of a wrong type", b'{"data":1,"timestamp":{}}', ("validate", "envelope")),
    lines("record of more than a megabyte", b'{"data":"%s"}' % (b"x" * MB), ("frame", "record_size")),
    Case("byte order mark and CRLF", b"\xef\xbb\xbf" + good("byte order mark and CRLF", 1) + b"\r\n\r\n"
         + good("byte order mark and CRLF", 2) + b"\r\n"),
    Case("pretty over many lines", msgspec.json.format(good("pretty over many lines")), "", events=1),
    Case("count that lies", amid("count that lies", good("count that lies", 3)), events=3,
         headers={frame.COUNT: "999999"}),
    Case("headers full of nonsense", good("headers full of nonsense"), events=1, headers={
        frame.COUNT: "-1e9", "traceparent": "ff-nonsense", "Tidegate-Attempts": "NaN", "Tidegate-Schema": "x" * 900}),
    Case("no headers at all", good("no headers at all"), "", events=1),
    Case("msgpack", b"\x92" + PACK(json.loads(good("msgpack", 1))) + PACK(json.loads(good("msgpack", 2))),
         frame.MSGPACK),
    Case("msgpack extension", b"\x93" + PACK(json.loads(good("msgpack extension", 1)))
         + PACK({"data": msgspec.msgpack.Ext(5, b"x")}) + PACK(json.loads(good("msgpack extension", 2))),
         frame.MSGPACK, dead=[("validate", "encode")]),
    Case("msgpack cut short", PACK({"data": "x" * 99})[:-9], frame.MSGPACK, events=0, dead=[("parse", "msgpack")]),
    whole("msgpack array that lies", b"\x92\x01", "msgpack", frame.MSGPACK),
    whole("msgpack array of billions", b"\xdd\xff\xff\xff\xff\x01", "record_count", frame.MSGPACK),
    Case("avro", avro.encode(Envelope, [envelope("avro", 1), envelope("avro", 2)], "zstandard"), frame.AVRO),
    Case("avro with data that is not JSON", avro.container(Envelope, [
        avro.datum(envelope("avro with data that is not JSON", 1)), b"\x08what" + bytes(6),
        avro.datum(envelope("avro with data that is not JSON", 2))]), frame.AVRO, dead=[("parse", "json")]),
    Case("avro record of more than a megabyte", avro.encode(Envelope, [
        envelope("avro record of more than a megabyte", 1), Envelope(data="x" * MB),
        envelope("avro record of more than a megabyte", 2)]), frame.AVRO, dead=[("frame", "record_size")]),
    whole("avro cut short", avro.encode(Envelope, [Envelope(data=1)])[:-1], "avro", frame.AVRO),
    Case("protobuf", protobuf.encode(Envelope, [envelope("protobuf", 1), envelope("protobuf", 2)]), frame.PROTOBUF),
    whole("protobuf without lengths", protobuf.to_message(Envelope(data="x" * 99)), "protobuf", frame.PROTOBUF),
    whole("empty frame", b"", "empty"),
    whole("blank frame", b" \r\n \n", "empty"),
    whole("empty array", b"[]", "empty"),
    whole("broken array", b'[{"data":1},{"data":]', "json", frame.JSON),
    whole("unknown content type", b"{}", "content_type", "application/x-shockwave-flash"),
    whole("unknown encoding", b"{}", "content_encoding", frame.JSON, "br"),
    whole("not zstd", b"{}", "content_encoding", frame.JSON, "zstd"),
    whole("not gzip", b"{}", "content_encoding", frame.JSON, "gzip"),
    whole("zstd cut short", zstandard.compress(b'{"data":1}\n' * 999)[:-3], "content_encoding", "", "zstd"),
    whole("gzip cut short", gzip.compress(b'{"data":1}\n' * 999)[:-9], "content_encoding", "", "gzip"),
    whole("zstd bomb", zstandard.compress(b" " * (200 * MB)), "inflated_size", "", "zstd"),
    whole("gzip bomb", gzip.compress(b" " * (200 * MB), 1), "inflated_size", "", "gzip"),
    whole("zstd bomb of unknown size", _without_size(b" " * (200 * MB)), "inflated_size", "", "zstd"),
    whole("zstd that lies about its size", _lying(2**60), "content_encoding", "", "zstd"),
    whole("zstd with a huge window", _without_size(b"x" * 99, 27), "content_encoding", "", "zstd"),
    whole("bomb of ten million records", zstandard.compress(b"{}\n" * 10_000_000), "record_count", "", "zstd"),
    Case("text of an unknown source", b"one\n\xfftwo\nthree", "text/plain", events=2, dead=[("parse", "utf8")],
         source="syslog"),
    Case("json values of an unknown source", b'[1,"two",null,[3]]', frame.JSON, events=4, source="numbers"),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}


class Outcome(msgspec.Struct):
    """What has become of all cases."""

    events: dict[str, int]
    dead: dict[str, list[DeadLetter]]
    progress: Progress


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """NATS, an intake, and the process that takes events over HTTP."""
    with system(tmp_path_factory.mktemp("bad")) as one:

        async def begin() -> None:
            await one.serve("nats").ready()
            one.run("event-streaming")
            one.run("transformation-pipeline")
            await one.ready()

        asyncio.run(begin())
        yield one


@pytest.fixture(scope="module")
def outcome(one: System) -> Outcome:
    """All cases published to partition 0, taken in, and read back."""

    async def publish() -> Outcome:
        async with connect(one.settings.nats_url) as bus:
            names = {}
            for case in CASES:
                headers = dict(case.headers)
                if case.content_type:
                    headers[frame.CONTENT_TYPE] = case.content_type
                if case.encoding:
                    headers[frame.CONTENT_ENCODING] = case.encoding
                ack = await bus.publish(f"ingest.{case.source}.0", case.payload, headers)
                names[ack.seq] = case.name
            progress = await _progress(bus, one, 0, len(CASES))
            # Core publishes, as `nats pub ingest.app '...'` does: no headers, no acknowledgement, no partition.
            before = [await _records(bus, one, partition) for partition in range(4)]
            for number in range(8):
                await bus.send("ingest.app", good("core", number))
            await until(lambda: _grown(bus, one, sum(before) + 8), 15, "the core publishes are taken in")
            dead: dict[str, list[DeadLetter]] = defaultdict(list)
            events: dict[str, int] = defaultdict(int)
            log = Log(bus, one.declared.shards)
            async for message in log.read("log.dead.*"):
                for line in frame.split_lines(frame.inflate(message.payload, "zstd", 2**31)):
                    fact = _FACT.decode(line)
                    assert isinstance(fact, DeadLetter)
                    dead[names[int(fact.origin.split("#")[0].split("/")[2])]].append(fact)
            async for message in log.read("log.event.*"):
                for line in recorded(message).lines():
                    uid, _, _number = json.loads(line)["metadata"]["uid"].partition("/")
                    events[uid] += 1
            return Outcome(events, dead, progress)

    return asyncio.run(publish())


async def _progress(bus: Bus, one: System, partition: int, frames: int) -> Progress:
    log = Log(bus, one.declared.shards)
    found: Progress | None = None

    async def done() -> bool:
        nonlocal found
        assert one.programs["transformation-pipeline"].running, one.programs["transformation-pipeline"].log_tail()
        _, found = await log.progress("intake", partition)
        return found is not None and found.frames >= frames

    await until(done, 60, f"{frames} frames of partition {partition} are taken in")
    assert found is not None
    return found


async def _records(bus: Bus, one: System, partition: int) -> int:
    _, progress = await Log(bus, one.declared.shards).progress("intake", partition)
    return progress.records if progress else 0


async def _grown(bus: Bus, one: System, records: int) -> bool:
    return sum([await _records(bus, one, partition) for partition in range(4)]) >= records


@pytest.mark.parametrize("name", BY_NAME)
def test_a_bad_record_is_a_dead_letter_with_its_reason_and_its_neighbours_are_events(
    outcome: Outcome, name: str
) -> None:
    case, dead = BY_NAME[name], outcome.dead.get(name, [])
    assert sorted((letter.stage, letter.rule) for letter in dead) == sorted(case.dead)
    assert all(letter.error and letter.source == case.source and letter.received_ms for letter in dead)
    if case.source == "app":
        assert outcome.events.get(name, 0) == case.events


def test_a_dead_letter_holds_the_bytes_as_they_came(outcome: Outcome) -> None:
    (bomb,) = outcome.dead["gzip bomb"]
    assert (bomb.original, bomb.content_encoding) == (BY_NAME["gzip bomb"].payload, "gzip")
    (large,) = outcome.dead["record of more than a megabyte"]
    large_record = b'{"data":"%s"}' % (b"x" * MB)
    assert frame.inflate(large.original, large.content_encoding, 2 * MB) == large_record
    (of_avro,) = outcome.dead["avro record of more than a megabyte"]
    assert of_avro.content_type == frame.JSON
    assert frame.inflate(of_avro.original, of_avro.content_encoding, 2 * MB) == large_record
    (broken,) = outcome.dead["broken json"]
    assert broken.original == b'{"data": '


def test_records_are_events_plus_filtered_plus_dead_letters(outcome: Outcome) -> None:
    progress = outcome.progress
    assert progress.dead == sum(len(case.dead) for case in CASES)
    assert progress.events == sum(case.events for case in CASES)
    assert progress.records == progress.events + progress.filtered + progress.dead


def test_plain_core_publishes_are_taken_in(outcome: Outcome) -> None:
    assert outcome.events["core"] == 8


@pytest.mark.anyio
async def test_a_frame_over_the_limit_is_refused_by_the_server(one: System) -> None:
    async with connect(one.settings.nats_url) as bus:
        with pytest.raises(BusError, match="message size exceeds maximum allowed"):
            await bus.publish("ingest.app.0", bytes(5 * MB))


def _post(one: System, payload: bytes, path: str = "app", **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{one.programs['event-streaming'].url}/v1/events/{path}",
        payload,
        {name.replace("_", "-"): value for name, value in headers.items()},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        kind = error.headers["content-type"]
        return error.code, json.loads(error.read()) if kind.startswith("application/problem+json") else {}


@pytest.mark.parametrize(
    ("status", "payload", "path", "headers"),
    [
        pytest.param(400, b"", "app", {}, id="empty"),
        pytest.param(400, b"[1,", "app", {"content_type": "application/json"}, id="broken array"),
        pytest.param(400, b"{}", "no.such", {}, id="bad source"),
        pytest.param(413, zstandard.compress(b" " * (200 * MB)), "app", {"content_encoding": "zstd"}, id="bomb"),
        pytest.param(415, b"{}", "app", {"content_encoding": "zstd"}, id="not zstd"),
        pytest.param(415, b"{}", "app", {"content_type": "image/png"}, id="picture"),
    ],
)
def test_over_http_a_bad_body_is_refused_with_a_reason(
    one: System, status: int, payload: bytes, path: str, headers: dict[str, str]
) -> None:
    code, answer = _post(one, payload, path, **headers)
    assert (code, answer["status"]) == (status, status)
    assert answer["detail"]


def test_over_http_a_body_above_the_limit_is_refused_before_it_is_sent(one: System) -> None:
    connection = HTTPConnection(one.programs["event-streaming"].url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v1/events/app")
    connection.putheader("Content-Length", str(5 * MB))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["status"]) == (413, 413)
    connection.close()


def test_over_http_a_repeated_request_is_stored_once(one: System, outcome: Outcome) -> None:
    code, first = _post(one, b'{"data":1}\n{"data":2}', Idempotency_Key="k", content_type=frame.NDJSON)
    assert (code, first["records"], first["duplicate"]) == (202, 2, False)
    code, again = _post(one, b'{"data":1}\n{"data":2}', Idempotency_Key="k", content_type=frame.NDJSON)
    assert (code, again["duplicate"]) == (202, True)
    assert again["position"].rsplit("/", 1)[1] == first["position"].rsplit("/", 1)[1]
