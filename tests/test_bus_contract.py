"""What the rest of Tidegate relies upon in a bus: the same tests for a real NATS server and for the one in memory."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from tests.actor.conftest import nats_server as nats_server
from tests.system.harness import until
from tidegate import app, reader, streams, subject
from tidegate.actor.mailbox import OwnedInput
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import Delivered, OwnershipLostError, PullConsumer
from tidegate.bus import (
    BATCH_DISABLED,
    BATCH_DUPLICATE,
    BATCH_INCOMPLETE,
    BATCH_TOO_LARGE,
    ROLLUP_REFUSED,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_IN_BATCH,
    Bus,
    Outgoing,
    connect,
)
from tidegate.config import Settings
from tidegate.errors import BusError, BusUnavailableError, FencedError, PositionError
from tidegate.log import Log, Progress, check_position, event_messages
from tidegate.memory import MemoryBus, MemoryInput, memory_log

pytestmark = pytest.mark.anyio
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_numbers = itertools.count(1)


class World:
    """A bus with the declared streams, empty."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        memory = isinstance(bus, MemoryBus)
        self.log = memory_log(bus) if isinstance(bus, MemoryBus) else Log(bus, 4)
        self.read: Any = MemoryBus.read if memory else reader.read

    def owned(self, name: str, *filters: str) -> OwnedInput:
        if isinstance(self.bus, MemoryBus):
            return MemoryInput(self.bus, subject.LOG, name, filters)
        return PinnedConsumer(self.bus, subject.LOG, name, filters, pin_timeout_seconds=0.6)

    def shared(self, name: str, *filters: str) -> Any:
        if isinstance(self.bus, MemoryBus):
            return MemoryInput(self.bus, subject.LOG, name, filters)
        return PullConsumer(self.bus, subject.LOG, name, filters, beat_seconds=0.2)

    async def put(self, to: str, payload: bytes = b"", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await self.bus.publish(to, payload, named)).seq

    async def expecting(self, to: str, last: str) -> int:
        return (await self.bus.publish(to, b"", {EXPECTED: last})).seq

    async def refused(self, code: int, *messages: Outgoing) -> None:
        """As a batch, and nothing of it is stored."""
        before = await self.bus.stream(subject.LOG)
        with pytest.raises(BusError) as caught:
            await self.bus.publish_atomic(messages)
        assert caught.value.code == code, caught.value
        assert await self.bus.stream(subject.LOG) == before


@pytest.fixture(params=["nats", "memory"])
async def world(request: pytest.FixtureRequest, nats_server: Settings) -> AsyncIterator[World]:
    if request.param == "memory":
        memory = MemoryBus()
        yield World(memory)
        await memory.aclose()
        return
    declared = app.declarations(nats_server)
    async with connect(nats_server.nats_url) as bus:
        await streams.apply(bus, declared)
        yield World(bus)
    async with connect(nats_server.nats_url) as bus:
        for name in declared.streams:
            await bus.api(f"STREAM.DELETE.{name}")


async def take(one: Any, count: int) -> list[Delivered]:
    found: list[Delivered] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            assert one.trouble is None, one.trouble
            if (message := one.pop()) is not None:
                found.append(message)
            else:
                await asyncio.sleep(0.005)
    return found


async def at(sequence: int) -> int:
    return sequence


# -- requests and plain messages ---------------------------------------------------------------------------------------


async def test_a_request_is_answered_or_ends(world: World) -> None:
    async def answer(message: Msg) -> None:
        await world.bus.send(message.reply, message.data * 2)

    async def silent(message: Msg) -> None:
        pass

    await world.bus.subscribe("twice.*", answer)
    await world.bus.subscribe("silence", silent)
    assert (await world.bus.request("twice.a", b"ab")).data == b"abab"
    started = time.monotonic()
    with pytest.raises(BusUnavailableError, match="nobody"):
        await world.bus.request("nobody.here")
    with pytest.raises(BusUnavailableError, match=r"0\.2 s"):
        await world.bus.request("silence", b"", 0.2)
    assert 0.2 <= time.monotonic() - started < 2


