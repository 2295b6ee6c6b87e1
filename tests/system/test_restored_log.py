"""A log that was restored from an older copy and has grown past where it was: nothing of before passes for its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.actor.counter import Added, Counters
from tests.system.harness import system
from tests.tiers import frames
from tidegate import subject
from tidegate.actor.entity import Change
from tidegate.actor.host import EntityProgress, EntityWork
from tidegate.bus import Bus
from tidegate.errors import PositionError
from tidegate.log import Log, Progress, change_messages, event_messages, recorded
from tidegate.projection import Position, Recorded

pytestmark = pytest.mark.anyio


async def write(log: Log, seed: int) -> None:
    """A commit of the intake and one of a cell of entities; as many messages whatever the seed."""
    expected, before = await log.progress("intake", 0)
    lines = [frames.encode(one) for one in frames.events(20, seed=seed)]
    done = Progress(stream=subject.INGEST, created="then", sequence=seed, events=20 + (before.events if before else 0))
    await log.append("intake", 0, event_messages(0, lines, "test"), done, expected)
    expected, made = await log.newest("counter", 0, EntityProgress)
    changes = [Change(f"id {seed}", 1 + n, 0, [Added(1)]) for n in range(seed)]
    progress = EntityProgress(created={}, positions={}, changes=seed + (made.changes if made else 0))
    messages = change_messages("counter", 0, [msgspec.json.encode(one) for one in changes])
    await log.append("counter", 0, messages, progress, expected)


async def taken_in(log: Log) -> Position:
    found: Sequence[Recorded] = [recorded(one) async for one in log.read(subject.event("*"))]
    return Position(stream=subject.LOG, created=(await log.state()).created, sequence=0).after(found)


async def states(bus: Bus, log: Log, *, store: bool = False) -> dict[str, int]:
    work = EntityWork(bus, log, Counters(), 0)
    await work.recover()
    if store:
        await work.aclose()
    return {name: state.total for name, state in work.items()}


async def test_a_position_and_a_snapshot_of_what_is_no_more_are_found_out(tmp_path: Path) -> None:
    with system(tmp_path) as one:
        nats = one.serve("nats")
        await nats.ready()
        data = tmp_path / "nats"
        async with one.bus() as bus:
            log = Log(bus, 4)
            await write(log, 1)
            kept = await taken_in(log)
        nats.kill()
        shutil.copytree(data, tmp_path / "copy")
        nats.start()
        await nats.ready()
        async with one.bus() as bus:
            log = Log(bus, 4)
            await write(log, 2)
            lost = await taken_in(log)
            await log.check(lost)
            assert await states(bus, log, store=True) == {"id 1": 1, "id 2": 2}
            snapshot = await bus.get_object("tidegate-snapshots", "counter.0")
            assert snapshot is not None
        nats.kill()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "copy", data)
        nats.start()
        await nats.ready()
        async with one.bus() as bus:
            log = Log(bus, 4)
            with pytest.raises(PositionError, match="beyond the end"):
                await log.check(lost)
            await write(log, 3)
            await write(log, 4)
            message = await bus.message_at(subject.LOG, lost.sequence)
            assert message is not None
            assert message.subject == subject.event(0), "an event frame lies exactly there"
            with pytest.raises(PositionError, match=r"another one there .* restored .*`tidegate rebuild`"):
                await log.check(lost)
            await log.check(kept)
            await log.check(await taken_in(log))
            # Snapshots may have been kept elsewhere, or restored from a newer copy.
            await bus.put_object("tidegate-snapshots", "counter.0", snapshot)
            assert await states(bus, log) == {"id 1": 1, "id 3": 3, "id 4": 4}
