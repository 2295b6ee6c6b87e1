"""Several intake processes: who works on a partition, and what a kill, a stop and a pause of its owner lead to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.system.harness import Program, System, system, until
from tests.system.load import Load
from tests.system.settled import in_log
from tidegate import subject
from tidegate.bus import Bus, connect
from tidegate.errors import FencedError
from tidegate.log import Log, event_messages

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A NATS server, the streams, and two intake processes called `first` and `second`."""
    with system(tmp_path_factory.mktemp("ownership")) as one:

        async def begin() -> None:
            await one.serve("nats").ready()
            async with one.bus():
                pass
            for name in ("first", "second"):
                one.run("transformation-pipeline", name=name)
            await one.ready()

        asyncio.run(begin())
        yield one


@asynccontextmanager
async def loaded(two: System) -> AsyncIterator[tuple[Bus, Load]]:
    """Both processes are up and under load, and own some partition each; at the end all must be in the log once."""
    for program in two.programs.values():
        if not program.running:
            program.start()
            await program.ready()
    async with connect(two.settings.nats_url) as bus, Load(bus) as load:
        await until(partial(_all_owned, two), 10, "each partition has an owner")
        yield bus, load
        await load.stop()
        await in_log(bus, two.declared, load)
        found = await load.found_in(Log(bus, two.declared.shards))
        assert found == load.perfect
    assert len(load.acknowledged) > 50


def _running(cells: dict[str, str]) -> set[str]:
    return {cell for cell, state in cells.items() if state == "running" and cell.startswith("intake.")}


async def _all_owned(two: System) -> bool:
    owned = [_running(await two.programs[name].cells()) for name in ("first", "second")]
    return len(owned[0] | owned[1]) == two.declared.partitions


async def _none_in_both(owner: Program, other: Program) -> bool:
    return not _running(await owner.cells()) & _running(await other.cells())


async def _owner(two: System) -> tuple[Program, Program]:
    """The process that owns more partitions, and the other one."""
    first, second = two.programs["first"], two.programs["second"]
    if len(_running(await first.cells())) >= len(_running(await second.cells())):
        return first, second
    return second, first


async def _owns_all(program: Program, two: System) -> bool:
    return len(_running(await program.cells())) == two.declared.partitions


async def test_killing_the_owner_moves_its_partitions_within_five_seconds_and_nothing_is_lost_or_doubled(
    two: System,
) -> None:
    async with loaded(two) as (_, _load):
        owner, other = await _owner(two)
        owner.kill()
        assert await until(partial(_owns_all, other, two), 10, "the other owns all") < 5


async def test_stopping_the_owner_moves_its_partitions_at_once(two: System) -> None:
    async with loaded(two) as (_, _load):
        owner, other = await _owner(two)
        owner.signal(signal.SIGTERM)
        assert await until(partial(_owns_all, other, two), 10, "the other owns all") < 2
        assert await owner.ended() == 0


async def test_an_owner_that_was_paused_and_goes_on_later_does_no_harm(two: System) -> None:
    async with loaded(two) as (_, _load):
        for _ in range(2):
            owner, other = await _owner(two)
            owner.signal(signal.SIGSTOP)
            await until(partial(_owns_all, other, two), 10, "the other owns all")
            await asyncio.sleep(0.5)
            owner.signal(signal.SIGCONT)
            # It comes back in the middle of what it did, and must learn that others have moved on.
            await until(partial(_none_in_both, owner, other), 10, "no partition has two who take it for theirs")
            await until(partial(_all_owned, two), 10, "each partition has an owner")


async def test_what_a_killed_owner_was_working_on_is_done_though_nothing_new_comes_in(two: System) -> None:
    async with connect(two.settings.nats_url) as bus:
        for _ in range(2):
            for program in two.programs.values():
                if not program.running:
                    program.start()
                    await program.ready()
            async with Load(bus, batch=3000, pause_seconds=30) as load:
                await until(partial(_some, load), 10, "something is published")
                owner, _other = await _owner(two)
                owner.kill()
                await load.stop()
                await in_log(bus, two.declared, load, 8)


async def _some(load: Load) -> bool:
    return bool(load.acknowledged)


async def test_partitions_spread_over_the_processes_that_are_there(two: System) -> None:
    async with loaded(two):
        owner, other = await _owner(two)
        other.kill()
        await until(partial(_owns_all, owner, two), 10, "one owns all")
        other.start()
        await other.ready()

        async def evened_out() -> bool:
            return [len(_running(await one.cells())) for one in (owner, other)] == [2, 2]

        await until(evened_out, 20, "each owns two")


async def test_a_second_writer_is_fenced_and_stores_nothing(two: System) -> None:
    async with connect(two.settings.nats_url) as bus:
        log = Log(bus, two.declared.shards)
        before = (await log.state()).last_sequence
        sequence, progress = await log.progress("intake", 0)
        assert progress is not None
        async with Load(bus) as load:
            await until(partial(_moved, log, sequence), 10, "partition 0 has moved on")
            await load.stop()
            await in_log(bus, two.declared, load)
        after = (await log.state()).last_sequence
        with pytest.raises(FencedError):
            await log.append("intake", 0, event_messages(0, [b"{}"], "test"), progress, sequence)
        assert (await log.state()).last_sequence == after > before
        assert [m async for m in log.read(subject.event(0), after + 1)] == []


async def _moved(log: Log, sequence: int) -> bool:
    return (await log.progress("intake", 0))[0] != sequence
