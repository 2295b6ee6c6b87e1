"""What all of Tidegate's own processes have in common: HTTP from the first moment, a connection to NATS, cells.

Invariant: a process serves HTTP from its first moment, says over `/readyz` what it waits for, and ends all it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.abc

from tidegate import telemetry
from tidegate.actor.balancing import balance
from tidegate.actor.cell import Cell
from tidegate.actor.mailbox import Mailbox, shown
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.system import System
from tidegate.app.opening import declarations
from tidegate.auth import Gate
from tidegate.bus import STREAM_NOT_FOUND, Bus, connect_patiently
from tidegate.config import Settings, port_key
from tidegate.errors import BusError, BusUnavailableError, ConfigError
from tidegate.log import Log
from tidegate.presence import answering

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

    from tidegate.query import Queries
    from tidegate.service import Service
    from tidegate.service.publishing import Publishing

__all__ = ["ENTITY_KINDS", "Process", "Rows", "Task", "until_signalled"]

ENTITY_KINDS = frozenset(
    {"access_key", "alert", "budget", "call", "connection", "correlation", "pipeline", "subscription", "window"}
)
Rows = list[dict[str, Any]]
Task = Callable[[], Coroutine[Any, Any, None]]
_GRACE_SECONDS = 2.0
"""For gRPC calls under way when a process ends."""
_LOOK_SECONDS = 1.0
"""How often it is looked which generations serve."""


class Process:
    """One of Tidegate's own processes: a subclass says what it serves, and what runs once NATS is there."""

    name: ClassVar[str]
    grpc_service: ClassVar[str] = ""
    """The gRPC service that it has."""
    niceness: ClassVar[int] = 0

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where settings make no sense."""
        self.settings = settings
        self.declared = declarations(settings)
        self.bus: Bus | None = None
        self.cells: list[Cell] = []
        self.queries: Queries | None = None
        self.system: System | None = None
        self._waiting_for = "starting"
        self.gate = Gate(settings.auth)
        for table, host in (("http", settings.http.host), ("grpc", settings.grpc.host)):
            if self.gate.is_open and not _is_loopback(host):
                raise ConfigError(
                    f"{table}.host",
                    f'{host} is no loopback address, and anybody could do everything: set auth.mode = "keys"'
                    " (see `tidegate apikeys`), or leave it at 127.0.0.1",
                )

    # -- what each has of its own ---------------------------------------------------------------------------------

    def routes(self) -> list[ControllerRouterHandler]:
        """What it serves over HTTP beside its own health."""
        return []

    def micro_services(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """What it offers to NATS clients, for as long as the block lasts."""
        return contextlib.nullcontext()

    async def prepare(self) -> None:
        """Before NATS is there. Raises ConfigError."""

    async def find_streams(self, bus: Bus) -> None:
        """Raises BusError where a stream that it needs is not there yet."""
        for name in self.declared.streams:
            await bus.stream(name)

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """Make the cells of this connection; returns what is to run beside them until it ends, when `stack` is left."""
        return []

    async def rows(self, bus: Bus, log: Log) -> dict[str, Rows]:
        """What `tidegate status` shows of it that has to be asked of NATS. Raises BusError, BusUnavailableError."""
        return {}

    def rows_at_hand(self) -> dict[str, Rows]:
        """What `tidegate status` shows of it in any case."""
        return {}

    # -- what HTTP asks -----------------------------------------------------------------------------------------

    def not_ready(self) -> str | None:
        if self.bus is None or not self.bus.connected:
            return f"no connection to NATS at {self.settings.nats_url}"
        return self._waiting_for or None

    async def sections(self) -> dict[str, Rows]:
        rows = [
            {
                "cell": cell.status.cell,
                "state": cell.status.state,
                "owner": f"{os.getpid()}@{socket.gethostname()}" if cell.status.state == "running" else "",
                "position": shown(cell.status.positions) if cell.status.positions else 0,
                "lag (frames)": cell.status.pending,
                "problem": cell.status.problem[:200],
            }
            for cell in self.cells
        ]
        sections: dict[str, Rows] = {"cells": rows} if rows else {}
        sections |= self.rows_at_hand()
        if self.bus is not None and self.bus.connected:
            with contextlib.suppress(BusError, BusUnavailableError):
                sections |= await self.rows(self.bus, Log(self.bus, self.declared.shards))
        return sections

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        # Commands that only look at read models do not wait for a web framework.
        from tidegate.edges.http import application, serving

        app = application(self, self.routes(), self.gate)
        http = self.settings.http
        serve, stop = serving(app, http.host, self._port, http.max_connections)
        grpc_server = self._grpc_server()
        async with anyio.create_task_group() as group:
            group.start_soon(until_signalled, group.cancel_scope, stop)
            group.start_soon(serve)
            if grpc_server is not None:
                await grpc_server.start()
            try:
                await self._work()
            finally:
                stop()
                if grpc_server is not None:
                    # Calls that have not ended by then wait for a connection that is closed already.
                    with anyio.move_on_after(_GRACE_SECONDS + 1, shield=True):
                        await grpc_server.stop(_GRACE_SECONDS)

    def _grpc_server(self) -> Any:
        """Bound to its port, if it has one."""
        if not self.grpc_service:
            return None
        from tidegate.edges.grpc_server import serving

        port = getattr(self.settings.grpc, port_key(self.name))
        most = self.settings.ingest.max_frame_bytes
        return serving(self.settings.grpc, port, self.service, self.grpc_service, self.not_ready, most)

    @property
    def _port(self) -> int:
        port: int = getattr(self.settings.http, port_key(self.name))
        return port

    @cached_property
    def publishing(self) -> Publishing:
        """How the edges of this process publish."""
        from tidegate.service.publishing import Publishing

        limits = self.settings.ingest
        return Publishing(
            lambda: self.bus, self.gate, self.declared.partitions, limits.max_frame_bytes, limits.max_inflated_bytes
        )

    @cached_property
    def service(self) -> Service:
        """What the edges of this process call."""
        from tidegate.service import Service

        return Service(
            self.gate,
            self.publishing,
            bus=lambda: self.bus,
            shards=self.declared.shards,
            kinds=ENTITY_KINDS,
            queries=lambda: self.queries,
            not_ready=self.not_ready,
            report=self.sections,
        )

    async def _work(self) -> None:
        await self.prepare()
        while True:
            try:
                await self._serve()
                return
            except BusUnavailableError as error:
                # The connection was lost before all that lives with an outage had begun.
                telemetry.emit(telemetry.CellWaiting(cell=self.name, error=str(error), retry_in_seconds=1.0))
                self._waiting_for = "NATS"
                self.cells.clear()
                await anyio.sleep(1)

    async def _serve(self) -> None:
        """On one connection, for as long as it goes on or comes back. Raises BusUnavailableError only at the start."""
        settings = self.settings

        def waiting(error: BusUnavailableError, pause: float) -> None:
            telemetry.emit(telemetry.CellWaiting(cell=self.name, error=str(error), retry_in_seconds=pause))

        async with contextlib.AsyncExitStack() as stack:
            bus = await stack.enter_async_context(
                connect_patiently(
                    settings.nats_url,
                    on_wait=waiting,
                    name=f"tidegate {self.name}",
                    credentials_file=settings.nats.credentials_file,
                    connect_timeout_seconds=settings.nats.connect_timeout_seconds,
                    request_timeout_seconds=settings.nats.request_timeout_seconds,
                )
            )
            self.bus = bus
            telemetry.emit(telemetry.BusConnected(server=f"nats-server {bus.server_version}"))
            lost_at: list[float] = []

            def disconnected(reason: str) -> None:
                lost_at.append(time.monotonic())
                telemetry.emit(telemetry.BusDisconnected(reason=reason))

            def reconnected() -> None:
                outage = time.monotonic() - lost_at[0] if lost_at else 0.0
                lost_at.clear()
                telemetry.emit(telemetry.BusReconnected(outage_seconds=outage))

            bus.on_disconnect(disconnected)
            bus.on_reconnect(reconnected)
            where = f"http://{settings.http.host}:{self._port}"
            await stack.enter_async_context(answering(bus, self.name, where, self.not_ready, self.sections))
            await self._have_streams(bus)
            log = Log(bus, self.declared.shards)
            self.system = System(bus, log)
            tasks = await self.begin(bus, log, stack)
            await stack.enter_async_context(self.micro_services(bus))
            self._waiting_for = ""
            telemetry.emit(telemetry.ProcessStarted(name=self.name))
            async with anyio.create_task_group() as group:
                for cell in self.cells:
                    group.start_soon(cell.run, name=cell.status.cell)
                for task in tasks:
                    group.start_soon(task)
                group.start_soon(self.gate.follow, bus, log)
                group.start_soon(balance, bus, self.name, lambda: self.cells)

    async def _have_streams(self, bus: Bus) -> None:
        self._waiting_for = (
            "waiting for the streams INGEST and LOG; event-streaming or `tidegate subjects apply` makes them"
        )
        while True:
            try:
                await self.find_streams(bus)
            except BusUnavailableError as error:
                self._waiting_for = str(error)
            except BusError as error:
                if error.code != STREAM_NOT_FOUND:
                    raise
            else:
                return
            await asyncio.sleep(0.2)

    # -- parts that several use -------------------------------------------------------------------------------

    def mailbox(
        self, bus: Bus, stream: str, name: str, subjects: Sequence[str], *, headers_only: bool = False
    ) -> Mailbox:
        """Of a cell that reads these subjects of one stream."""
        seconds = self.settings.intake.pin_timeout_seconds
        return Mailbox(
            PinnedConsumer(bus, stream, name, subjects, pin_timeout_seconds=seconds, headers_only=headers_only)
        )

    async def keep(self, log: Log, name: str, make: Callable[[int], list[Cell]]) -> None:
        """Run the cells of the generation of `name` that serves, and change over when another one does."""
        serving = await self.serving(log, name, 0)
        while True:
            cells = make(serving)
            self.cells += cells
            async with anyio.create_task_group() as group:
                for cell in cells:
                    group.start_soon(cell.run, name=cell.status.cell)
                serving = await self.serving(log, name, serving)
                group.cancel_scope.cancel()
            self.cells = [one for one in self.cells if one not in cells]

    async def serving(self, log: Log, name: str, other: int) -> int:
        """The generation of `name` that serves, once it is not `other`."""
        while True:
            with contextlib.suppress(BusError, BusUnavailableError):
                if (active := (await log.generation(name))[1].active) != other:
                    return active
            await asyncio.sleep(_LOOK_SECONDS)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def until_signalled(scope: anyio.CancelScope, stop: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop()
            scope.cancel()
            return