async def test_subscribers_by_pattern_and_one_of_each_queue_get_each_message_in_order(world: World) -> None:
    heard: dict[str, list[bytes]] = {name: [] for name in ("all", "a", "b", "star", "other", "gone")}

    async def hear(name: str, message: Msg) -> None:
        heard[name].append(message.data)
        if message.data == b"3":
            raise ValueError("one that fails does not end the others")

    bus = world.bus
    await bus.subscribe("talk.>", partial(hear, "all"))
    for name in ("a", "b"):
        await bus.subscribe("talk.*", partial(hear, name), queue="q")
    await bus.subscribe("talk.*", partial(hear, "star"))
    await bus.subscribe("talk", partial(hear, "other"))
    await bus.unsubscribe(await bus.subscribe("talk.*", partial(hear, "gone")))
    sent = [b"%d" % n for n in range(20)]
    for one in sent:
        await bus.send("talk.x", one)
    await bus.send("talk.x.y", b"deep")

    async def done() -> bool:
        return heard["all"] == [*sent, b"deep"] and heard["star"] == sent

    await until(done, 5, "all is heard")
    assert sorted(heard["a"] + heard["b"]) == sorted(sent)
    assert heard["other"] == heard["gone"] == []


async def test_whoever_sends_does_not_wait_for_who_hears(world: World) -> None:
    async def slow(message: Msg) -> None:
        await asyncio.sleep(1)

    await world.bus.subscribe("slow", slow)
    started = time.monotonic()
    await world.bus.send("slow")
    assert time.monotonic() - started < 0.5


async def test_what_comes_on_a_subject_of_its_own_resolves_its_future(world: World) -> None:
    token, future = world.bus.expect()
    other, waiting = world.bus.expect()
    assert token != other
    await world.bus.send(token, b"here")
    assert (await asyncio.wait_for(future, 5)).data == b"here"
    assert not waiting.done()
    await world.bus.aclose()
    with pytest.raises(BusUnavailableError):
        await waiting
    with pytest.raises(BusUnavailableError):
        await world.bus.send("x")
    with pytest.raises(BusUnavailableError):
        await world.bus.publish("log.a.0", b"")
    assert not world.bus.connected


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_what_is_published_is_stored_as_it_was(world: World) -> None:
    bus = world.bus
    for number in range(6):
        assert await world.put(f"log.{'ab'[number % 2]}.0", b"%d" % number, Number=str(number)) == number + 1
    found = [
        await bus.message_at("LOG", 3),
        await bus.last_message("LOG", "log.a.0"),
        await bus.last_message("LOG", "log.*.0"),
        await bus.next_message("LOG", 3, "log.b.*"),
    ]
    assert [(one.sequence, one.payload, one.headers["Number"]) for one in found if one] == [
        (3, b"2", "2"),
        (5, b"4", "4"),
        (6, b"5", "5"),
        (4, b"3", "3"),
    ]
    assert found[0] is not None
    assert abs(found[0].time_ms - time.time() * 1000) < 10_000
    assert await bus.message_at("LOG", 7) is None
    assert await bus.last_message("LOG", "log.c.0") is None
    assert await bus.next_message("LOG", 7, "log.>") is None
    assert await bus.subjects("LOG", "log.*.0") == ["log.a.0", "log.b.0"]
    state = await bus.stream("LOG")
    assert (state.name, state.first_sequence, state.last_sequence, state.messages) == ("LOG", 1, 6, 6)


