"""With a tier's server down, or NATS away, the others go on; what lags behind shows it and catches up by itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.system.harness import ROOT, System, system, until
from tests.system.settled import caught_up
from tests.tiers import frames
from tidegate import app
from tidegate.bus import Bus, connect
from tidegate.local.processes import environment
from tidegate.local.servers import fetch
from tidegate.log import Log, Progress, event_messages

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """NATS, Redis, MongoDB, and one process that keeps hot and warm."""
    with system(tmp_path_factory.mktemp("outage")) as one:

        async def begin() -> None:
            for name in ("nats", "redis", "mongo"):
                one.serve(name)
            await one.ready()
            async with one.bus():
                pass
            await one.run("storage-manager", "--tiers", "hot,warm").ready()

        asyncio.run(begin())
        yield one


@pytest.fixture
async def bus(three: System) -> AsyncIterator[Bus]:
    async with connect(three.settings.nats_url) as bus:
        yield bus


class _Feed:
    """Appends events to the log as an intake does."""

    def __init__(self, bus: Bus, log: Log) -> None:
        self._bus = bus
        self.log = log

    async def append(self, count: int) -> int:
        """`count` events in each shard; returns the log's last sequence."""
        expected, progress = await self.log.progress("test", 0)
        made = progress.events if progress else 0
        messages = []
        for shard in range(self.log.shards):
            lines = [frames.encode(event) for event in frames.events(count, first=made + shard * count)]
            messages += event_messages(shard, lines, "test")
        after = Progress(stream="test", created="", sequence=0, events=made + count * self.log.shards)
        return await self.log.append("test", 0, messages, after, expected)


@pytest.fixture
async def feed(three: System, bus: Bus) -> _Feed:
    return _Feed(bus, Log(bus, three.declared.shards))


async def _catch_up(one: System, log: Log, *names: str) -> None:
    """Returns when the read models have reached the log's end by themselves; they then hold what the log holds."""
    models = app.read_models(one.settings, names)
    try:
        await caught_up(models.values(), log, 20)
        expected = await log.tally()
        assert {name: await model.tally() for name, model in models.items()} == dict.fromkeys(models, expected)
    finally:
        for model in models.values():
            await model.aclose()


def _cells(status: dict[str, list[dict[str, Any]]], tier: str) -> list[dict[str, Any]]:
    return [row for row in status.get("cells", []) if row["cell"].startswith(f"{tier}.")]


def _models(status: dict[str, list[dict[str, Any]]], tier: str) -> list[dict[str, Any]]:
    return [row for row in status.get("read models", []) if row["read model"] == tier]


@pytest.mark.parametrize(("down", "server"), [("hot", "redis"), ("warm", "mongo")])
async def test_while_the_server_of_a_tier_is_down_the_other_goes_on_and_the_lagging_one_shows_it_and_catches_up(
    three: System, feed: _Feed, down: str, server: str
) -> None:
    process = three.programs["storage-manager"]
    up = "warm" if down == "hot" else "hot"
    await feed.append(50)
    await _catch_up(three, feed.log, "hot", "warm")

    three.programs[server].kill()
    for _ in range(3):
        await feed.append(50)
        await asyncio.sleep(0.1)
    await _catch_up(three, feed.log, up)

    async def shown() -> bool:
        return all(row["state"] == "waiting" for row in _cells(await process.status(), down))

    await until(shown, 20, "the status shows who waits")
    status = await process.status()
    assert all(down in row["problem"] for row in _cells(status, down))
    assert all(row["state"] == "running" and not row["problem"] for row in _cells(status, up))
    assert all(row["problem"] for row in _models(status, down))
    assert all(row["behind"] == 0 for row in _models(status, up))
    assert process.running

    three.programs[server].start()
    await three.programs[server].ready()
    # Nothing new comes in: what was delivered in vain has to be delivered again.
    await _catch_up(three, feed.log, "hot", "warm")

    async def well() -> bool:
        found = await process.status()
        rows = _cells(found, down)
        return all(row["state"] == "running" and not row["problem"] for row in rows) and all(
            row.get("behind") == 0 for row in _models(found, down)
        )

    await until(well, 20, "the status shows that all is well")


async def test_tidegate_status_shows_positions_and_who_lags(three: System, feed: _Feed) -> None:
    await feed.append(10)
    three.programs["redis"].kill()
    await feed.append(10)
    process = three.programs["storage-manager"]

    async def shown() -> bool:
        return any(row["state"] == "waiting" for row in _cells(await process.status(), "hot"))

    await until(shown, 20, "the status shows who waits")
    command = [sys.executable, "-m", "tidegate", "status", "--json"]
    found = await asyncio.to_thread(
        subprocess.run, command, env=environment(three.settings), cwd=ROOT, capture_output=True, timeout=30, check=True
    )
    sections = json.loads(found.stdout)["sections"]
    assert {row["read model"] for row in sections["read models"]} == {"hot", "warm"}
    assert any(row["state"] == "waiting" for row in _cells(sections, "hot"))
    three.programs["redis"].start()
    await three.programs["redis"].ready()


async def test_a_process_is_not_ready_while_nats_is_away_and_catches_up_when_it_is_back(
    three: System,
) -> None:
    process, nats = three.programs["storage-manager"], three.programs["nats"]

    async def readiness() -> int:
        return (await fetch(f"{process.url}/readyz"))[0]

    async def is_ready() -> bool:
        return await readiness() == 200

    async def is_not() -> bool:
        return await readiness() == 503

    await until(is_ready, 10, "ready with everything there")
    nats.kill()
    assert await until(is_not, 10, "not ready without NATS") < 2
    code, body = await fetch(f"{process.url}/readyz")
    assert code == 503
    assert three.settings.nats_url in json.loads(body)["detail"]
    assert (await fetch(f"{process.url}/healthz"))[0] == 200
    assert (await fetch(f"{process.url}/status"))[0] == 200
    nats.start()
    await until(is_ready, 10, "ready again")
    assert process.running
    async with connect(three.settings.nats_url) as bus:
        feed = _Feed(bus, Log(bus, three.declared.shards))
        await feed.append(20)
        await _catch_up(three, feed.log, "hot", "warm")


async def test_a_process_that_starts_without_nats_waits_for_it_and_says_so(three: System) -> None:
    process, nats = three.programs["storage-manager"], three.programs["nats"]
    nats.kill()
    process.kill()
    process.start()

    async def says_so() -> bool:
        try:
            return (await fetch(f"{process.url}/readyz"))[0] == 503
        except OSError:
            return False

    await until(says_so, 20, "it answers without NATS")
    nats.start()
    await process.ready(20)
