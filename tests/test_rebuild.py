"""Rebuilding and verifying read models: real servers, damage done by hand, logs that were trimmed or replaced."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import bson
import msgspec
import pytest

from tests.conftest import local_settings, running
from tests.system.harness import until
from tests.tiers import frames
from tidegate import app, history, rebuild, streams, subject
from tidegate.actor.cell import Cell
from tidegate.actor.cell import running as cells_running
from tidegate.actor.generations import GenerationWork
from tidegate.actor.ownership import PinnedConsumer
from tidegate.bus import Bus, connect
from tidegate.config import Hot, Nats, Redis, Settings, Warm
from tidegate.entities.correlation import Correlations
from tidegate.errors import FencedError, PositionError, RebuildError
from tidegate.head import record_id
from tidegate.history import cells_of
from tidegate.local.processes import environment
from tidegate.local.servers import server
from tidegate.log import Log, Progress, event_messages, recorded
from tidegate.projection import Generation, Position, Rebuildable, Recorded
from tidegate.projector import ProjectionWork
from tidegate.rederive import Rederivation
from tidegate.tiers.hot import HotTier
from tidegate.verify import compare, repair

pytestmark = pytest.mark.anyio

TIERS = ("hot", "warm", "lake")
ALL = (*TIERS, "cold")


class World:
    """An empty log, and places for read models of it."""

    def __init__(self, settings: Settings, bus: Bus, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.bus = bus
        self.log = Log(bus, 4)
        self._stack = stack
        self.written: list[bytes] = []

    def make(self, tier: str, generation: int = 1) -> Any:
        return app.read_models(self.settings, [tier], {tier: generation})[tier]

    async def opened(self, tier: str, generation: int = 1) -> Any:
        model = self.make(tier, generation)
        self._stack.push_async_callback(model.aclose)
        await model.open()
        return model

    def rebuild(self, tier: str, *, limit: int = 40, archive: Any = None) -> rebuild.Rebuild:
        return rebuild.Rebuild(self.log, tier, lambda one: self.make(tier, one), limit=limit, archive=archive)

    async def write(self, count: int, *, partition: int = 0) -> None:
        """A commit of the intake: one frame for each shard with `count` events."""
        expected, before = await self.log.progress("intake", partition)
        events = [frames.encode(one) for one in frames.events(4 * count, seed=len(self.written) + 1)]
        self.written += events
        messages = [one for shard in range(4) for one in event_messages(shard, events[shard::4], "test")]
        done = (before.events if before else 0) + len(events)
        progress = Progress(stream=subject.INGEST, created="then", sequence=done, events=done)
        await self.log.append("intake", partition, messages, progress, expected)

    async def catch_up(self, model: Any) -> None:
        """What the storage-manager does."""
        created = (await self.log.state()).created
        # The last shard first: which one is ahead is a matter of chance.
        for cell, subjects in reversed(cells_of(model, 4).items()):
            stored = await model.position(cell)
            batch = [recorded(one) async for one in self.log.read(subjects, stored.sequence + 1 if stored else 1)]
            if batch:
                before = stored or Position(stream=subject.LOG, created=created, sequence=0)
                await model.apply(cell, model.project(batch), stored, before.after(batch))

    async def trim(self, upto: int) -> None:
        await self.bus.api(f"STREAM.PURGE.{subject.LOG}", {"seq": upto + 1})


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    own = local_settings(tmp_path_factory.mktemp("rebuild"))
    with running(server("nats", own)):
        yield own.nats_url


@pytest.fixture(scope="module")
def shared(serve: Callable[[str], Settings]) -> Settings:
    return [serve(name) for name in ("redis", "mongo", "s3")][-1]


@pytest.fixture
async def world(nats: str, shared: Settings) -> AsyncIterator[World]:
    name = f"rebuild-{uuid.uuid4().hex[:8]}"
    settings = msgspec.structs.replace(
        shared,
        nats=Nats(url=nats),
        redis=Redis(url=shared.redis_url.replace("/0", "/6")),
        mongodb=msgspec.structs.replace(shared.mongodb, database=name),
        s3=msgspec.structs.replace(shared.s3, bucket=name),
        catalog=msgspec.structs.replace(shared.catalog, table=name.replace("-", "_")),
    )
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(connect(nats))
        await streams.apply(bus, app.declarations(settings))
        one = World(settings, bus, stack)
        hot = await one.opened("hot")
        await hot._redis.flushdb()
        yield one
        await bus.api(f"STREAM.DELETE.{subject.LOG}")


@pytest.mark.parametrize("tier", TIERS)
async def test_a_rebuild_is_equal_swapped_in_rolled_back_and_collected(world: World, tier: str) -> None:
    first = await world.opened(tier)
    for _ in range(3):
        await world.write(25)
    await world.catch_up(first)
    outcome = await world.rebuild(tier).run()
    assert (outcome.generation, outcome.previous, outcome.events, outcome.resumed) == (2, 1, 300, False)
    second = await world.opened(tier, 2)
    assert await second.tally() == await world.log.tally() == await first.tally()
    await world.write(5)
    await world.catch_up(second)
    assert not (await compare(world.log, second)).differences
    back = await rebuild.rollback(world.log, tier)
    assert (back.active, back.previous) == (1, 2)
    await world.catch_up(first)
    assert not (await compare(world.log, first)).differences

    again = await world.rebuild(tier).run()
    assert (again.generation, again.previous, again.events) == (3, 1, 320)
    for generation in (1, 2, 3):
        for cell, subjects in cells_of(first, 4).items():
            await PinnedConsumer(
                world.bus, subject.LOG, history.consumer_of(tier, cell, generation), [subjects]
            ).ensure()
    assert await rebuild.collect(world.log, tier, lambda one: world.make(tier, one)) == [2]
    assert await (await world.opened(tier, 3)).generations() == [1, 3]
    kept = {history.consumer_of(tier, cell, generation) for generation in (1, 3) for cell in cells_of(first, 4)}
    assert set((await world.bus.api(f"CONSUMER.NAMES.{subject.LOG}"))["consumers"]) == kept
    assert await rebuild.collect(world.log, tier, lambda one: world.make(tier, one)) == []


@pytest.mark.parametrize("tier", TIERS)
async def test_an_interrupted_rebuild_is_carried_on(world: World, tier: str) -> None:
    for _ in range(4):
        await world.write(25)
    interrupted = world.rebuild(tier, limit=100)
    make = interrupted._make
    applied = 0
    one_at_a_time = asyncio.Lock()

    def ends_early(generation: int) -> Rebuildable:
        model = make(generation)
        apply = model.apply

        async def dying(*arguments: Any) -> None:
            nonlocal applied
            async with one_at_a_time:
                if applied == 2:
                    raise KeyError("the end")
                await apply(*arguments)
                applied += 1

        cast("Any", model).apply = dying
        return model

    interrupted._make = ends_early
    with pytest.raises(ExceptionGroup):
        await interrupted.run()
    state = (await world.log.generation(tier))[1]
    assert (state.active, state.building, state.next) == (1, 2, 3)
    outcome = await world.rebuild(tier, limit=100).run()
    assert (outcome.generation, outcome.resumed, outcome.events) == (2, True, 400)
    assert outcome.applied == 200


def _started(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tidegate", *arguments]
    return subprocess.Popen(command, env=environment(settings), stdout=subprocess.DEVNULL)


async def test_a_rebuild_that_was_killed_is_carried_on(world: World) -> None:
    for _ in range(40):
        await world.write(25)
    small = msgspec.structs.replace(world.settings, warm=Warm(batch_events=20))
    process = _started(small, "rebuild", "warm", "--json")
    shadow = world.make("warm", 2)

    async def begun() -> bool:
        assert process.poll() is None, "it has ended by itself"
        position = await shadow.position("all")
        return position is not None and position.count >= 200

    try:
        await until(begun, 60, "some batches are in")
    finally:
        process.kill()
        process.wait()
        await shadow.aclose()
    assert (await world.log.generation("warm"))[1].active == 1
    outcome = await world.rebuild("warm").run()
    assert (outcome.generation, outcome.resumed, outcome.events) == (2, True, 4000)
    assert 0 < outcome.applied <= 3800


async def test_what_is_not_equal_is_not_swapped_in_and_can_be_begun_anew(world: World) -> None:
    await world.write(25)
    wrong = world.rebuild("warm")
    make = wrong._make

    def losing(generation: int) -> Rebuildable:
        model = make(generation)
        project = model.project

        def without_the_last(batch: list[Recorded]) -> Any:
            return project(batch)[:-1]

        cast("Any", model).project = without_the_last
        return model

    wrong._make = losing
    with pytest.raises(RebuildError, match=r"not equal .* missing .*--restart"):
        await wrong.run()
    assert (await world.log.generation("warm"))[1].active == 1
    outcome = await world.rebuild("warm").run(restart=True)
    assert (outcome.generation, outcome.resumed) == (3, False)


async def test_only_one_of_two_changes_to_the_same_fact_succeeds(world: World) -> None:
    await world.log.set_generation("hot", Generation(active=2), 0)
    with pytest.raises(FencedError):
        await world.log.set_generation("hot", Generation(active=3), 0)
    assert (await world.log.generation("hot"))[1].active == 2


async def test_there_is_no_rollback_without_a_previous_generation(world: World) -> None:
    with pytest.raises(RebuildError, match="no previous generation"):
        await rebuild.rollback(world.log, "hot")


@pytest.mark.parametrize("tier", TIERS)
async def test_a_trimmed_log_is_refused_without_the_archive_and_exact_with_it(world: World, tier: str) -> None:
    cold = await world.opened("cold")
    await world.write(25)
    await world.write(25)
    await world.catch_up(cold)
    await world.write(25)
    tally = await world.log.tally()
    # In the midst of a commit, so that some shards are cut earlier than others.
    await world.trim(7)
    with pytest.raises(PositionError, match="--from-archive"):
        await world.rebuild(tier).run()
    outcome = await world.rebuild(tier, archive=cold).run()
    assert outcome.events == 300
    assert await (await world.opened(tier, 2)).tally() == tally


async def test_correlations_are_derived_from_the_archive_where_the_log_was_trimmed(world: World) -> None:
    cold = await world.opened("cold")
    await world.write(25)
    await world.write(25)
    await world.catch_up(cold)
    await world.write(25)
    ends = await world.log.last_event_sequences()
    cells = [
        Cell(
            f"correlation.{shard}",
            GenerationWork(world.bus, world.log, Correlations(), shard, 1),
            app.entity_inputs(world.bus, Correlations(), shard, 1.0),
        )
        for shard in range(4)
    ]
    async with cells_running(cells), asyncio.timeout(20):
        for shard, end in ends.items():
            while cells[shard].status.positions.get(subject.LOG) != end:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await world.trim(7)
    with pytest.raises(PositionError, match="--from-archive"):
        await Rederivation(world.bus, world.log, Correlations()).run()
    outcome = await Rederivation(world.bus, world.log, Correlations(), archive=cold).run()
    assert (outcome.events, outcome.differing, outcome.after.count) == (300, 0, outcome.before.count)
    assert outcome.after.count > 0


async def test_an_archive_with_a_gap_before_the_log_is_refused(world: World) -> None:
    cold = await world.opened("cold")
    await world.write(25)
    await world.catch_up(cold)
    await world.write(25)
    await world.write(25)
    await world.trim(9)
    with pytest.raises(PositionError, match="neither in the log nor in the cold archive"):
        await world.rebuild("hot", archive=cold).run()


async def test_a_position_before_what_was_trimmed_is_refused(world: World) -> None:
    model = await world.opened("warm")
    work = ProjectionWork(world.log, model, "all", limit=100, linger_seconds=0)
    await world.write(25)
    await world.catch_up(model)
    await world.trim((await world.log.state()).last_sequence)
    await work.recover()  # all that was trimmed is in
    await world.write(25)
    await work.recover()
    await world.write(25)
    await world.trim((await world.log.state()).last_sequence - 3)
    with pytest.raises(PositionError, match=r"trimmed before .*`tidegate rebuild warm --from-archive"):
        await work.recover()


async def test_a_gap_left_by_a_rollup_is_harmless(world: World) -> None:
    model = await world.opened("hot")
    # A batch without events comes first: its progress record is replaced by the next one, and the log begins later.
    await world.log.append("intake", 0, [], Progress(stream=subject.INGEST, created="then", sequence=1), 0)
    await world.write(5)
    assert (await world.log.state()).first_sequence > 1
    await ProjectionWork(world.log, model, "0", limit=100, linger_seconds=0).recover()


async def test_a_log_restored_from_an_older_copy_that_has_grown_is_refused(world: World) -> None:
    model = await world.opened("warm")
    await world.write(5)
    await world.catch_up(model)
    position = await model.position("all")
    await world.bus.api(f"STREAM.MSG.DELETE.{subject.LOG}", {"seq": position.sequence})
    with pytest.raises(PositionError, match="names no event frame"):
        await world.log.check(position)


async def _damage(world: World, tier: str, model: Any, one: Recorded) -> None:
    """Loses the frame, or for cold, spoils it."""
    match tier:
        case "hot":
            async for key in model._redis.scan_iter(f"tg:1:b:{one.sequence}:*"):
                await model._redis.delete(key)
        case "warm":
            await model._events.delete_one({"_id": record_id(one.sequence, 3)})
        case "lake":
            model._load().delete(f"log_sequence = {one.sequence} and log_index = 3")
        case "cold":
            objects = model._objects
            await objects.mend(str(one.shard), 0, 0, b"\0" * len(one.payload))


@pytest.mark.parametrize("tier", ALL)
async def test_damage_is_named_and_repaired(world: World, tier: str) -> None:
    model = await world.opened(tier)
    await world.write(25)
    await world.write(25)
    await world.catch_up(model)
    clean = await compare(world.log, model)
    assert (clean.events, clean.differences) == (200, [])
    one = next(iter([recorded(one) async for one in world.log.read(subject.event(1))]))
    ids = [msgspec.json.decode(line)["metadata"]["uid"] for line in one.lines()]
    await _damage(world, tier, model, one)
    (found,) = (await compare(world.log, model)).differences
    assert found.sequence == one.sequence
    assert found.missing == (ids if tier in ("hot", "cold") else [ids[3]])
    positions = [await model.position(cell) for cell in cells_of(model, 4)]
    assert await repair(world.log, model, [found]) == 25
    assert not (await compare(world.log, model)).differences
    assert positions == [await model.position(cell) for cell in cells_of(model, 4)]


@pytest.mark.parametrize("lost", [(0,), (1,), (2, 3), (0, 1, 2)])
async def test_lost_objects_of_the_archive_are_made_again_from_the_log(world: World, lost: tuple[int, ...]) -> None:
    model = await world.opened("cold")
    for count in (5, 10, 15, 20, 25):
        await world.write(count)
        await world.write(count)
        await world.catch_up(model)
    objects = model._objects
    names = [one async for one in objects.names("1")]
    before = {after: await objects.read("1", after, 0, 1_000_000) for after in names}
    first = (await objects.index("1", names[lost[0]]))[0]
    for number in lost:
        await objects._client.delete_object(Bucket=world.settings.s3.bucket, Key=objects.key("1", names[number]))
    found = (await compare(world.log, model)).differences
    assert [one.sequence for one in found][:2] == [one.sequence for one in first.frames]
    assert len(found) == 2 * len(lost)
    assert all(one.missing and not one.extra for one in found)
    await repair(world.log, model, found)
    assert not (await compare(world.log, model)).differences
    assert {after: await objects.read("1", after, 0, 1_000_000) for after in names} == before
    assert [one async for one in objects.names("1")] == names
    await world.write(5)
    await world.catch_up(model)
    assert await model.tally() == await world.log.tally()


async def test_a_warm_document_that_was_changed_in_place_is_named_and_repaired(world: World) -> None:
    model = await world.opened("warm")
    expected, _ = await world.log.progress("intake", 0)
    lines = [frames.encode(one) for one in frames.events(6, seed=5)] + frames.odd_lines()
    progress = Progress(stream=subject.INGEST, created="then", sequence=1, events=len(lines))
    await world.log.append("intake", 0, event_messages(0, lines, "test"), progress, expected)
    await world.catch_up(model)
    assert not (await compare(world.log, model)).differences
    (one,) = [recorded(one) async for one in world.log.read(subject.event("*"))]
    ids = [msgspec.json.decode(line)["metadata"]["uid"] for line in lines]
    changes: dict[int, dict[str, Any]] = {
        0: {"$set": {"severity_id": 6}},
        1: {"$unset": {"class_uid": ""}},
        2: {"$set": {"_seen": ["nobody"]}},
        4: {"$set": {"message": bson.ObjectId()}},
        5: {"$set": {"_crc": 5}},
        6: {"$set": {"severity_id": 6}},  # beside its `_raw`
        7: {"$set": {"_raw": b"spoiled"}},
    }
    for index, change in changes.items():
        result = await model._events.update_one({"_id": record_id(one.sequence, index)}, change)
        assert result.modified_count == 1, index
    (found,) = (await compare(world.log, model)).differences
    assert found.differing == [ids[index] for index in changes]
    assert await repair(world.log, model, [found]) == len(lines)
    assert not (await compare(world.log, model)).differences


HOT_DAMAGE: dict[str, Callable[[Any, dict[str, Any], str], Any]] = {
    "an id is lost": lambda redis, event, place: redis.delete(f"tg:1:e:{event['metadata']['uid']}"),
    "an id leads elsewhere": lambda redis, event, place: redis.set(f"tg:1:e:{event['metadata']['uid']}", "1:0:99"),
    "an id leads nowhere": lambda redis, event, place: redis.set(f"tg:1:e:{event['metadata']['uid']}", "x"),
    "a list is lost": lambda redis, event, place: redis.delete(f"tg:1:c:{event['metadata']['correlation_uid']}"),
    "a list has it twice": lambda redis, event, place: redis.lpush(
        f"tg:1:c:{event['metadata']['correlation_uid']}", f"{event['time']} {place}"
    ),
    "a list lacks it": lambda redis, event, place: redis.lrem(
        f"tg:1:o:{event['src_endpoint']['ip']}", 0, f"{event['time']} {place}"
    ),
    "a list has a stranger": lambda redis, event, place: redis.rpush(
        f"tg:1:c:{event['metadata']['correlation_uid']}", f"7 {place}"
    ),
    "a count is too low": lambda redis, event, place: redis.hincrby(
        f"tg:1:m:{event['time'] // 60_000 * 60_000}", f"{event['class_uid']} {event['severity_id']}", -1
    ),
    "a count is too high": lambda redis, event, place: redis.hincrby(
        f"tg:1:m:{event['time'] // 60_000 * 60_000}", f"{event['class_uid']} {event['severity_id']}", 1
    ),
    "a minute is lost": lambda redis, event, place: redis.delete(f"tg:1:m:{event['time'] // 60_000 * 60_000}"),
    "a count of nothing": lambda redis, event, place: redis.hset(
        f"tg:1:m:{event['time'] // 60_000 * 60_000}", "9999 9", 3
    ),
}


@pytest.mark.parametrize("damage", HOT_DAMAGE)
async def test_what_leads_to_the_events_in_hot_is_checked_and_mended(world: World, damage: str) -> None:
    model = await world.opened("hot")
    for _ in range(3):
        await world.write(40)
    await world.catch_up(model)
    assert not (await compare(world.log, model)).differences
    one = [recorded(one) async for one in world.log.read(subject.event(1))][1]
    event = msgspec.json.decode(one.lines()[36])
    minute = event["time"] // 60_000 * 60_000
    counts = await model.counts(minute, minute + 1)
    listed = await model.by_correlation(event["metadata"]["correlation_uid"])
    assert await HOT_DAMAGE[damage](model._redis, event, f"{one.sequence}:1:4")
    found = (await compare(world.log, model)).differences
    named = [name for each in found for name in (*each.differing, *each.extra)]
    match damage:
        case "a count of nothing":
            assert named == [f"minute {minute} class and severity 9999 9"]
        case "a count is too low" | "a count is too high" | "a minute is lost":
            assert named
        case _:
            assert event["metadata"]["uid"] in named
    await repair(world.log, model, found)
    assert not (await compare(world.log, model)).differences
    assert await model.counts(minute, minute + 1) == counts
    assert sorted(await model.by_correlation(event["metadata"]["correlation_uid"])) == sorted(listed)
    assert await model.get(event["metadata"]["uid"]) == one.lines()[36]


async def test_lists_in_hot_that_are_full_and_blocks_that_have_expired_are_no_damage(world: World) -> None:
    model = HotTier(world.settings.redis_url, Hot(recent_per_key=5), generation=1)
    for _ in range(4):
        await world.write(60)
    await world.catch_up(model)
    assert not (await compare(world.log, model)).differences
    one = next(iter([recorded(one) async for one in world.log.read(subject.event(1))]))
    await model._redis.delete(f"tg:1:b:{one.sequence}:0", f"tg:1:b:{one.sequence}:1")
    (gone,) = (await compare(world.log, model)).differences
    assert (gone.sequence, gone.differing) == (one.sequence, [])
    await model.aclose()


async def test_differing_and_extra_events_are_named(world: World) -> None:
    model = await world.opened("warm")
    await world.write(5)
    await world.write(5)
    await world.catch_up(model)
    one = next(iter([recorded(one) async for one in world.log.read(subject.event(0))]))
    first, second = (msgspec.json.decode(line)["metadata"]["uid"] for line in one.lines()[:2])
    await model._events.update_one({"_id": record_id(one.sequence, 0)}, {"$set": {"_crc": 1}})
    await model._events.delete_one({"_id": record_id(one.sequence, 1)})
    await model._events.insert_one({"_id": record_id(one.sequence, 60), "_crc": 1, "metadata": {"uid": "odd"}})
    # The sequence of the progress record: no frame of events stands there.
    await model._events.insert_one({"_id": record_id(5, 9), "_crc": 1, "metadata": {"uid": "stray"}})
    found = {one.sequence: one for one in (await compare(world.log, model)).differences}
    assert (found[1].differing, found[1].missing, found[1].extra) == ([first], [second], ["odd"])
    assert found[5].extra == ["stray"]
    await repair(world.log, model, list(found.values()))
    assert not (await compare(world.log, model)).differences
