"""The publisher: a receipt means stored, nothing is dropped, memory is bounded, and every call ends."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from tests.system.harness import System, system
from tidegate import frame
from tidegate.bus import Bus, connect
from tidegate.errors import BusUnavailableError, PublishError
from tidegate.event import Envelope
from tidegate.publisher import Event, Publisher, Receipt
from tidegate.reader import read

pytestmark = pytest.mark.anyio


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[System]:
    """A server of its own with the declared streams."""
    with system(tmp_path) as one:
        await one.serve("nats").ready()
        async with one.bus():
            pass
        yield one


@pytest.fixture
async def bus(own: System) -> AsyncIterator[Bus]:
    async with connect(own.settings.nats_url) as bus:
        yield bus


async def stored(bus: Bus) -> list[tuple[str, int, list[bytes]]]:
    """Subject, sequence and records of each frame in the ingest stream."""
    last = (await bus.stream("INGEST")).last_sequence
    found = []
    async for one in read(bus, "INGEST", "ingest.>", 1, last):
        _, records = frame.open_frame(
            one.payload, one.headers[frame.CONTENT_TYPE], one.headers.get(frame.CONTENT_ENCODING, ""), 2**25
        )
        assert one.headers[frame.COUNT] == str(len(records))
        found.append((one.subject, one.sequence, records))
    return found


async def holds(bus: Bus, receipts: Sequence[Receipt], records: Sequence[bytes]) -> None:
    """Each receipt's frame holds its record, and everything is there once."""
    frames = {sequence: (subject, found) for subject, sequence, found in await stored(bus)}
    for receipt, record in zip(receipts, records, strict=True):
        subject, found = frames[receipt.sequence]
        assert record in found
        assert (receipt.stream, subject.rsplit(".", 1)[1]) == ("INGEST", str(receipt.partition))
    assert Counter(record for _, found in frames.values() for record in found) == Counter(records)


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [b'{"n":%d,"x":"%s"}' % (n, b"x" * size) for n in range(count)]


async def test_receipts_name_the_frames_that_hold_the_records_which_go_round_all_partitions(bus: Bus) -> None:
    events = numbered(2000)
    async with Publisher(bus=bus, frame_records=100) as publisher:
        receipts = await publisher.publish_many(events)
    assert {one.partition for one in receipts} == {0, 1, 2, 3}
    assert not any(one.duplicate for one in receipts)
    assert str(receipts[0]) == f"INGEST/{receipts[0].partition}/{receipts[0].sequence}"
    await holds(bus, receipts, events)


async def test_every_kind_of_event_goes_under_its_source(bus: Bus) -> None:
    events: list[Event] = [
        {"a": "é"},
        '{"b":1}',
        b'{"c":\n 1}\n',
        Envelope(data={"d": 1}, source="zeek", event_id="e-1"),
        Envelope(data=None),
    ]
    async with Publisher(bus=bus, source="app") as publisher:
        receipts = await publisher.publish_many(events)
    assert len(receipts) == 5
    assert sorted((subject.split(".")[1], records) for subject, _, records in await stored(bus)) == [
        ("app", ['{"a":"é"}'.encode(), b'{"b":1}', b'{"c":  1} ', b'{"data":null}']),
        ("zeek", [b'{"data":{"d":1},"event_id":"e-1","source":"zeek"}']),
    ]


async def test_text_lines_are_published_as_text(bus: Bus) -> None:
    lines = [f"<13>host app[{n}]: it's {n} \xe9" for n in range(300)]
    async with Publisher(bus=bus, codec="text", partition=2) as publisher:
        receipts = await publisher.publish_many([*lines, "with its line end\n"])
        with pytest.raises(PublishError, match="one line"):
            await publisher.publish("two\nlines")
    await holds(bus, receipts, [*(line.encode() for line in lines), b"with its line end"])


async def test_events_published_together_are_in_one_frame_of_their_own(bus: Bus) -> None:
    frames = [[f"#header {n}", *(f"line {n}.{m}" for m in range(1500))] for n in range(6)]
    async with Publisher(bus=bus, codec="text", frame_records=10, max_pending_bytes=40_000) as publisher:
        alone = asyncio.create_task(publisher.publish("alone"))
        await asyncio.sleep(0)
        receipts = await asyncio.gather(*(publisher.publish_together(lines) for lines in frames))
        receipts.append(await alone)
    found = {sequence: records for _, sequence, records in await stored(bus)}
    assert [found[receipt.sequence] for receipt in receipts] == [
        [line.encode() for line in lines] for lines in [*frames, ["alone"]]
    ]


