"""A connection that stays up and swallows everything: cells find out, and read on over a new one."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from tests.actor.counter import Add, Counter, Counters
from tests.conftest import free_ports
from tests.system.hole import Hole
from tidegate import app, streams
from tidegate.actor.cell import Cell
from tidegate.actor.host import EntityWork
from tidegate.actor.system import System
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.log import Log

pytestmark = pytest.mark.anyio


class Quiet(Counters):
    kind = "blackhole"
    follows = ()  # type: ignore[assignment]


@pytest.mark.timeout(90)
async def test_a_cell_reads_on_after_its_connection_has_become_a_black_hole(nats_server: Settings) -> None:
    (port,) = free_ports(1)
    hole = Hole(nats_server.local.nats_port)
    async with (
        hole.listening(port),
        connect(nats_server.nats_url) as direct,
        connect(f"nats://127.0.0.1:{port}", request_timeout_seconds=3) as through,
    ):
        await streams.apply(direct, app.declarations(nats_server))
        work = EntityWork(through, Log(through, 1), Quiet(), 0)
        cell = Cell("blackhole.0", work, app.entity_inputs(through, Quiet(), 0, 1.0))
        task = asyncio.create_task(cell.run())
        try:
            entities = System(direct, Log(direct, 1))
            await entities.ask("blackhole", "a", Add(1))
            hole.swallow()
            began = time.monotonic()
            answers = await asyncio.gather(
                *(entities.ask("blackhole", "a", Add(1), timeout_seconds=60) for _ in range(20))
            )
            assert time.monotonic() - began < 40
            assert sorted(answer.version for answer in answers) == list(range(2, 22))
            state = msgspec.json.decode((await entities.get("blackhole", "a")).state, type=Counter)
            assert state.total == 21
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
