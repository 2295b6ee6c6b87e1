"""A connection that stays up and swallows everything: cells find out, and read on over a new one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.actor.counter import Add, Counter, Counters
from tests.conftest import free_ports
from tidegate import app, streams
from tidegate.actor.cell import Cell
from tidegate.actor.host import EntityWork
from tidegate.actor.system import System
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.log import Log

pytestmark = pytest.mark.anyio


class BlackHole:
    """Passes bytes on until told to swallow; connections of that time stay swallowed for ever, later ones pass."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def swallow(self) -> None:
        self._generation += 1

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        born = self._generation
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def pump(one: asyncio.StreamReader, other: asyncio.StreamWriter) -> None:
            while data := await one.read(65536):
                if born == self._generation:
                    other.write(data)
                    await other.drain()

        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()


class Quiet(Counters):
    kind = "blackhole"
    follows = ()  # type: ignore[assignment]


@pytest.mark.timeout(90)
async def test_a_cell_reads_on_after_its_connection_has_become_a_black_hole(nats_server: Settings) -> None:
    (port,) = free_ports(1)
    hole = BlackHole(nats_server.local.nats_port)
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