async def test_a_pinned_partition_keeps_the_order(bus: Bus) -> None:
    events = numbered(5000)
    async with Publisher(bus=bus, partition=1, frame_records=37) as publisher:
        for first in range(0, 5000, 500):
            await publisher.publish_many(events[first : first + 500])
    found = await stored(bus)
    assert {subject for subject, _, _ in found} == {"ingest.app.1"}
    assert [record for _, _, records in found for record in records] == events


async def test_single_publishes_of_many_tasks_share_frames(bus: Bus) -> None:
    events = numbered(400)
    async with Publisher(bus=bus, linger_seconds=0.05) as publisher:
        receipts = await asyncio.gather(*(publisher.publish(event) for event in events))
    assert len({one.sequence for one in receipts}) == 1
    await holds(bus, receipts, events)


async def test_a_single_event_waits_no_longer_than_it_lingers(bus: Bus) -> None:
    async with Publisher(bus=bus, linger_seconds=0.2) as publisher:
        started = time.monotonic()
        await publisher.publish({"a": 1})
        assert 0.2 <= time.monotonic() - started < 1
        started = time.monotonic()
        await publisher.publish_many([{"a": 2}])  # does not linger: all there is to come has come
        assert time.monotonic() - started < 0.15


async def test_frames_are_cut_by_records_and_by_bytes(bus: Bus) -> None:
    async with Publisher(bus=bus, frame_records=10, frame_bytes=1000) as publisher:
        await publisher.publish_many(numbered(25))
        await publisher.publish_many(numbered(10, 300))
    sizes = [len(records) for _, _, records in await stored(bus)]
    assert sizes == [10, 10, 5, 3, 3, 3, 1]


@pytest.mark.parametrize(
    "event",
    [
        {"a": object()},
        {("a", "b"): 1},
        {"a": "\ud800"},
        "\ud800",
        Envelope(data={"a": object()}),
        Envelope(data=1, source="no.such source"),
        "",
        b" \n ",
        b"x" * (4 * 1024 * 1024),
    ],
)
async def test_what_cannot_be_published_is_refused_and_others_go_on(bus: Bus, event: Event) -> None:
    async with Publisher(bus=bus) as publisher:
        with pytest.raises(PublishError):
            await publisher.publish(event)
        with pytest.raises(PublishError):
            await publisher.publish_many([{"a": 1}, event])
        assert (await publisher.publish({"a": 2})).sequence == 1


async def test_an_event_that_holds_itself_is_refused(bus: Bus) -> None:
    event: dict[str, Any] = {"nan": math.nan, "big": 10**30}
    async with Publisher(bus=bus) as publisher:
        await publisher.publish(event)
        event["self"] = event
        with pytest.raises(PublishError):
            await publisher.publish(event)


async def test_a_frame_that_the_server_refuses_ends_with_its_reason_and_others_go_on(bus: Bus) -> None:
    async with Publisher(bus=bus, compress=False, frame_bytes=6 * 1024 * 1024) as publisher:
        big = asyncio.create_task(publisher.publish_many(numbered(6, 1_000_000)))
        started = time.monotonic()
        with pytest.raises(PublishError, match="message size exceeds maximum allowed"):
            await big
        assert time.monotonic() - started < 5
        assert (await publisher.publish({"a": 1})).sequence == 1


async def test_a_wrong_source_is_refused_at_once() -> None:
    with pytest.raises(PublishError):
        Publisher(source="a.b")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_when_the_server_stays_away_publishing_fails_after_the_time_for_retries(
    own: System, number: signal.Signals
) -> None:
    async with Publisher(own.settings.nats_url, retry_seconds=1.5) as publisher:
        await publisher.publish({"a": 1})
        own.programs["nats"].signal(number)
        started = time.monotonic()
        with pytest.raises(PublishError, match="not acknowledged"):
            await publisher.publish({"a": 2})
        assert 0.5 < time.monotonic() - started < 4
        with pytest.raises(PublishError):
            await publisher.publish_many([{"a": 3}])
        own.programs["nats"].signal(signal.SIGCONT)


