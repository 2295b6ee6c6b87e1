"""A NATS server for each module, as for the actors, with a process's worth of subscription entities on it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.actor.conftest import nats_server
from tests.tiers import frames
from tidegate import app, streams
from tidegate.actor.cell import Cell, running
from tidegate.actor.host import EntityWork
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.entities.subscription import Subscriptions
from tidegate.errors import BusError
from tidegate.log import Log, event_messages
from tidegate.subscriptions import SubscriptionManager

__all__ = ["nats_server"]


class World:
    """A log of its own for one test, and the entities' cells."""

    def __init__(self, bus: Bus, url: str) -> None:
        self.bus = bus
        self.url = url
        self.log = Log(bus, 4)
        self.manager = SubscriptionManager(bus, self.log)
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.ids: list[str] = []
        """Of all events in the log, in order."""

    async def append(self, count: int, per_frame: int) -> None:
        """So many frames, each an atomic batch of its own, spread over the shards."""
        events = frames.events(count * per_frame, first=len(self.ids))
        for number in range(count):
            part = events[number * per_frame : (number + 1) * per_frame]
            await self.log.append_facts(event_messages(number % 4, [frames.encode(one) for one in part], "test"))
            self.ids += [one["metadata"]["uid"] for one in part]

    @contextlib.asynccontextmanager
    async def hosted(self) -> AsyncIterator[None]:
        """The cells of the entities run until the block ends."""
        entity = Subscriptions()
        cells = [
            Cell(
                f"{entity.kind}.{shard}",
                EntityWork(self.bus, self.log, entity, shard),
                app.entity_inputs(self.bus, entity, shard, 1.0),
            )
            for shard in range(4)
        ]
        async with running(cells):
            yield


def ids_of(batch: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of the events in a batch."""
    return [one["metadata"]["uid"] for one in batch]


@pytest.fixture
async def world(nats_server: Settings) -> AsyncIterator[World]:
    async with connect(nats_server.nats_url) as bus:
        declared = app.declarations(nats_server)
        for name in declared.streams:
            with contextlib.suppress(BusError):
                await bus.api(f"STREAM.DELETE.{name}")
        await streams.apply(bus, declared)
        one = World(bus, nats_server.nats_url)
        async with one.hosted():
            yield one
