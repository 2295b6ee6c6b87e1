"""The process `entities`, two of it: who owns what, what happens when one dies, stops or comes back from the dead."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
from nats.aio.msg import Msg

from tests.system.harness import Program, System, system, tidegate, until
from tests.tiers import frames
from tidegate import subject
from tidegate.actor.system import System as Entities
from tidegate.bus import connect
from tidegate.entities.alert import Acknowledge, Raise
from tidegate.head import decode_heads
from tidegate.log import Log, event_messages, lines_of

pytestmark = pytest.mark.anyio
CELLS = {f"{kind}.{shard}" for kind in ("correlation", "alert", "window") for shard in range(4)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A NATS server, the streams, and two processes of entities called `first` and `second`."""
    with system(tmp_path_factory.mktemp("entities")) as one:

        async def begin() -> None:
            await one.serve("nats").ready()
            async with one.bus():
                pass
            for name in ("first", "second"):
                one.run("entities", name=name)
            await one.ready()

        asyncio.run(begin())
        yield one


@asynccontextmanager
async def asking(two: System) -> AsyncIterator[tuple[Entities, Log]]:
    """Both processes are up, and every cell has an owner, in spite of nobody having asked for anything."""
    for program in two.programs.values():
        if not program.running:
            program.start()
            await program.ready()
    async with connect(two.settings.nats_url) as bus:
        log = Log(bus, two.declared.shards)
        await until(partial(_all_owned, two), 15, "each cell has an owner")
        yield Entities(bus, log), log


async def _owned(program: Program) -> set[str]:
    return {cell for cell, state in (await program.cells()).items() if state == "running"} & CELLS


async def _all_owned(two: System) -> bool:
    owned = [await _owned(program) for program in two.programs.values()]
    return set().union(*owned) == CELLS


async def _owner_of(two: System, cell: str) -> tuple[Program, Program]:
    first, second = two.programs["first"], two.programs["second"]
    return (first, second) if cell in await _owned(first) else (second, first)


async def test_status_shows_who_owns_what_in_all_processes_of_a_kind(two: System) -> None:
    async with asking(two):
        found = msgspec.json.decode(await tidegate(two, "status", "--json"))
        answers = [one for one in found["answers"] if one["process"] == "entities"]
        assert {one["address"] for one in answers} == {program.url for program in two.programs.values() if program.url}
        owners = {f"{one['pid']}@{one['host']}" for one in answers}
        assert len(owners) == 2
        running = {row["cell"]: row["owner"] for row in found["sections"]["cells"] if row["state"] == "running"}
        assert set(running) >= CELLS
        assert set(running.values()) <= owners
        assert "entities" not in found["unreachable"]
        text = await tidegate(two, "status")
        assert all(one["address"] in text for one in answers)


async def test_killing_the_owner_moves_its_entities_within_five_seconds_and_their_states_with_them(two: System) -> None:
    async with asking(two) as (entities, _):
        cell = f"alert.{subject.shard_of('a', 4)}"
        await entities.ask("alert", "a", Raise(title="t", severity=4), command_id="raise a")
        owner, _other = await _owner_of(two, cell)
        owner.kill()

        async def answers() -> bool:
            answer = await entities.ask("alert", "a", Acknowledge(by="me"), command_id="acknowledge a")
            return answer.version == 2

        assert await until(answers, 10, "the other one answers") < 5
        again = await entities.ask("alert", "a", Raise(title="t", severity=4), command_id="raise a")
        assert (again.version, again.duplicate) == (1, True)


async def test_stopping_the_owner_moves_its_entities_at_once(two: System) -> None:
    async with asking(two) as (entities, _):
        cell = f"alert.{subject.shard_of('b', 4)}"
        await entities.ask("alert", "b", Raise(title="t", severity=4))
        owner, other = await _owner_of(two, cell)
        owner.signal(signal.SIGTERM)
        assert await owner.ended() == 0

        async def moved() -> bool:
            return cell in await _owned(other)

        assert await until(moved, 10, "the other one owns it") < 2.5
        assert (await entities.get("alert", "b")).version == 1