async def test_retries_over_kills_of_the_server_store_everything_once_and_in_order(own: System) -> None:
    nats = own.programs["nats"]
    events: list[bytes] = []
    receipts: list[Receipt] = []
    enough = False
    async with Publisher(own.settings.nats_url, partition=0, frame_records=20) as publisher:

        async def publish() -> None:
            while not enough:
                more = [b"%d" % (len(events) + n) for n in range(400)]
                events.extend(more)
                receipts.extend(await publisher.publish_many(more))

        publishing = asyncio.create_task(publish())
        for pause in (0.05, 0.12, 0.03):
            await asyncio.sleep(pause)
            nats.kill()
            nats.start()
            before = len(receipts)
            while len(receipts) < before + 400:
                assert not publishing.done()
                await asyncio.sleep(0.01)
        enough = True
        await publishing
    async with connect(own.settings.nats_url) as bus:
        await holds(bus, receipts, events)
        assert [record for _, _, records in await stored(bus) for record in records] == events


async def test_a_frame_that_was_stored_although_its_acknowledgement_was_lost_is_flagged_as_a_duplicate(
    own: System,
) -> None:
    async with Publisher(own.settings.nats_url, retry_seconds=30) as publisher, connect(own.settings.nats_url) as bus:
        answered = bus.acknowledged
        lose = True

        async def loses_one(future: asyncio.Future[Any], timeout_seconds: float | None = None) -> Any:
            nonlocal lose
            ack = await answered(future, timeout_seconds)
            if lose:
                lose = False
                raise BusUnavailableError("the acknowledgement was lost")
            return ack

        bus.acknowledged = loses_one  # type: ignore[method-assign]
        async with Publisher(bus=bus) as losing:
            receipt = await losing.publish({"a": 1})
        assert receipt.duplicate
        assert not (await publisher.publish({"a": 2})).duplicate
        assert [records for _, _, records in await stored(bus)] == [[b'{"a":1}'], [b'{"a":2}']]


async def test_memory_stays_bounded_while_the_server_does_not_answer(own: System) -> None:
    events = numbered(200, 50_000)
    async with Publisher(own.settings.nats_url, max_pending_bytes=1_000_000, frame_bytes=200_000) as publisher:
        await publisher.publish(events[0])
        own.programs["nats"].signal(signal.SIGSTOP)
        publishing = asyncio.create_task(publisher.publish_many(events))
        most = 0
        for _ in range(30):
            await asyncio.sleep(0.02)
            most = max(most, publisher.pending_bytes)
        assert not publishing.done()
        assert 500_000 < most <= 1_000_000
        own.programs["nats"].signal(signal.SIGCONT)
        assert len(await publishing) == 200


async def test_closing_sends_what_is_open_and_answers_whoever_waits(bus: Bus) -> None:
    async with Publisher(bus=bus, linger_seconds=30) as publisher:
        waiting = [asyncio.create_task(publisher.publish({"a": n})) for n in range(3)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
    assert [(await one).sequence for one in waiting] == [1, 1, 1]


@pytest.mark.parametrize("codec", ["avro", "protobuf"])
async def test_envelopes_go_as_avro_or_protobuf_where_that_is_asked_for(
    bus: Bus, codec: Literal["avro", "protobuf"]
) -> None:
    events = [Envelope(data={"n": n, "text": "a\nb" * 500}, timestamp=n, source="billing") for n in range(3)]
    async with Publisher(bus=bus, codec=codec) as publisher:
        receipts = await publisher.publish_many(events)
        with pytest.raises(PublishError, match="an event is an Envelope, not dict"):
            await publisher.publish({"n": 1})
        with pytest.raises(PublishError, match="64 bits"):
            await publisher.publish(Envelope(data=1, timestamp=2**63))
    ((subject, sequence, records),) = await stored(bus)
    assert (subject.rsplit(".", 1)[0], {one.sequence for one in receipts}) == ("ingest.billing", {sequence})
    assert [msgspec.json.decode(one, type=Envelope) for one in records] == events
