"""The process `event-streaming`: the ways in, live streams and commands to entities; it makes the streams."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tidegate import streams
from tidegate.app.process import Process, Rows
from tidegate.bus import Bus
from tidegate.log import Log

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

__all__ = ["EventStreaming"]


class EventStreaming(Process):
    """REST, SSE, WebSocket and gRPC to publish and subscribe."""

    name = "event-streaming"
    grpc_service = "Events"

    def routes(self) -> list[ControllerRouterHandler]:
        """Publishing, streams and entities."""
        from tidegate.edges import rest_entities, rest_ingest, rest_stream, ws

        service = self.service
        return [
            *rest_ingest.routes(service),
            *rest_stream.routes(service),
            *rest_entities.routes(service),
            *ws.routes(service),
        ]

    def micro_services(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """Entities."""
        from tidegate.edges import micro_services as offer

        return offer.offered(bus, self.service, entities=offer.entities(self.service))

    async def find_streams(self, bus: Bus) -> None:
        """Make the streams as declared."""
        await streams.apply(bus, self.declared)

    async def rows(self, bus: Bus, log: Log) -> dict[str, Rows]:
        """The streams."""
        return {"streams": [await _stream_row(bus, name) for name in self.declared.streams]}


async def _stream_row(bus: Bus, name: str) -> dict[str, Any]:
    state = await bus.stream(name)
    return {
        "stream": name,
        "frames": state.messages,
        "MB": round(state.bytes / 1e6, 1),
        "first": state.first_sequence,
        "last": state.last_sequence,
        "created": state.created[:19],
    }
