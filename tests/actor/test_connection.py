"""A connection that is cut, or stays up and swallows everything: cells find out, and read on over a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.actor.counter import Add, Counter, Counters
from tests.conftest import free_ports
from tests.system.harness import until
from tests.system.hole import Hole
from tidegate import app, streams
from tidegate.actor.cell import Cell, running
from tidegate.actor.host import EntityWork
from tidegate.actor.system import System
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.log import Log

pytestmark = pytest.mark.anyio


class Quiet(Counters):
    kind = "quiet"
    follows = ()  # type: ignore[assignment]


@asynccontextmanager
async def behind_a_hole(settings: Settings) -> AsyncIterator[tuple[System, Cell, Hole]]:
    """A running cell that is connected through the hole, and who asks it, who is not."""
    (port,) = free_ports(1)
    hole = Hole(settings.local.nats_port)
    async with (
        hole.listening(port),
        connect(settings.nats_url) as direct,
        connect(f"nats://127.0.0.1:{port}", request_timeout_seconds=3) as through,
    ):
        await streams.apply(direct, app.declarations(settings))
        work = EntityWork(through, Log(through, 1), Quiet(), 0)
        cell = Cell("quiet.0", work, app.entity_inputs(through, Quiet(), 0, 1.0))
        async with running([cell]):
            yield System(direct, Log(direct, 1)), cell, hole


@pytest.mark.timeout(90)
async def test_a_cell_reads_on_after_its_connection_has_become_a_black_hole(nats_server: Settings) -> None:
    async with behind_a_hole(nats_server) as (entities, _, hole):
        await entities.ask("quiet", "a", Add(1))
        hole.swallow()
        began = time.monotonic()
        answers = await asyncio.gather(*(entities.ask("quiet", "a", Add(1), timeout_seconds=60) for _ in range(20)))
        assert time.monotonic() - began < 40
        assert sorted(answer.version for answer in answers) == list(range(2, 22))
        state = msgspec.json.decode((await entities.get("quiet", "a")).state, type=Counter)
        assert state.total == 21


async def test_a_cell_that_waits_for_nats_goes_on_as_soon_as_the_connection_is_back(nats_server: Settings) -> None:
    async with behind_a_hole(nats_server) as (entities, cell, hole):
        await entities.ask("quiet", "b", Add(1))
        cell._pause = 60.0  # as after many failures in a row: the next pause is the longest

        async def waits() -> bool:
            return cell.status.state == "waiting"

        hole.refuse()
        hole.cut()
        await until(waits, 5, "the cell waits")
        await hole.accept()
        began = time.monotonic()
        assert (await entities.ask("quiet", "b", Add(1))).version == 2
        # The client connects again a second after it was refused; the pause is 5 s.
        assert time.monotonic() - began < 3.5
