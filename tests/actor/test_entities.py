"""Entities on a real NATS and in memory: commands and their answers, groups, recovery, snapshots, idempotence."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.actor.counter import Add, Added, Counter, Counters
from tests.tiers import frames
from tidegate import app, streams, subject
from tidegate.actor.cell import Cell, running
from tidegate.actor.entity import NO_COMMAND, Change
from tidegate.actor.host import REPLY, EntityProgress, EntityWork, answers
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.system import System, forwarding
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.errors import BusUnavailableError, CommandRefusedError
from tidegate.head import decode_heads
from tidegate.log import Log, change_messages, event_messages
from tidegate.memory import MemoryBus, MemoryInput, memory_log

pytestmark = pytest.mark.anyio


def fresh() -> Counters:
    """A kind of its own for each test: they share one server."""
    name = f"counter{uuid.uuid4().hex[:8]}"
    found: Counters = type("Counters", (Counters,), {"kind": name})()
    return found


class World:
    def __init__(self, bus: Bus, entity: Counters, log: Log) -> None:
        self.bus = bus
        self.entity = entity
        self.log = log
        self.system = System(bus, self.log)

    @contextlib.asynccontextmanager
    async def hosted(self) -> AsyncIterator[list[EntityWork]]:
        """All four cells, run until the block ends."""
        works = [EntityWork(self.bus, self.log, self.entity, shard) for shard in range(4)]
        cells = [Cell(f"{self.entity.kind}.{shard}", work, self._inputs(shard)) for shard, work in enumerate(works)]
        async with running(cells):
            yield works

    def _inputs(self, shard: int) -> Mailbox:
        if not isinstance(self.bus, MemoryBus):
            return app.entity_inputs(self.bus, self.entity, shard, 1.0)
        name = f"{self.entity.kind}.{shard}"
        commands = MemoryInput(self.bus, subject.COMMAND, name, [subject.command(self.entity.kind, shard)])
        followed = subject.followed(self.entity.follows, shard)
        return Mailbox(commands, *([MemoryInput(self.bus, subject.LOG, name, followed)] if followed else []))

    async def state(self, entity_id: str) -> Counter:
        return msgspec.json.decode((await self.system.get(self.entity.kind, entity_id)).state, type=Counter)

    async def ask(self, entity_id: str, n: int, **options: object) -> int:
        return (await self.system.ask(self.entity.kind, entity_id, Add(n), **options)).version  # type: ignore[arg-type]


@pytest.fixture(params=["nats", "memory"])
async def world(request: pytest.FixtureRequest, nats_server: Settings) -> AsyncIterator[World]:
    if request.param == "memory":
        memory = MemoryBus()
        yield World(memory, fresh(), memory_log(memory))
    else:
        async with connect(nats_server.nats_url) as bus:
            await streams.apply(bus, app.declarations(nats_server))
            yield World(bus, fresh(), Log(bus, 4))


async def test_a_command_is_answered_once_it_is_in_the_log(world: World) -> None:
    async with world.hosted():
        answer = await world.system.ask(world.entity.kind, "a", Add(3))
        assert (answer.id, answer.version) == ("a", 1)
        assert msgspec.json.decode(answer.events, type=list[Added])[0].n == 3
        stored = await world.log.newest(world.entity.kind, subject.shard_of("a", 4), msgspec.defstruct("P", []))
        assert stored[0] == answer.sequence
        assert await world.ask("a", 4) == 2
        assert (await world.state("a")).total == 7
        assert (await world.system.get(world.entity.kind, "nobody")).state == NO_COMMAND


async def test_refusals_name_what_is_wrong_and_change_nothing(world: World) -> None:
    async with world.hosted():
        await world.ask("a", 1)
        for command, code in ((Add(-1), "negative"), ({"type": "x"}, "invalid"), (Add(0), "failed")):
            with pytest.raises(CommandRefusedError) as refused:
                await world.system.ask(world.entity.kind, "a", command)
            assert refused.value.code == code
        with pytest.raises(CommandRefusedError) as refused:
            await world.ask("a", 1, expected_version=7)
        assert refused.value.code == "version"
        assert await world.ask("a", 1, expected_version=1) == 2
        for n, code in ((-1, "negative"), (0, "failed")):
            body = {"id": "a", "command": {"type": "counter.add.v1", "n": n}}
            token, future = world.bus.expect()
            await world.bus.publish(
                subject.command(world.entity.kind, subject.shard_of("a", 4)), msgspec.json.encode(body), {REPLY: token}
            )
            (answer,) = answers((await asyncio.wait_for(future, 5)).data)
            assert answer.refused is not None
            assert (answer.refused.code, answer.version) == (code, 2)
        assert (await world.state("a")).total == 2


async def test_the_same_command_id_takes_effect_once_also_after_a_restart(world: World) -> None:
    async with world.hosted():
        assert await world.ask("a", 5, command_id="one") == 1
        assert await world.ask("a", 5, command_id="two") == 2
        again = await world.system.ask(world.entity.kind, "a", Add(5), command_id="one")
        assert (again.version, again.duplicate) == (1, True)
    async with world.hosted():
        assert await world.ask("a", 5, command_id="one") == 1
        assert (await world.state("a")).total == 10


async def test_many_commands_at_once_are_committed_in_groups(world: World) -> None:
    async with world.hosted() as works:
        await world.ask("warm up", 1)
        ids = [f"id {n % 50}" for n in range(1000)]
        versions = await asyncio.gather(*(world.ask(one, 1) for one in ids))
        assert sorted(versions) == sorted(n // 50 + 1 for n in range(1000))
        assert sum([(await world.state(one)).total for one in set(ids)]) == 1000
        messages = [one async for one in world.log.read(subject.entity(world.entity.kind, "*"))]
        assert len(messages) < 500
        assert {name for work in works for name, _ in work.items()} >= {"warm up", *ids}


async def test_events_of_the_log_become_commands_once_each(world: World) -> None:
    heads = frames.log(6, 40)
    for one in heads:
        await world.log.append_facts(event_messages(one.shard, one.lines(), "test"))
    everything = [one async for one in world.log.read(subject.event("*"))]
    expected = sum(int(one.headers["Tidegate-Count"]) for one in everything)
    async with world.hosted() as works:
        async with asyncio.timeout(20):
            while sum(state.seen for work in works for _, state in work._entities.values()) < expected:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        before = {name: found for work in works for name, found in work._entities.items()}
    async with world.hosted() as works:
        await asyncio.gather(*(world.ask(f"wake {n}", 1) for n in range(20)))
        after = {name: found for work in works for name, found in work._entities.items()}
    assert {name: after[name] for name in before} == before


async def test_event_time_goes_on_as_far_behind_the_clock_after_a_restart_as_before(world: World) -> None:
    heads = frames.log(4, 10)
    hour_later = max(head.time for one in heads for head in decode_heads(one.lines())) + 3_600_000
    kind = type(world.entity)
    kind.idle_seconds = 0.1
    kind.due_ms = lambda self, state: None if state.total else hour_later  # type: ignore[method-assign]
    kind.on_time = lambda self, state, context: [Added(1)]  # type: ignore[method-assign]
    for one in heads:
        await world.log.append_facts(event_messages(one.shard, one.lines(), "test"))
    expected = sum([int(one.headers["Tidegate-Count"]) async for one in world.log.read(subject.event("*"))])
    for _ in range(2):
        async with world.hosted() as works:
            async with asyncio.timeout(20):
                while sum(state.seen for work in works for _, state in work.items()) < expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert not any(state.total for work in works for _, state in work.items()), "an hour has not passed"


async def test_recovery_takes_the_snapshot_and_what_came_after(world: World, caplog: pytest.LogCaptureFixture) -> None:
    type(world.entity).follows = ()  # type: ignore[assignment]  # what other tests have put into the log stays out of the count
    async with world.hosted():
        await asyncio.gather(*(world.ask(f"id {n}", n + 1) for n in range(100)))
    shard = subject.shard_of("id 7", 4)
    name = f"{world.entity.kind}.{shard}"
    data = await world.bus.get_object("tidegate-snapshots", name)
    assert data
    work = EntityWork(world.bus, world.log, world.entity, shard)
    await work.recover()
    assert work._entities["id 7"][1].total == 8
    assert work._unsaved == 0, "all of it came from the snapshot"
    for damaged in (data[:-9], data[:50] + b"\0" + data[51:], b"", b"\xff" * 100):
        await world.bus.put_object("tidegate-snapshots", name, damaged)
        again = EntityWork(world.bus, world.log, world.entity, shard)
        await again.recover()
        assert again._entities == work._entities
        assert again._unsaved == len(work)
    assert "snapshot ignored" in caplog.text


async def test_old_events_are_brought_up_to_date(world: World) -> None:
    kind = world.entity.kind
    line = msgspec.json.encode(Change("a", 1, 0, [{"type": "counter.added.v1", "amount": 9}]))
    shard = subject.shard_of("a", 4)
    await world.log.append(
        kind, shard, change_messages(kind, shard, [line]), EntityProgress(created={}, positions={}), 0
    )
    async with world.hosted():
        assert (await world.state("a")).total == 9
        assert await world.ask("a", 1) == 2


async def test_any_nats_client_can_ask(world: World) -> None:
    async with world.hosted(), forwarding(world.bus, {world.entity.kind}, 4):
        to = subject.ask(world.entity.kind)
        body = {"id": "a", "command": {"type": "counter.add.v1", "n": 2}, "command_id": "x"}
        (answer,) = answers((await world.bus.request(to, msgspec.json.encode(body))).data)
        assert (answer.version, answer.refused) == (1, None)
        (answer,) = answers((await world.bus.request(to, msgspec.json.encode(body))).data)
        assert answer.duplicate
        for bad in (b"", b"{", b"[]", b'{"id": ""}', b'{"id": 3}', b"\xff\xfe", b"[" * 5000):
            (answer,) = answers((await world.bus.request(to, bad)).data)
            assert answer.refused is not None
            assert answer.refused.code == "invalid"


async def test_nobody_there_is_said_in_time(world: World) -> None:
    with pytest.raises(BusUnavailableError, match="is the process `entities` up"):
        await world.ask("a", 1, timeout_seconds=0.5)