async def test_an_owner_that_was_paused_is_refused_when_it_goes_on(two: System) -> None:
    async with asking(two) as (entities, log):
        shard = subject.shard_of("c", 4)
        await entities.ask("alert", "c", Raise(title="t", severity=4))
        owner, other = await _owner_of(two, f"alert.{shard}")
        owner.signal(signal.SIGSTOP)
        # What it has been given already lies in its buffers, and it will decide on it: for nothing.
        asked = [
            asyncio.create_task(entities.ask("alert", f"c{n}", Raise(title="t", severity=4), timeout_seconds=30))
            for n in range(200)
        ]
        await asyncio.gather(*asked)
        owner.signal(signal.SIGCONT)
        more = await asyncio.gather(
            *(entities.ask("alert", f"c{n}", Acknowledge(by="me"), timeout_seconds=30) for n in range(200))
        )
        assert {answer.version for answer in more} == {2}
        found: dict[str, list[int]] = {}
        async for message in log.read(subject.entity("alert", "*")):
            for line in lines_of(message):
                change = msgspec.json.decode(line)
                found.setdefault(change["id"], []).append(change["version"])
        assert all(versions == list(range(1, len(versions) + 1)) for versions in found.values()), "no version twice"
        assert other.running


async def test_events_are_correlated_escalate_and_raise_alerts_told_once(two: System) -> None:
    async with asking(two) as (entities, log), connect(two.settings.nats_url) as bus:
        told: list[str] = []

        async def hear(message: Msg) -> None:
            told.append(msgspec.json.decode(message.data)["id"])

        await bus.subscribe(subject.ALERT_RAISED, hear)
        ids = [f"story {n}" for n in range(40)]
        for name in ids:
            lines = []
            for line in frames.log(1, 2)[0].lines():
                event = msgspec.json.decode(line)
                event["metadata"]["correlation_uid"] = name
                event["severity_id"] = 5
                lines.append(msgspec.json.encode(event))
            await log.append_facts(event_messages(subject.shard_of(name, 4), lines, "test"))
            assert len(decode_heads(lines)) == 2

        async def all_told() -> bool:
            return set(told) >= set(ids)

        await until(all_told, 20, "all alerts are told")
        await asyncio.sleep(0.5)
        # Alerts of the tests before may be told as late as now, as those who tell moved with their processes.
        assert sorted(name for name in told if name in ids) == sorted(ids)
        state = msgspec.json.decode((await entities.get("correlation", ids[0])).state)
        assert (state["count"], state["status"]) == (2, "escalated")
        assert (await entities.get("alert", ids[0])).version >= 1


async def test_correlations_are_rebuilt_and_rolled_back_by_commands_while_they_are_asked(two: System) -> None:
    async with asking(two) as (entities, log), connect(two.settings.nats_url) as bus:
        lines = frames.log(1, 40, seed=7)[0].lines()
        heads = decode_heads(lines)
        told: list[str] = []

        async def hear(message: Msg) -> None:
            told.append(msgspec.json.decode(message.data)["id"])

        await bus.subscribe(subject.ALERT_RAISED, hear)
        by_shard: dict[int, list[bytes]] = {}
        for line, head in zip(lines, heads, strict=True):
            by_shard.setdefault(subject.shard_of(head.correlation_id, 4), []).append(line)
        for shard, mine in by_shard.items():
            await log.append_facts(event_messages(shard, mine, "test"))
        name = heads[0].correlation_id

        async def counted() -> bool:
            return (await entities.get("correlation", name)).version > 0

        await until(counted, 20, "it is counted")
        await asyncio.sleep(1)
        before = (await entities.get("correlation", name)).state
        asking_on = asyncio.create_task(_asked_on(entities, name))
        found = msgspec.json.decode(await tidegate(two, "rebuild", "correlations", "--json"))
        assert (found["generation"], found["differing"]) == (2, 0)
        assert found["after"]["count"] > 0

        async def serves(generation: int) -> bool:
            cells = [await program.cells() for program in two.programs.values()]
            owned = {cell for found in cells for cell, state in found.items() if state == "running"}
            wanted = {subject.generation_of("correlation", generation) + f".{shard}" for shard in range(4)}
            return wanted <= owned

        await until(partial(serves, 2), 20, "the new one serves")
        assert "generation 1 serves" in await tidegate(two, "rebuild", "rollback", "correlations")
        await until(partial(serves, 1), 20, "the old one serves again")
        assert "nothing to drop" in await tidegate(two, "rebuild", "gc", "correlations")
        assert "1 serves, 2 is kept" in (await tidegate(two, "rebuild", "status")).replace("generation ", "")
        asking_on.cancel()
        assert (await entities.get("correlation", name)).state == before
        again = [one for one in told if one in {head.correlation_id for head in heads}]
        assert len(again) == len(set(again)) > 0, "nothing is told a second time"


async def _asked_on(entities: Entities, name: str) -> None:
    while True:
        await entities.get("correlation", name)
        await asyncio.sleep(0.1)
