"""A NATS server for each module, with the entities and the gateway's cells on it, and services to be called."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.actor.conftest import nats_server
from tests.edges.world import served
from tests.gateway.services import Rest
from tidegate import app, streams
from tidegate.actor.cell import Cell, running
from tidegate.actor.host import EntityWork
from tidegate.auth import Gate
from tidegate.bus import Bus, connect
from tidegate.config import Auth, Settings
from tidegate.entities.call import Calls
from tidegate.entities.connection import Connections
from tidegate.gateway import Configuration, Gateway
from tidegate.log import Log
from tidegate.service.publishing import Publishing

__all__ = ["nats_server"]


class World:
    """What a gateway stands on."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.bus = bus
        self.settings = settings
        self.declared = app.declarations(settings)
        self.log = Log(bus, self.declared.shards)

    def gateway(self, configuration: Configuration) -> Gateway:
        limits = self.settings.ingest
        publishing = Publishing(
            lambda: self.bus,
            Gate(Auth(mode="off")),
            self.declared.partitions,
            limits.max_frame_bytes,
            limits.max_inflated_bytes,
        )
        return Gateway(configuration, lambda: self.bus, publishing, self.declared.shards)

    @contextlib.asynccontextmanager
    async def opened(self, configuration: Configuration, *, working: bool = False) -> AsyncIterator[Gateway]:
        """A gateway; with its cells, if `working`."""
        gateway = self.gateway(configuration)
        try:
            async with running(gateway.cells(self.bus, self.log, 1.0) if working else []):
                yield gateway
        finally:
            await gateway.aclose()


@pytest.fixture(scope="module")
async def world(nats_server: Settings) -> AsyncIterator[World]:
    async with connect(nats_server.nats_url) as bus:
        one = World(bus, nats_server)
        await streams.apply(bus, one.declared)
        cells = [
            Cell(
                f"{entity.kind}.{shard}",
                EntityWork(bus, one.log, entity, shard),
                app.entity_inputs(bus, entity, shard, 1.0),
            )
            for entity in (Calls(), Connections())
            for shard in range(one.declared.shards)
        ]
        async with running(cells):
            yield one


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    service = Rest()
    async with served(Gate(Auth(mode="off")), service.routes()) as url:
        service.url = url
        yield service
        service.hold.set()
