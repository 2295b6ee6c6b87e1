"""The process `gateway`: other services are called through it, and one address answers questions to all read models."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tidegate.app.opening import TIERS, read_models
from tidegate.app.process import Process, Rows, Task
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.gateway import Gateway, load
from tidegate.log import Log
from tidegate.query import Queries

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

__all__ = ["CommunicationGateway"]


class CommunicationGateway(Process):
    """Channels to other services, their calls and connections; GraphQL over the read models."""

    name = "gateway"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where settings or the file of targets make no sense."""
        super().__init__(settings)
        path = settings.gateway.config_path
        configuration = load(Path(path) if path else None)
        self.gateway = Gateway(configuration, lambda: self.bus, self.publishing, self.declared.shards)
        self.models = read_models(settings)
        self.queries = Queries(self.models, None)

    def routes(self) -> list[ControllerRouterHandler]:
        """Calls, connections, channels; GraphQL."""
        from tidegate.edges import graphql, rest_gateway

        return [*rest_gateway.routes(self.gateway), *graphql.routes(self.service)]

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """The cells of calls and connections."""
        stack.push_async_callback(self.gateway.aclose)
        self.cells += self.gateway.cells(bus, log, self.settings.intake.pin_timeout_seconds)
        assert self.queries is not None
        self.queries.attach(log)
        reading = [partial(self._read, log, tier, stack) for tier in TIERS]
        return [self.gateway.channels.follow, *reading]

    async def _read(self, log: Log, tier: str, stack: contextlib.AsyncExitStack) -> None:
        """Have the generation that serves read, whichever that is."""
        generation = 0
        while True:
            generation = await self.serving(log, tier, generation)
            model = self.models[tier] = read_models(self.settings, [tier], {tier: generation})[tier]
            # Not before the process ends: queries may still be reading a generation that serves no longer.
            stack.push_async_callback(model.aclose)

    def rows_at_hand(self) -> dict[str, Rows]:
        """The channels."""
        return {"channels": [msgspec.to_builtins(one) for one in self.gateway.channel_statuses()]}
