"""The process `storage-manager`: keeps the read models, and answers questions to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.app.opening import TIERS, batching, read_models
from tidegate.app.process import Process, Rows, Task
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.errors import TidegateError
from tidegate.history import cells_of, consumer_of
from tidegate.log import Log
from tidegate.projection import ReadModel
from tidegate.projector import ProjectionWork
from tidegate.query import Queries

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

__all__ = ["StorageManager"]


class StorageManager(Process):
    """A projection cell for each cell of its read models; REST, WebSocket, gRPC and NATS services for queries."""

    name = "storage-manager"
    grpc_service = "Queries"
    niceness = 5
    """Where cores are scarce, taking events in comes before projecting them: the log keeps what waits."""

    def __init__(self, settings: Settings, tiers: Sequence[str] = TIERS) -> None:
        """Raises ConfigError where settings make no sense, or there is no such tier."""
        super().__init__(settings)
        self.models = read_models(settings, tiers)
        self.queries = Queries(self.models, None)

    def routes(self) -> list[ControllerRouterHandler]:
        """Queries."""
        from tidegate.edges import rest_query, ws

        return [*rest_query.routes(self.service), *ws.routes(self.service)]

    def micro_services(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """Queries, and what the tiers hold."""
        from tidegate.edges import micro_services as offer

        service = self.service
        return offer.offered(bus, service, query=offer.query(service), storage=offer.storage(service))

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """The cells of the generations that serve."""
        assert self.queries is not None
        self.queries.attach(log)
        make = partial(self._projections, bus, log, stack)
        return [partial(self.keep, log, tier, partial(make, tier)) for tier in self.models]

    def _projections(
        self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack, tier: str, generation: int
    ) -> list[Cell]:
        model = self.models[tier] = read_models(self.settings, [tier], {tier: generation})[tier]
        # Not before the process ends: queries may still be reading a generation that serves no longer.
        stack.push_async_callback(model.aclose)
        limit, linger = batching(self.settings, model.name)
        cells = []
        for cell, subjects in cells_of(model, self.declared.shards).items():
            inputs = self.mailbox(bus, subject.LOG, consumer_of(model.name, cell, generation), [subjects])
            work = ProjectionWork(log, model, cell, limit=limit, linger_seconds=linger)
            cells.append(Cell(f"{model.name}.{cell}", work, inputs))
        return cells

    async def rows(self, bus: Bus, log: Log) -> dict[str, Rows]:
        """How far each cell of each read model is."""
        ends = await log.last_event_sequences()
        models = self.models.items()
        cells = [(name, model, cell) for name, model in models for cell in cells_of(model, self.declared.shards)]
        return {"read models": await asyncio.gather(*(_position_row(ends, *one) for one in cells))}


async def _position_row(ends: dict[int, int], name: str, model: ReadModel, cell: str) -> dict[str, Any]:
    end = max(ends.values()) if cell == "all" else ends[int(cell)]
    found: dict[str, Any] = {"read model": name, "cell": cell, "log end": end}
    try:
        async with asyncio.timeout(2):
            position = await model.position(cell)
        at = position.sequence if position else 0
        return found | {"position": at, "events": position.count if position else 0, "behind": end - at}
    except (TidegateError, TimeoutError) as error:
        return found | {"problem": str(error)[:120] or "no answer within 2 s"}
