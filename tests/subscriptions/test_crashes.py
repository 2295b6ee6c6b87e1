"""Members that are killed, lose their connection, or lose their server: nothing is lost, and the group goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter as Count
from pathlib import Path

import msgspec
import pytest

from tests.conftest import free_ports
from tests.subscriptions.conftest import World, ids_of
from tests.system.harness import ROOT, system, until
from tests.system.hole import Hole
from tidegate import Batch, streams, subscribe_to_stream
from tidegate.bus import connect
from tidegate.deadletters import DeadLetters
from tidegate.errors import BusError, CommandRefusedError

pytestmark = pytest.mark.anyio


def work(world: World, path: Path, deadly: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.subscriptions.worker", world.url, world.name, str(path), deadly]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def seen_in(path: Path) -> Count[str]:
    return Count(path.read_text().split()) if path.exists() else Count()


async def test_a_member_killed_under_load_loses_nothing_and_another_goes_on(world: World, tmp_path: Path) -> None:
    paths = [tmp_path / "victim", tmp_path / "heir"]
    processes = [work(world, path) for path in paths]
    victim, heir = processes
    enough = asyncio.Event()

    async def load() -> None:
        while not enough.is_set():
            await world.append(4, 100)
            await asyncio.sleep(0.04)

    async def both_work() -> bool:
        return all(seen_in(path).total() > 1000 for path in paths)

    try:
        loading = asyncio.create_task(load())
        await until(both_work, 30, "both members work")
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        before = seen_in(paths[1]).total()

        async def goes_on() -> bool:
            return seen_in(paths[1]).total() > before + 2000

        await until(goes_on, 30, "the heir works on")
        enough.set()
        await loading
        assert heir.poll() is None

        async def done() -> bool:
            lag = await world.manager.lag(world.name)
            return lag.frames == lag.in_hand == 0

        await until(done, 30, "the heir has done all")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    killed, lived = map(seen_in, paths)
    assert set(killed + lived) == set(world.ids), "nothing is lost, and nothing made up"
    assert max(killed.values()) == max(lived.values()) == 1, "nobody gets anything twice"
    again = set(killed) & set(lived)
    # Of the frame it was at, what was not told yet; of the others in its hands it had done nothing.
    assert len(again) <= 100
    state = await world.manager.get(world.name)
    if state.last_failure is not None:  # Else it was killed while it had nothing in hand.
        assert state.last_failure.next == "redelivery"
        assert "were not finished by the member that had them" in state.last_failure.error
    else:
        assert not again


async def test_an_event_that_kills_whoever_gets_it_is_found_and_given_up(world: World, tmp_path: Path) -> None:
    await world.append(2, 60)
    deadly = world.ids[70]
    path = tmp_path / "seen"
    ended = 0
    process = work(world, path, deadly)

    async def done() -> bool:
        nonlocal process, ended
        if process.poll() is not None:
            ended += 1
            process = work(world, path, deadly)
        try:
            lag = await world.manager.lag(world.name)
        except (BusError, CommandRefusedError):  # not made yet
            return False
        return lag.frames == lag.in_hand == 0

    try:
        await until(done, 60, "all but one are done")
    finally:
        process.kill()
        process.wait()
    assert set(seen_in(path)) == set(world.ids) - {deadly}
    assert ended == 5, "four deliveries as the policy allows, and one alone"
    state = await world.manager.get(world.name)
    assert state.totals.failed == 1
    (found,), _ = await DeadLetters(world.bus, world.log).find()
    assert msgspec.json.decode(found.letter.original)["metadata"]["uid"] == deadly
    assert found.letter.error == "the process that tried this event alone ended without a word"


async def test_a_member_without_a_connection_loses_what_it_has_in_hand_to_the_others(world: World) -> None:
    await world.append(4, 100)
    (port,) = free_ports(1)
    hole = Hole(int(world.url.rpartition(":")[2]))
    stuck: list[str] = []
    direct: list[str] = []
    cut = asyncio.Event()

    async def through(batch: Batch) -> None:
        stuck.extend(ids_of(batch))
        if len(stuck) == 60 and not cut.is_set():
            hole.swallow()
            cut.set()

    async def rest(batch: Batch) -> None:
        direct.extend(ids_of(batch))

    options = {"max_batch_size": 20, "member_timeout": 1.0}
    async with (
        hole.listening(port),
        connect(f"nats://127.0.0.1:{port}", request_timeout_seconds=1) as far,
        subscribe_to_stream(world.name, through, bus=far, **options) as victim,  # type: ignore[arg-type]
    ):
        await cut.wait()
        async with subscribe_to_stream(world.name, rest, bus=world.bus, **options) as heir:  # type: ignore[arg-type]
            async with asyncio.timeout(15):
                await heir.caught_up()
        assert set(stuck + direct) == set(world.ids)
        handled = len(stuck)
        await asyncio.sleep(1.5)
        assert len(stuck) - handled <= 20, "what is in hand is dropped once it may be another's"
        await victim.abort()


async def test_members_go_on_after_the_server_was_killed(tmp_path: Path) -> None:
    with system(tmp_path) as one:
        server = one.serve("nats")
        await server.ready()
        async with connect(one.settings.nats_url) as bus:
            await streams.apply(bus, one.declared)
            world = World(bus, one.settings.nats_url)
            seen: Count[str] = Count()

            async def handle(batch: Batch) -> None:
                await asyncio.sleep(0.005)
                seen.update(ids_of(batch))

            async with (
                world.hosted(),
                subscribe_to_stream(world.name, handle, max_batch_size=20, bus=bus, member_timeout=2.0) as subscriber,
            ):
                await world.append(30, 100)
                await asyncio.sleep(0.2)
                server.kill()
                assert 0 < sum(seen.values()) < 3000
                await asyncio.sleep(0.5)
                server.start()

                async def all_seen() -> bool:
                    return len(seen) == 3000

                await until(all_seen, 30, "the rest came after the restart")
                async with asyncio.timeout(20):
                    await subscriber.caught_up()
            assert set(seen) == set(world.ids)
            assert seen.total() == 3000, "the member knows what is done, even if the server has forgotten"
