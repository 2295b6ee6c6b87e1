"""Correlations derived anew, on a real server: what the rules of now make of the events of then, and who serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.tiers import frames
from tidegate import app, rederive, streams, subject
from tidegate.actor import generations
from tidegate.actor.generations import GenerationWork
from tidegate.actor.system import System
from tidegate.app.entities import EntityHost
from tidegate.bus import Bus, connect
from tidegate.config import CorrelationRules, Settings
from tidegate.entities.correlation import Close, Correlation, Correlations, Escalate
from tidegate.errors import BusError, CommandRefusedError, FencedError, RebuildError
from tidegate.log import Log, Progress, event_messages, lines_of, progress_message
from tidegate.rederive import Rederivation

pytestmark = pytest.mark.anyio

LENIENT = CorrelationRules(escalate_severity=0, active_events=3)


class World:
    """A log, and what the process `entities` runs on it."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self.settings = settings
        self.bus = bus
        self.log = Log(bus, 4)
        self.system = System(bus, self.log)
        self.made = 0

    async def write(self, count: int) -> None:
        events = frames.events(count, first=self.made, seed=3)
        self.made += count
        messages = []
        for shard in range(4):
            mine = [frames.encode(one) for one in events if self._shard(one["metadata"]["correlation_uid"]) == shard]
            messages += event_messages(shard, mine, "test")
        expected, _ = await self.log.progress("intake", 0)
        done = Progress(stream=subject.INGEST, created="then", sequence=self.made, events=self.made)
        await self.log.append("intake", 0, messages, done, expected)

    @staticmethod
    def _shard(correlation_id: str) -> int:
        return subject.shard_of(correlation_id, 4)

    @contextlib.asynccontextmanager
    async def entities(self, rules: CorrelationRules | None = None) -> AsyncIterator[EntityHost]:
        """The entities of the process of that name, in this process, until the block ends."""
        intake = replace(self.settings.intake, pin_timeout_seconds=0.6)
        settings = replace(self.settings, intake=intake, correlation=rules or CorrelationRules())
        process = EntityHost(settings)
        task = asyncio.create_task(process._work())
        try:
            yield process
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def caught_up(self, generation: int) -> None:
        ends = await self.log.last_event_sequences()
        async with asyncio.timeout(20):
            for shard, end in ends.items():
                while True:
                    work = await self.loaded(shard, generation)
                    progress = work.progress[1]
                    if progress.serves and progress.positions[subject.LOG] >= end:
                        break
                    await asyncio.sleep(0.05)

    async def loaded(self, shard: int, generation: int) -> GenerationWork:
        work = GenerationWork(self.bus, self.log, Correlations(), shard, generation)
        await work.load()
        return work

    async def states(self, generation: int) -> dict[str, Correlation]:
        return {name: one for shard in range(4) for name, one in (await self.loaded(shard, generation)).items()}

    async def state(self, entity_id: str) -> Correlation:
        answer = await self.system.get("correlation", entity_id)
        return msgspec.json.decode(answer.state, type=Correlation)

    async def alerts(self) -> list[bytes]:
        """The lines of all changes of alerts, once nothing more comes."""
        before: Sequence[bytes] | None = None
        while True:
            found = [line async for one in self.log.read(subject.entity("alert", "*")) for line in lines_of(one)]
            if found == before:
                return found
            before = found
            await asyncio.sleep(0.4)

    def rederivation(self, rules: CorrelationRules | None = None) -> Rederivation:
        return Rederivation(self.bus, self.log, Correlations(rules))


@pytest.fixture
async def world(nats_server: Settings) -> AsyncIterator[World]:
    declared = app.declarations(nats_server)
    async with connect(nats_server.nats_url) as bus:
        for name in declared.streams:
            with contextlib.suppress(BusError):
                await bus.api(f"STREAM.DELETE.{name}")
        with contextlib.suppress(BusError):
            await bus.api("STREAM.DELETE.OBJ_tidegate-snapshots")
        await streams.apply(bus, declared)
        yield World(nats_server, bus)


async def test_by_the_same_rules_the_same_states_commands_of_people_included(world: World) -> None:
    await world.write(600)
    async with world.entities():
        await world.caught_up(1)
        escalated, closed = sorted(name for name, one in (await world.states(1)).items() if one.status == "active")[:2]
        await world.system.ask("correlation", escalated, Escalate("odd", "ann"), command_id="one")
        await world.system.ask("correlation", closed, Close("known scan", "bob"))
        await world.write(300)
        await world.caught_up(1)
        alerts = await world.alerts()
        outcome = await world.rederivation().run()
        assert (outcome.generation, outcome.previous, outcome.events, outcome.resumed) == (2, 1, 900, False)
        assert outcome.differing == 0, outcome.first_differing
        assert outcome.before == outcome.after
        assert outcome.after.count > 50
        await world.caught_up(2)
        before = await world.states(1)
        assert await world.states(2) == before
        assert await world.state(closed) == before[closed]
        # The same command again, to the new generation.
        again = await world.system.ask("correlation", escalated, Escalate("odd", "ann"), command_id="one")
        assert again.duplicate
        assert await world.alerts() == alerts
        await world.write(300)
        await world.caught_up(2)
        assert len(await world.alerts()) > len(alerts), "what escalates from now on is told"