async def test_refusals_carry_the_code_and_what_no_stream_takes_is_unavailable(world: World) -> None:
    with pytest.raises(BusError) as caught:
        await world.bus.stream("NOSUCH")
    assert caught.value.code == STREAM_NOT_FOUND
    with pytest.raises(BusUnavailableError, match="nobody"):
        await world.bus.publish("no.stream.takes.this", b"x")
    with pytest.raises(BusUnavailableError, match="maximum payload"):
        await world.bus.publish("log.a.0", bytes(world.bus.max_payload + 1))
    with pytest.raises(BusError) as caught:
        await world.put("cmd.a.0", Nats_Rollup="sub")
    assert caught.value.code == ROLLUP_REFUSED


async def test_an_expectation_fences_who_comes_late(world: World) -> None:
    assert await world.expecting("log.a.0", "0") == 1
    assert await world.put("log.b.0") == 2
    assert await world.expecting("log.a.0", "1") == 3
    for wrong in ("0", "1", "2", "4", "x"):
        with pytest.raises(BusError) as caught:
            await world.expecting("log.a.0", wrong)
        assert caught.value.code == WRONG_LAST_SEQUENCE
    assert (await world.bus.stream("LOG")).last_sequence == 3


async def test_a_message_id_is_stored_once(world: World) -> None:
    first = await world.bus.publish("cmd.a.0", b"1", {"Nats-Msg-Id": "x"})
    await world.put("cmd.a.0")
    again = await world.bus.publish("cmd.a.0", b"2", {"Nats-Msg-Id": "x"})
    assert (first.seq, first.duplicate, again.seq, again.duplicate) == (1, False, 1, True)
    assert (await world.bus.stream("COMMAND")).messages == 2


async def test_a_rollup_keeps_only_the_newest_of_its_subject(world: World) -> None:
    for to in ("log.a.0", "log.b.0", "log.a.0"):
        await world.put(to)
    assert await world.put("log.a.0", Nats_Rollup="sub") == 4
    assert [one.sequence async for one in world.read(world.bus, "LOG", "log.>", 1, 4)] == [2, 4]
    assert (await world.bus.stream("LOG")).first_sequence == 2


async def test_pipelined_messages_are_acknowledged_each_or_refused(world: World) -> None:
    futures = [await world.bus.submit(Outgoing("log.a.0", b"%d" % n, {})) for n in range(50)]
    late = await world.bus.submit(Outgoing("log.a.0", b"", {EXPECTED: "7"}))
    nowhere = await world.bus.submit(Outgoing("no.stream", b"", {}))
    assert [(await world.bus.acknowledged(one)).seq for one in futures] == list(range(1, 51))
    with pytest.raises(BusError) as caught:
        await world.bus.acknowledged(late)
    assert caught.value.code == WRONG_LAST_SEQUENCE
    with pytest.raises(BusUnavailableError):
        await world.bus.acknowledged(nowhere)


# -- atomic batches ----------------------------------------------------------------------------------------------------


def batch(count: int, expected: int) -> list[Outgoing]:
    return [*[Outgoing("log.a.0", b"x", {})] * count, Outgoing("log.end.0", b"", {EXPECTED: str(expected)})]


async def test_a_batch_is_stored_as_a_whole_or_not_at_all(world: World) -> None:
    ack = await world.bus.publish_atomic(batch(9, 0))
    assert (ack.stream, ack.seq, ack.count, ack.duplicate) == ("LOG", 10, 10, False)
    await world.refused(WRONG_LAST_SEQUENCE, *batch(9, 3))
    assert (await world.bus.publish_atomic(batch(0, 10))).seq == 11
    await world.refused(BATCH_TOO_LARGE, *batch(1000, 11))
    assert (await world.bus.publish_atomic(batch(999, 11))).seq == 1011


