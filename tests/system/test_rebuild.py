"""A rebuild and a rollback as an operator and those who query see them, while events keep flowing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from tests.system.harness import system, tidegate, until
from tests.system.load import Load
from tests.system.settled import in_log
from tidegate import app
from tidegate.config import Lake
from tidegate.local.servers import fetch
from tidegate.log import Log
from tidegate.verify import compare

pytestmark = pytest.mark.anyio


async def _code(url: str, tier: str, event_id: str) -> int:
    try:
        return (await fetch(f"{url}/v1/events/{event_id}?tier={tier}", 20.0))[0]
    except (OSError, TimeoutError):
        return 0


async def _ask(url: str, event_id: str, answers: Counter[tuple[str, int]]) -> None:
    """Until cancelled, for an event that hot and lake have."""
    while True:
        for tier in ("hot", "lake"):
            answers[tier, await _code(url, tier, event_id)] += 1
        await asyncio.sleep(0.5)


async def test_rebuilds_while_events_flow_lose_and_double_nothing(tmp_path: Path) -> None:
    with system(tmp_path, lake=Lake(commit_seconds=0.7)) as one:
        for name in ("nats", "redis", "s3"):
            one.serve(name)
        await one.ready()
        async with one.bus() as bus, contextlib.AsyncExitStack() as stack:
            one.run("transformation-pipeline")
            # Without warm: the local stand-in for MongoDB slows down a hundredfold with several writers.
            manager = one.run("storage-manager", "--tiers", "hot,lake")
            await one.ready()
            log = Log(bus, one.declared.shards)
            models: dict[tuple[str, int], Any] = {}
            for tier, generation in (("hot", 1), ("hot", 2), ("lake", 2)):
                model = app.read_models(one.settings, [tier], {tier: generation})[tier]
                stack.push_async_callback(model.aclose)
                models[tier, generation] = model
            load = await stack.enter_async_context(Load(bus, batch=10, pause_seconds=0.1))
            known = f"{load.prefix}-1"

            async def seen() -> bool:
                return [await _code(manager.url, tier, known) for tier in ("hot", "lake")] == [200, 200]

            await until(seen, 30, f"hot and lake answer:\n{manager.log_tail()}")
            answers: Counter[tuple[str, int]] = Counter()
            asking = asyncio.create_task(_ask(manager.url, known, answers))
            before = len(load.acknowledged)
            for shown in await asyncio.gather(*(tidegate(one, "rebuild", tier, "--json") for tier in ("hot", "lake"))):
                found = json.loads(shown)
                assert (found["generation"], found["previous"]) == (2, 1)
                assert found["events"] > 0
            assert len(load.acknowledged) > before

            # An id that only generation 2 of hot knows tells which one answers.
            redis = models["hot", 2]._redis
            await redis.set("tg:2:e:mark", await redis.get(f"tg:2:e:{known}"))

            async def answers_anew() -> bool:
                return await _code(manager.url, "hot", "mark") == 200

            async def answers_as_before() -> bool:
                return await _code(manager.url, "hot", "mark") == 404

            await until(answers_anew, 15, f"generation 2 answers:\n{manager.log_tail()}")
            assert "generation 1 serves" in await tidegate(one, "rebuild", "rollback", "hot")
            await until(answers_as_before, 15, f"generation 1 answers again:\n{manager.log_tail()}")
            await load.stop()
            await in_log(bus, one.declared, load)
            assert await load.found_in(log) == load.perfect

            tally = await log.tally()
            for tier, generation in (("hot", 1), ("lake", 2)):
                model = models[tier, generation]
                await model.open()

                async def whole() -> bool:
                    return bool(await model.tally() == tally)  # noqa: B023

                await until(whole, 20, f"{tier} is caught up:\n{manager.log_tail()}")
                compared = await compare(log, cast("Any", model))
                assert (compared.events, compared.differences) == (tally.count, [])
            asking.cancel()
            assert {code for _, code in answers} == {200}, answers
            assert min(answers["hot", 200], answers["lake", 200]) >= 5
            cells = await manager.cells()
            assert set(cells.values()) == {"running"}, cells