async def test_by_other_rules_as_if_they_had_always_held_and_back(world: World) -> None:
    await world.write(600)
    async with world.entities():
        await world.caught_up(1)
        strict = await world.states(1)
        alerts = await world.alerts()
    assert any(one.status == "escalated" for one in strict.values())
    outcome = await world.rederivation(LENIENT).run()
    assert outcome.differing > 0
    assert all(strict[name].status == "escalated" or strict[name].count == 2 for name in outcome.first_differing)
    with pytest.raises(RebuildError, match="process `entities`"):
        await rederive.rollback(world.log, "correlation")
    async with world.entities(LENIENT):
        await world.caught_up(2)
        lenient = await world.states(2)
        assert lenient.keys() == strict.keys()
        assert not any(one.reason == "severity" for one in lenient.values())
        assert {name: one.classes for name, one in lenient.items()} == {
            name: one.classes for name, one in strict.items()
        }
        asked = next(name for name, one in lenient.items() if one.status == "active")
        assert await world.alerts() == alerts
        await world.system.ask("correlation", asked, Close("seen", "ann"), command_id="two")
        await world.write(60)
        await world.caught_up(2)
        alerts = await world.alerts()
        assert await rederive.rollback(world.log, "correlation") == 1
        await world.caught_up(1)
        back = await world.states(1)
        assert back[asked].by == "ann"
        assert sum(one.count for one in back.values()) == world.made
        as_before = {name: one for name, one in strict.items() if name != asked and back[name].count == one.count}
        assert len(as_before) > 50
        assert {name: back[name] for name in as_before} == as_before
        assert await world.alerts() == alerts
        with pytest.raises(CommandRefusedError):
            await world.system.ask("correlation", asked, Close("seen", "ann"))


async def test_an_interrupted_one_is_carried_on_and_the_old_are_collected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await world.write(200)
    async with world.entities():
        await world.caught_up(1)
        step = GenerationWork._step
        steps = 0

        async def dying(self: Any, batch: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == 6:
                raise KeyError("the end")
            await step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(GenerationWork, "_step", dying)
            patch.setattr(GenerationWork.__init__, "__kwdefaults__", {"limit": 40})
            with pytest.raises(ExceptionGroup):
                await world.rederivation().run()
        assert (await world.log.generation("correlation"))[1].active == 1
        outcome = await world.rederivation().run()
        assert (outcome.generation, outcome.resumed, outcome.events, outcome.differing) == (2, True, 800, 0)
        assert 0 < outcome.applied < 800
        await world.caught_up(2)
        third = await world.rederivation().run()
        assert (third.generation, third.previous, third.differing) == (3, 2, 0)
        await world.caught_up(3)
        assert await rederive.collect(world.bus, world.log, "correlation") == [1]
        assert [one async for one in world.log.read("log.correlation.*")] == []
        assert await rederive.collect(world.bus, world.log, "correlation") == []
        assert (await world.states(3)).keys() == (await world.states(2)).keys()


async def test_a_take_over_that_was_interrupted_is_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.write(200)
    async with world.entities():
        await world.caught_up(1)
        before = await world.states(1)
        await world.rederivation().run()
        failed = 0

        def fails_at_first(*arguments: Any) -> Any:
            nonlocal failed
            failed += 1
            if failed <= 4:
                raise KeyError("the old one has been fenced out, the new one does not serve yet")
            return progress_message(*arguments)

        monkeypatch.setattr(generations, "progress_message", fails_at_first)
        await world.caught_up(2)
        assert failed > 4
        assert await world.states(2) == before
        for shard in range(4):
            assert not (await world.loaded(shard, 1)).progress[1].serves
            with pytest.raises(FencedError, match="generation 2 serves"):
                await GenerationWork(world.bus, world.log, Correlations(), shard, 1).recover()


async def test_two_processes_change_over_while_events_flow_and_each_command_takes_effect_once(world: World) -> None:
    await world.write(400)
    async with world.entities(), world.entities():
        await world.caught_up(1)
        # Those of the first events: no more will come.
        names = sorted(name for name, one in (await world.states(1)).items() if one.status == "active")[:20]
        stop = asyncio.Event()

        async def flow() -> None:
            while not stop.is_set():
                await world.write(12)
                await asyncio.sleep(0.03)

        flowing = asyncio.create_task(flow())
        asking = asyncio.create_task(self_paced(world, names))
        await asyncio.sleep(0.3)
        await world.rederivation().run()
        versions = await asking
        stop.set()
        await flowing
        await world.caught_up(2)
        states = await world.states(2)
        assert len(versions) == len(names)
        assert sum(one.count for one in states.values()) == world.made
        for name in names:
            assert states[name].by == "ann", states[name]
        escalated = [line for line in await world.alerts() if b"alert.raised.v1" in line]
        assert len(escalated) == len({msgspec.json.decode(line)["id"] for line in escalated})


async def self_paced(world: World, names: Sequence[str]) -> list[int]:
    versions = []
    for name in names:
        answer = await world.system.ask("correlation", name, Close("seen", "ann"), timeout_seconds=20)
        versions.append(answer.version)
        await asyncio.sleep(0.05)
    return versions
