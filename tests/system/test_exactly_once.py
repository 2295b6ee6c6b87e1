"""Everything is killed (-9) again and again under load; then each acknowledged event is everywhere exactly once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.system.harness import Program, System, system
from tests.system.load import Found, Load
from tests.system.oracles import ORACLES
from tests.system.settled import caught_up, in_log
from tidegate import app
from tidegate.bus import connect
from tidegate.config import Cold, Lake
from tidegate.log import Log

pytestmark = pytest.mark.anyio


async def shoot(targets: dict[str, Program], dice: random.Random, kills: int) -> None:
    """Kill each target `kills` times, in random order and at random times, and start it again after a while."""
    order = [name for name in targets for _ in range(kills)]
    dice.shuffle(order)
    for name in order:
        await targets[name].ready()
        # What it does between readiness and this moment takes milliseconds a step, so any step may be hit.
        await asyncio.sleep(dice.uniform(0, 1.0))
        targets[name].kill()
        await asyncio.sleep(dice.uniform(0, 0.5))
        targets[name].start()


async def hold_out(one: System, dice: random.Random, kills: int) -> None:
    """The test: servers, two intakes and a process for each tier; load; kills; and what is where in the end."""
    for name in ("nats", "redis", "mongo", "s3"):
        one.serve(name)
    await one.ready()
    async with one.bus():
        pass
    for name in ("intake-1", "intake-2"):
        one.run("transformation-pipeline", name=name)
    for name in ORACLES:
        one.run("storage-manager", "--tiers", name, name=name)
    await one.ready()
    servers = ("redis", "mongo", "s3")
    targets = {name: program for name, program in one.programs.items() if name not in servers}
    async with connect(one.settings.nats_url) as bus, Load(bus) as load:
        await shoot(targets, dice, kills)
        await one.ready()
        await load.stop()
        await in_log(bus, one.declared, load)
        log = Log(bus, one.declared.shards)
        found = dict(zip(("log", "dead letters"), await load.found_in(log), strict=True))
        events, dead = load.perfect
        expected = {"log": events, "dead letters": dead}
        models = app.read_models(one.settings)
        try:
            await caught_up(models.values(), log)
            for name, oracle in ORACLES.items():
                ids = await asyncio.to_thread(oracle, one.settings)
                found[name] = load.compare(ids, load.acknowledged - load.broken)
                expected[name] = events
            assert found == expected, "\n".join(_difference(found, expected))
            tally = await log.tally()
            assert {name: await model.tally() for name, model in models.items()} == dict.fromkeys(models, tally)
        finally:
            for model in models.values():
                await model.aclose()
    assert len(load.acknowledged) > 500 * kills
    assert not load.uncertain


def _difference(found: dict[str, Found], expected: dict[str, Found]) -> list[str]:
    return [f"{name}: {found[name]}" for name in found if found[name] != expected[name]]


async def test_every_acknowledged_event_is_everywhere_exactly_once_after_kills_of_everything(tmp_path: Path) -> None:
    with system(tmp_path, cold=Cold(object_seconds=0.3), lake=Lake(commit_seconds=0.7)) as one:
        await hold_out(one, random.Random(20), kills=2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
async def test_the_same_for_longer(tmp_path: Path, seed: int) -> None:
    with system(tmp_path, cold=Cold(object_seconds=0.3), lake=Lake(commit_seconds=0.7)) as one:
        await hold_out(one, random.Random(seed), kills=25)
