"""Batches to handlers: what is delivered, what is committed, what comes again, on a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections import Counter as Count

import pytest

from tests.subscriptions.conftest import World, ids_of
from tidegate import Batch, ErrorPolicy, EventFilter, subject, subscribe_to_stream
from tidegate.entities.subscription import Definition
from tidegate.errors import CommandRefusedError, ConfigError

pytestmark = pytest.mark.anyio


class Sink:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    async def __call__(self, batch: Batch) -> None:
        self.batches.append(ids_of(batch))

    @property
    def ids(self) -> list[str]:
        return [one for batch in self.batches for one in batch]


async def test_every_event_once_in_batches_of_frames_and_the_counts_add_up(world: World) -> None:
    await world.append(3, 250)
    await world.append(120, 1)
    sink = Sink()
    async with subscribe_to_stream(world.name, sink, bus=world.bus) as subscriber:
        await subscriber.caught_up()
        lag = await subscriber.lag()
        assert (lag.frames, lag.in_hand, lag.seconds) == (0, 0, 0.0)
    assert sink.ids == world.ids
    assert max(map(len, sink.batches)) == 100
    assert len(sink.batches) < 12, "small frames share batches"
    totals = subscriber.totals
    assert (totals.processed, totals.failed, totals.filtered) == (870, 0, 0)
    assert totals.batches == len(sink.batches)
    assert totals.seconds > 0
    state = await subscriber.state()
    assert state.totals == totals
    assert (state.status, state.places, state.last_failure) == ("active", {}, None)
    assert state.floor > 120


async def test_progress_is_told_about_once_a_second_and_not_once_a_batch(world: World) -> None:
    await world.append(5, 1000)

    async def handle(batch: Batch) -> None:
        await asyncio.sleep(0.02)

    began = time.monotonic()
    async with subscribe_to_stream(world.name, handle, max_batch_size=50, bus=world.bus) as subscriber:
        await subscriber.caught_up()
    changes = [one async for one in world.log.read(subject.entity("subscription", "*"))]
    assert subscriber.totals.batches == 100
    assert 3 <= len(changes) <= 3 + time.monotonic() - began


async def test_what_was_committed_is_not_delivered_again_also_in_the_middle_of_a_frame(world: World) -> None:
    await world.append(2, 1000)
    first, second = Sink(), Sink()

    async def some(batch: Batch) -> None:
        await first(batch)
        if len(first.batches) == 4:
            subscriber._member.stop()

    async with subscribe_to_stream(world.name, some, bus=world.bus) as subscriber:
        await subscriber.ended()
    assert len(first.ids) == 400
    async with subscribe_to_stream(world.name, second, bus=world.bus) as subscriber:
        await subscriber.caught_up()
    assert Count(first.ids + second.ids) == Count(world.ids)
    assert (await subscriber.state()).totals.processed == 2000


async def test_filters_select_by_type_severity_source_and_fields(world: World) -> None:
    await world.append(2, 240)
    sink = Sink()
    where = EventFilter(source="suricata", min_severity=4, fields={"class_uid": 2004})
    async with subscribe_to_stream(
        world.name, sink, types=["detection_finding", 4003, "login"], where=where, bus=world.bus
    ) as subscriber:
        await subscriber.caught_up()
    assert sink.ids == world.ids[1::12]
    assert subscriber.totals.processed + subscriber.totals.filtered == 480
    with pytest.raises(ConfigError, match="no field"):
        async with subscribe_to_stream("x", sink, where=EventFilter(fields={"src_endpoint.ipp": "1"}), bus=world.bus):
            pass
    with pytest.raises(CommandRefusedError, match="letters"):
        async with subscribe_to_stream("no spaces", sink, bus=world.bus):
            pass
    with pytest.raises(CommandRefusedError, match="max_batch_size"):
        async with subscribe_to_stream("x", sink, max_batch_size=0, bus=world.bus):
            pass


async def test_a_handler_that_commits_itself(world: World) -> None:
    await world.append(1, 30)
    seen: Count[str] = Count()

    async def handle(batch: Batch) -> None:
        seen.update(ids_of(batch))
        if batch.attempt == 1 and batch.at.endswith("#10"):
            return
        await batch.commit()
        if batch.at.endswith("#20"):
            raise ValueError("after the commit")

    async with subscribe_to_stream(
        world.name,
        handle,
        auto_commit=False,
        max_batch_size=10,
        on_error=ErrorPolicy(backoff_seconds=0.05),
        bus=world.bus,
    ) as subscriber:
        await subscriber.caught_up()
    assert [seen[one] for one in world.ids] == [1] * 10 + [2] * 10 + [1] * 10
    assert (subscriber.totals.processed, subscriber.totals.batches) == (30, 4)
    failure = (await subscriber.state()).last_failure
    assert failure is not None
    assert (failure.error, failure.next, failure.events) == ("ValueError: after the commit", "committed", 10)


async def test_members_of_a_group_share_and_another_group_gets_everything(world: World) -> None:
    await world.append(40, 50)
    one, other, whole = Sink(), Sink(), Sink()

    def slowly(sink: Sink) -> object:
        async def handle(batch: Batch) -> None:
            await asyncio.sleep(0.01)
            await sink(batch)

        return handle

    members = []
    async with contextlib.AsyncExitStack() as stack:
        for sink, group in ((one, "main"), (other, "main"), (whole, "audit")):
            subscriber = await stack.enter_async_context(
                subscribe_to_stream(
                    world.name,
                    slowly(sink),  # type: ignore[arg-type]
                    group=group,
                    max_batch_size=20,
                    bus=world.bus,
                )
            )
            members.append(subscriber)
        for subscriber in members:
            await subscriber.caught_up()
    assert Count(one.ids + other.ids) == Count(world.ids)
    assert one.ids
    assert other.ids
    assert Count(whole.ids) == Count(world.ids)
    assert await world.manager.names() == [(world.name, "audit"), (world.name, "main")]


async def test_pause_resume_seek_and_delete_reach_members_at_work(world: World) -> None:
    await world.append(10, 10)
    middle = (await world.log.state()).last_sequence + 1
    await asyncio.sleep(0.05)
    await world.append(10, 10)
    sink = Sink()
    async with subscribe_to_stream(world.name, sink, max_batch_size=10, bus=world.bus) as subscriber:
        await subscriber.caught_up()
        await subscriber.pause("a holiday")
        await subscriber.pause("again")
        await asyncio.sleep(0.3)
        await world.append(1, 10)
        await asyncio.sleep(0.3)
        assert len(sink.ids) == 200
        state = await subscriber.state()
        assert (state.status, state.reason) == ("paused", "a holiday")
        lag = await subscriber.lag()
        assert lag.frames == 1
        assert lag.seconds > 0.2
        (row,) = await world.manager.rows()
        assert (row["status"], row["lag (frames)"], row["processed"]) == ("paused: a holiday", 1, 200)
        began = time.monotonic()
        await subscriber.resume()
        await subscriber.caught_up()
        assert time.monotonic() - began < 4
        assert len(sink.ids) == 210
        assert (await subscriber.state()).last_failure is None

        await subscriber.seek(middle)
        await subscriber.caught_up()
        assert sink.ids[210:] == world.ids[100:]
        await subscriber.seek("start")
        await subscriber.caught_up()
        assert sink.ids[320:] == world.ids
        await subscriber.seek("end")
        await world.append(1, 3)
        await subscriber.caught_up()
        assert sink.ids[530:] == world.ids[-3:]
        assert [name for name, _ in await world.manager.names()] == [world.name]

        await subscriber.delete()
        await subscriber.delete()
        async with asyncio.timeout(5):
            await subscriber.ended()
        assert await world.manager.names() == []
        with pytest.raises(CommandRefusedError, match="was deleted"):
            await subscriber.state()
        with pytest.raises(CommandRefusedError, match="does not exist"):
            await world.manager.pause("nobody")
    async with subscribe_to_stream(world.name, sink, bus=world.bus) as subscriber:
        await subscriber.caught_up()
    assert len(sink.ids) == 533 + 213
    assert subscriber.totals.processed == 213


async def test_seek_to_a_time(world: World) -> None:
    await world.append(2, 10)
    await asyncio.sleep(0.02)
    at = datetime.datetime.now(datetime.UTC)
    await asyncio.sleep(0.02)
    await world.append(2, 10)
    sink = Sink()
    async with subscribe_to_stream(world.name, sink, start=at, bus=world.bus) as subscriber:
        await subscriber.caught_up()
    assert sink.ids == world.ids[20:]


async def test_a_consumer_that_was_lost_is_made_again_where_the_members_were(world: World) -> None:
    await world.append(10, 10)
    sink = Sink()
    async with subscribe_to_stream(world.name, sink, bus=world.bus) as subscriber:
        await subscriber.caught_up()
        await subscriber._member.reporter.flush()
        await world.bus.api(f"CONSUMER.DELETE.LOG.sub={world.name}=main=1")
        await world.append(1, 10)
        await subscriber.caught_up()
    assert sink.ids == world.ids


async def test_subscribing_again_changes_the_settings_for_all_members(world: World) -> None:
    await world.append(4, 100)
    sink = Sink()
    async with subscribe_to_stream(world.name, sink, max_batch_size=50, bus=world.bus) as subscriber:
        await subscriber.caught_up()
        await world.manager.create(world.name, Definition(max_batch_size=10, member_timeout_seconds=5))
        await asyncio.sleep(0.3)
        await world.append(1, 100)
        await subscriber.caught_up()
    assert {len(one) for one in sink.batches[:8]} == {50}
    assert {len(one) for one in sink.batches[8:]} == {10}
    totals = (await subscriber.state()).totals
    assert (totals.processed, totals.batches) == (500, 18)
