"""All channels of a gateway: those of the configuration, and those discovered.

Invariant: a configured target is never replaced by a discovered one of the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from fnmatch import fnmatchcase

from tidegate.bus import Bus
from tidegate.errors import BusUnavailableError, Code, RefusedError
from tidegate.gateway.channel import Channel, ChannelStatus
from tidegate.gateway.configuration import Configuration, Target
from tidegate.gateway.discovery import find
from tidegate.gateway.transports.base import CallFailedError, Transport
from tidegate.gateway.transports.nats import NatsTransport

__all__ = ["Channels"]


class Channels:
    """By the names of their targets."""

    def __init__(self, configuration: Configuration, bus: Callable[[], Bus | None]) -> None:
        self._discovery = configuration.discovery
        self._bus = bus
        self._configured = {one.name for one in configuration.targets}
        self._channels = {one.name: Channel(one, self._transport(one)) for one in configuration.targets}
        self._discovered: dict[str, NatsTransport] = {}

    def _transport(self, target: Target) -> Transport:
        secrets = {key: one.read(f"targets.{target.name}.secrets.{key}") for key, one in target.secrets.items()}
        headers = {**target.headers, **secrets}
        # Each driver is loaded only where a target needs it.
        match target.protocol:
            case "rest":
                from tidegate.gateway.transports.http import RestTransport

                return RestTransport(target, headers)
            case "graphql":
                from tidegate.gateway.transports.http import GraphqlTransport

                return GraphqlTransport(target, headers)
            case "websocket":
                from tidegate.gateway.transports.websocket import WebSocketTransport

                return WebSocketTransport(target, headers)
            case "grpc":
                from tidegate.gateway.transports.grpc import GrpcTransport

                return GrpcTransport(target, headers)
            case "nats":
                return NatsTransport(target, headers, self._bus)

    def get(self, name: str) -> Channel:
        """Raises CallFailedError when there is no such target."""
        if name not in self._channels:
            raise CallFailedError("invalid", f"there is no target {name[:64]!r}, configured or discovered")
        return self._channels[name]

    def check(self, name: str, tenant: str) -> None:
        """Raises RefusedError when there is no such target for this tenant: which of them is not told."""
        found = self._channels.get(name)
        if found is None or (tenant and tenant not in found.target.tenants and "*" not in found.target.tenants):
            raise RefusedError(Code.NOT_FOUND, f"there is no target {name[:64]!r}")

    @property
    def statuses(self) -> list[ChannelStatus]:
        """Of all, by name."""
        return [self._channels[name].status for name in sorted(self._channels)]

    async def follow(self) -> None:
        """Until cancelled: services come, and change their endpoints. One that is away keeps its channel, which says
        so."""
        while self._discovery.services:
            with contextlib.suppress(BusUnavailableError):
                if (bus := self._bus()) is not None:
                    self._take(await find(bus))
            await asyncio.sleep(self._discovery.every_seconds)

    def _take(self, found: dict[str, dict[str, str]]) -> None:
        for name, endpoints in found.items():
            wanted = any(fnmatchcase(name, one) for one in self._discovery.services)
            if not wanted or name in self._configured:
                continue
            if name in self._discovered:
                self._discovered[name].endpoints = endpoints
            elif len(self._discovered) < self._discovery.most:
                target = Target(name=name, protocol="nats", subject=name, tenants=self._discovery.tenants)
                self._discovered[name] = NatsTransport(target, {}, self._bus, endpoints)
                self._channels[name] = Channel(target, self._discovered[name])

    async def aclose(self) -> None:
        """Close all connections to targets."""
        for one in self._channels.values():
            await one.transport.aclose()