async def test_a_batch_that_contradicts_itself_is_refused(world: World) -> None:
    plain = Outgoing("log.a.0", b"", {})
    await world.put("log.a.0", Nats_Msg_Id="known")
    await world.refused(BATCH_DUPLICATE, Outgoing("log.a.0", b"", {"Nats-Msg-Id": "known"}), plain)
    await world.refused(BATCH_DUPLICATE, *[Outgoing("log.a.0", b"", {"Nats-Msg-Id": "new"})] * 2)
    await world.refused(BATCH_DISABLED, plain, Outgoing("cmd.a.0", b"", {}))
    await world.refused(BATCH_INCOMPLETE, Outgoing("cmd.a.0", b"", {}), plain)
    await world.refused(BATCH_INCOMPLETE, Outgoing("no.stream", b"", {}), plain)
    await world.refused(WRONG_LAST_SEQUENCE_IN_BATCH, plain, Outgoing("log.a.0", b"", {EXPECTED: "1"}))
    await world.refused(ROLLUP_REFUSED, plain, Outgoing("log.a.0", b"", {"Nats-Rollup": "sub"}))
    with pytest.raises(BusUnavailableError):
        await world.bus.publish_atomic([plain, Outgoing("no.stream", b"", {})])


async def test_a_batch_may_carry_several_expectations_and_rollups_of_different_subjects(world: World) -> None:
    def two(a: int, b: int) -> list[Outgoing]:
        sequences = (("log.cell.a.0", a), ("log.cell.b.0", b))
        return [Outgoing(to, b"", {EXPECTED: str(last), "Nats-Rollup": "sub"}) for to, last in sequences]

    assert (await world.bus.publish_atomic(two(0, 0))).seq == 2
    await world.refused(WRONG_LAST_SEQUENCE, *two(0, 2))
    await world.refused(WRONG_LAST_SEQUENCE, *two(1, 1))
    assert (await world.bus.publish_atomic(two(1, 2))).seq == 4
    assert [one.sequence async for one in world.read(world.bus, "LOG", "log.>", 1, 4)] == [3, 4]


async def test_of_two_writers_with_the_same_expectation_one_is_fenced_and_stores_nothing(world: World) -> None:
    log = world.log
    assert await log.progress("intake", 0) == (0, None)
    progress = Progress(stream="INGEST", created="now", sequence=7, events=3)
    outcomes = await asyncio.gather(
        *(log.append("intake", 0, event_messages(0, [b"%d" % n], "test"), progress, 0) for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, FencedError) for one in outcomes) == 4
    assert sum(one == 2 for one in outcomes) == 1
    assert await log.progress("intake", 0) == (2, progress)
    assert await log.events_taken_in() == 3
    assert (await log.tally()).count == 1
    assert await log.append("intake", 0, [], progress, 2) == 3
    assert [one.sequence async for one in log.read("log.cell.>")] == [3]
    state = await log.state()
    check_position(state, state.created, 3)
    for created, sequence in (("2020-01-01T00:00:00Z", 3), (state.created, 4)):
        with pytest.raises(PositionError):
            check_position(state, created, sequence)


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_a_range_is_read_once_in_order_and_without_payloads_if_so_wished(world: World) -> None:
    for n in range(60):
        await world.put(f"log.{'ab'[n % 2]}.0", b"%d" % n, Number=str(n))

    async def sequences(pattern: str, first: int, last: int) -> list[int]:
        return [one.sequence async for one in world.read(world.bus, "LOG", pattern, first, last)]

    assert await sequences("log.>", 1, 60) == list(range(1, 61))
    assert await sequences("log.b.*", 11, 20) == [12, 14, 16, 18, 20]
    assert await sequences("log.c.0", 1, 60) == await sequences("log.>", 5, 4) == []
    assert await sequences("log.a.0", 60, 60) == []
    heads = [one async for one in world.read(world.bus, "LOG", "log.a.0", 1, 4, headers_only=True)]
    assert [(one.payload, one.headers["Number"]) for one in heads] == [(b"", "0"), (b"", "2")]


async def test_a_purge_removes_what_it_names_and_no_sequence_is_given_twice(world: World) -> None:
    bus = world.bus
    for n in range(8):
        await world.put(f"log.{'ab'[n % 2]}.0")
    assert await bus.purge("LOG", "log.a.*") == 4
    assert await bus.last_message("LOG", "log.a.0") is None
    assert await bus.subjects("LOG", "log.>") == ["log.b.0"]
    assert await bus.purge("LOG", before=5) == 2
    assert (await bus.stream("LOG")).first_sequence == 6
    assert await world.expecting("log.a.0", "0") == 9
    assert await bus.purge("LOG") == 3
    state = await bus.stream("LOG")
    assert (state.first_sequence, state.last_sequence, state.messages) == (10, 9, 0)


async def test_an_input_delivers_gapless_from_a_position_what_is_there_and_what_comes(world: World) -> None:
    for n in range(10):
        await world.put(f"log.{'abc'[n % 3]}.0", b"%d" % n, Number=str(n))
    one = world.shared(f"in{next(_numbers)}", "log.a.0", "log.b.0")
    try:
        await one.reset(2)
        found = await take(one, 5)
        assert [message.sequence for message in found] == [4, 5, 7, 8, 10]
        assert [message.payload for message in found] == [b"3", b"4", b"6", b"7", b"9"]
        assert [message.number for message in found] == [1, 2, 3, 4, 5]
        assert [message.pending for message in found] == [4, 3, 2, 1, 0]
        assert (found[0].stream, found[0].subject, found[0].headers["Number"]) == ("LOG", "log.a.0", "3")
        assert one.pop() is None
        one.wake.clear()
        await world.put("log.b.0")
        await asyncio.wait_for(one.wake.wait(), 5)
        assert (await take(one, 1))[0].sequence == 11
        await one.reset(9)
        assert [message.sequence for message in await take(one, 2)] == [10, 11]
    finally:
        await one.release()


# -- ownership ---------------------------------------------------------------------------------------------------------


async def test_of_two_owners_one_reads_and_the_next_gets_again_what_was_not_committed(world: World) -> None:
    for _ in range(6):
        await world.put("log.a.0")
    name = f"own{next(_numbers)}"
    first, second, third = (world.owned(name, "log.a.0") for _ in range(3))
    await first.ensure()
    await second.ensure()
    await first.acquire(partial(at, 0))
    waiting = asyncio.create_task(second.acquire(partial(at, 3)))
    try:
        await first.reset(0)
        found = await take(first, 6)
        assert [one.sequence for one in found] == [1, 2, 3, 4, 5, 6]
        await first.ack(found[2])
        await asyncio.sleep(0.3)
        assert not waiting.done()
        with pytest.raises(OwnershipLostError):
            await third.reset(3)
        await first.release()
        await asyncio.wait_for(waiting, 5)
        await second.reset(3)
        assert [one.sequence for one in await take(second, 3)] == [4, 5, 6]
        with pytest.raises(OwnershipLostError):
            await first.reset(3)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for one in (first, second, third):
            await one.release()


# -- objects -----------------------------------------------------------------------------------------------------------


async def test_objects_are_put_replaced_and_removed(world: World) -> None:
    bus, name = world.bus, f"object {next(_numbers)}"
    assert await bus.get_object("no-such-bucket", name) is None
    await bus.delete_object("no-such-bucket", name)
    await bus.put_object("bucket", name, b"one")
    await bus.put_object("bucket", name, b"two" * 100_000)
    assert await bus.get_object("bucket", name) == b"two" * 100_000
    await bus.delete_object("bucket", name)
    await bus.delete_object("bucket", name)
    assert await bus.get_object("bucket", name) is None


async def test_a_subject_that_a_generation_serves_on_is_known_to_one_writer(world: World) -> None:
    _, fact = await world.log.generation("hot")
    sequence = await world.log.set_generation("hot", msgspec.structs.replace(fact, active=2), 0)
    with pytest.raises(FencedError):
        await world.log.set_generation("hot", fact, 0)
    assert await world.log.generation("hot") == (sequence, msgspec.structs.replace(fact, active=2))
