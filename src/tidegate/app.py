"""The composition root: builds each of Tidegate's processes from its parts and runs it.

Invariant: a process serves HTTP from its first moment, says over `/readyz` what it waits for, and ends all it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import msgspec

from tidegate import resources, streams, subject, telemetry
from tidegate.actor.cell import Cell
from tidegate.actor.entity import Entity
from tidegate.actor.generations import GenerationWork
from tidegate.actor.mailbox import Mailbox, shown
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import PullConsumer
from tidegate.actor.system import System, forwarding
from tidegate.auth import Gate
from tidegate.bus import STREAM_NOT_FOUND, Bus, connect, connect_patiently
from tidegate.config import Settings
from tidegate.errors import BusError, BusUnavailableError, ConfigError, TidegateError
from tidegate.history import cells_of, consumer_of
from tidegate.log import Log
from tidegate.presence import answering
from tidegate.projection import ReadModel
from tidegate.projector import ProjectionWork
from tidegate.subject import Declarations, load_declarations

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

    from tidegate.edges.kafka.bridge import Bridge
    from tidegate.entities.alert import Raised
    from tidegate.gateway import Gateway
    from tidegate.lifecycle import Lifecycle
    from tidegate.pipeline.runner import Pipeline
    from tidegate.query import Queries
    from tidegate.service import Service
    from tidegate.service.publishing import Publishing

__all__ = [
    "ENTITY_KINDS",
    "TIERS",
    "batching",
    "collect_rarely",
    "declarations",
    "opened_log",
    "read_models",
    "run",
    "serving_models",
]

TIERS = ("hot", "warm", "cold", "lake")
ENTITY_KINDS = frozenset(
    {"access_key", "alert", "budget", "call", "connection", "correlation", "pipeline", "subscription", "window"}
)
Rows = list[dict[str, Any]]
_GRACE_SECONDS = 2.0
"""For gRPC calls under way when a process ends."""
_LOOK_SECONDS = 1.0
"""How often a storage-manager looks which generations serve."""


def declarations(settings: Settings) -> Declarations:
    """The stream declarations in force."""
    return load_declarations(Path(settings.subjects_path) if settings.subjects_path else resources.folder("subjects"))


@contextlib.asynccontextmanager
async def opened_log(settings: Settings) -> AsyncIterator[tuple[Bus, Log]]:
    """A connection to NATS and the log on it, for commands."""
    async with connect(
        settings.nats_url,
        name="tidegate command",
        credentials_file=settings.nats.credentials_file,
        connect_timeout_seconds=settings.nats.connect_timeout_seconds,
        request_timeout_seconds=settings.nats.request_timeout_seconds,
    ) as bus:
        yield bus, Log(bus, declarations(settings).shards)


async def serving_models(settings: Settings, log: Log, names: Sequence[str] = TIERS) -> dict[str, ReadModel]:
    """The read models called `names` in the generations that serve, not yet open."""
    return read_models(settings, names, {name: (await log.generation(name))[1].active for name in names})


def read_models(
    settings: Settings, names: Sequence[str] = TIERS, generations: Mapping[str, int] | None = None
) -> dict[str, ReadModel]:
    """The read models called `names`, not yet open, in these generations, else in the first.

    Raises ConfigError for a name that does not exist.
    """
    models: dict[str, ReadModel] = {}
    for name in names:
        generation = (generations or {}).get(name, 1)
        # Each driver is imported only by a process that needs it: together they take a second.
        match name:
            case "hot":
                from tidegate.tiers.hot import HotTier

                models[name] = HotTier(settings.redis_url, settings.hot, generation=generation)
            case "warm":
                from tidegate.tiers.warm import WarmTier

                models[name] = WarmTier(
                    settings.mongodb_uri, settings.mongodb.database, settings.warm, generation=generation
                )
            case "cold":
                from tidegate.tiers.cold import ColdTier

                models[name] = ColdTier(settings.s3_endpoint, settings.s3, generation=generation)
            case "lake":
                from tidegate.tiers.lake import LakeTier

                models[name] = LakeTier(
                    settings.catalog_uri,
                    settings.s3_endpoint,
                    catalog=settings.catalog,
                    s3=settings.s3,
                    settings=settings.lake,
                    generation=generation,
                )
            case _:
                raise ConfigError("tiers", f"there is no tier {name!r}; there are: {', '.join(TIERS)}")
    return models


def batching(settings: Settings, tier: str) -> tuple[int, float]:
    """How many events a batch of this tier takes, and how long its first may wait."""
    match tier:
        case "hot":
            return settings.hot.batch_events, 0.0
        case "warm":
            return settings.warm.batch_events, 0.02
        case "cold":
            return settings.cold.object_events, settings.cold.object_seconds
        case _:
            return settings.lake.commit_rows, settings.lake.commit_seconds


def entity_kinds(settings: Settings) -> list[Entity[Any, Any, Any]]:
    """The kinds of entities that the process `entities` hosts. Raises ConfigError for a window that makes no sense."""
    from tidegate.entities.access_key import AccessKeys
    from tidegate.entities.alert import Alerts
    from tidegate.entities.budget import Budgets
    from tidegate.entities.call import Calls
    from tidegate.entities.connection import Connections
    from tidegate.entities.correlation import Correlations
    from tidegate.entities.pipeline import Pipelines
    from tidegate.entities.subscription import Subscriptions
    from tidegate.entities.window import WindowDefinition, Windows
    from tidegate.pipeline.library import aggregates

    windows = []
    for number, one in enumerate(settings.windows):
        try:
            windows.append(msgspec.convert(one, WindowDefinition))
        except msgspec.ValidationError as error:
            raise ConfigError(f"windows[{number}]", str(error)) from error
    windows += aggregates(rules_folder(settings))
    return [
        Correlations(settings.correlation),
        Alerts(),
        Windows(windows),
        Pipelines(),
        Subscriptions(),
        Budgets(),
        AccessKeys(),
        Calls(),
        Connections(),
    ]


def rules_folder(settings: Settings) -> Path | None:
    """Where the user's rule files are."""
    return Path(settings.intake.rules_path) if settings.intake.rules_path else None


def entity_inputs(
    bus: Bus, entity: Entity[Any, Any, Any], shard: int, pin_timeout_seconds: float, name: str = ""
) -> Mailbox:
    """Commands first, then the log as far as the kind follows it; `name` is for the consumers, if not the kind's."""
    commands = subject.command(entity.kind, shard)
    name = subject.consumer(name or entity.kind, shard)
    pinned = PinnedConsumer(
        bus, subject.COMMAND, name, [commands], pin_timeout_seconds=pin_timeout_seconds, nudge=commands
    )
    if not (followed := subject.followed(entity.follows, "*" if entity.all_shards else shard)):
        return Mailbox(pinned)
    return Mailbox(pinned, PullConsumer(bus, subject.LOG, name, followed, beat_seconds=pin_timeout_seconds / 3))


class Process:
    """One of Tidegate's own processes."""

    def __init__(self, name: str, settings: Settings, tiers: Sequence[str]) -> None:
        self.name = name
        self.settings = settings
        self.declared = declarations(settings)
        self.bus: Bus | None = None
        self.cells: list[Cell] = []
        self.models = read_models(settings, tiers) if name == "storage-manager" else {}
        self.queries: Queries | None = None
        self.lifecycle: Lifecycle | None = None
        self.system: System | None = None
        self.gateway: Gateway | None = None
        self.bridge: Bridge | None = None
        if name == "kafka":
            _check_kafka(settings)
        self._waiting_for = "starting"
        self.gate = Gate(settings.auth)
        for table, host in (("http", settings.http.host), ("grpc", settings.grpc.host)):
            if self.gate.is_open and not _is_loopback(host):
                raise ConfigError(
                    f"{table}.host",
                    f'{host} is no loopback address, and anybody could do everything: set auth.mode = "keys"'
                    " (see `tidegate apikeys`), or leave it at 127.0.0.1",
                )

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
        if self.gateway is not None:
            sections["channels"] = [msgspec.to_builtins(one) for one in self.gateway.channel_statuses()]
        if self.bridge is not None:
            sections |= self.bridge.sections()
        if self.bus is None or not self.bus.connected:
            return sections
        with contextlib.suppress(BusError, BusUnavailableError):
            if self.name == "event-streaming":
                sections["streams"] = [await self._stream_row(self.bus, name) for name in self.declared.streams]
            if self.name == "entities":
                sections |= await self._subscription_rows(Log(self.bus, self.declared.shards))
            if self.name == "storage-manager":
                sections["read models"] = await self._position_rows(Log(self.bus, self.declared.shards))
        return sections

    async def _stream_row(self, bus: Bus, name: str) -> dict[str, Any]:
        state = await bus.stream(name)
        return {
            "stream": name,
            "frames": state.messages,
            "MB": round(state.bytes / 1e6, 1),
            "first": state.first_sequence,
            "last": state.last_sequence,
            "created": state.created[:19],
        }

    async def _subscription_rows(self, log: Log) -> dict[str, Rows]:
        from tidegate.subscriptions.manager import SubscriptionManager

        assert self.bus is not None
        rows = await SubscriptionManager(self.bus, log, timeout_seconds=2.0).rows()
        return {"subscriptions": rows} if rows else {}

    async def _position_rows(self, log: Log) -> Rows:
        ends = await log.last_event_sequences()

        async def row(name: str, model: ReadModel, cell: str) -> dict[str, Any]:
            end = max(ends.values()) if cell == "all" else ends[int(cell)]
            found: dict[str, Any] = {"read model": name, "cell": cell, "log end": end}
            try:
                async with asyncio.timeout(2):
                    position = await model.position(cell)
                at = position.sequence if position else 0
                return found | {"position": at, "events": position.count if position else 0, "behind": end - at}
            except (TidegateError, TimeoutError) as error:
                return found | {"problem": str(error)[:120] or "no answer within 2 s"}

        models = self.models.items()
        return await asyncio.gather(
            *(row(name, model, cell) for name, model in models for cell in cells_of(model, self.declared.shards))
        )

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        # Commands that only look at read models do not wait for a web framework.
        from tidegate.edges.http import application, serving

        app = application(self, self._routes(), self.gate)
        http = self.settings.http
        serve, stop = serving(app, http.host, self._port, http.max_connections)
        grpc_server = self._grpc_server()
        async with anyio.create_task_group() as group:
            group.start_soon(_until_signalled, group.cancel_scope, stop)
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
        """Of the processes that have one; bound to its port."""
        settings = self.settings.grpc
        services = {
            "event-streaming": ("Events", settings.event_streaming_port),
            "storage-manager": ("Queries", settings.storage_manager_port),
        }
        if self.name not in services:
            return None
        from tidegate.edges.grpc_server import serving

        name, port = services[self.name]
        most = self.settings.ingest.max_frame_bytes
        return serving(settings, port, self.service, name, self.not_ready, most)

    @property
    def _port(self) -> int:
        http = self.settings.http
        return {
            "event-streaming": http.event_streaming_port,
            "transformation-pipeline": http.transformation_pipeline_port,
            "gateway": http.gateway_port,
            "entities": http.entities_port,
            "storage-manager": http.storage_manager_port,
            "kafka": http.kafka_port,
        }[self.name]

    def _routes(self) -> list[ControllerRouterHandler]:
        if self.name == "event-streaming":
            from tidegate.edges import rest_entities, rest_ingest, rest_stream, ws

            service = self.service
            return [
                *rest_ingest.routes(service),
                *rest_stream.routes(service),
                *rest_entities.routes(service),
                *ws.routes(service),
            ]
        if self.name == "transformation-pipeline":
            from tidegate.edges import rest_pipelines

            return rest_pipelines.routes(
                lambda: self.lifecycle, lambda: self.system, lambda: self.bus, self.settings.ingest.max_inflated_bytes
            )
        if self.name == "gateway":
            from tidegate.edges import rest_gateway
            from tidegate.gateway import Gateway, load

            path = self.settings.gateway.config_path
            configuration = load(Path(path) if path else None)
            self.gateway = Gateway(configuration, lambda: self.bus, self._publishing(), self.declared.shards)
            return rest_gateway.routes(self.gateway)
        if self.name == "storage-manager":
            from tidegate.edges import graphql, rest_query, ws
            from tidegate.query import Queries

            self.queries = Queries(self.models, None)
            service = self.service
            return [*rest_query.routes(service), *graphql.routes(service), *ws.routes(service)]
        return []

    def _micro_services(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        from tidegate.edges import micro_services as offer

        match self.name:
            case "event-streaming":
                return offer.offered(bus, self.service, entities=offer.entities(self.service))
            case "transformation-pipeline":
                return offer.offered(bus, self.service, pipelines=offer.pipelines(self.service, lambda: self.lifecycle))
            case "storage-manager":
                service = self.service
                return offer.offered(bus, service, query=offer.query(service), storage=offer.storage(service))
            case _:
                return contextlib.nullcontext()

    def _publishing(self) -> Publishing:
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
            self._publishing(),
            bus=lambda: self.bus,
            shards=self.declared.shards,
            kinds=ENTITY_KINDS,
            queries=lambda: self.queries,
            not_ready=self.not_ready,
            report=self.sections,
        )

    async def _work(self) -> None:
        settings = self.settings
        if self.name == "transformation-pipeline":
            from tidegate.lifecycle import Lifecycle

            # A broken rule must end the process at once, not after NATS has come up.
            place = settings.mongodb_uri, settings.mongodb.database
            self.lifecycle = Lifecycle(self.declared.shards, rules_folder(settings), place)
            await self.lifecycle.start()

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
            await self._streams(bus)
            log = Log(bus, self.declared.shards)
            self.system = System(bus, log)
            kinds: list[Entity[Any, Any, Any]] = []
            if self.lifecycle is not None:
                for partition in range(self.declared.partitions):
                    self._add_intake(bus, log, self.lifecycle.rules, partition)
                for shard in range(self.declared.shards):
                    self._add_forward(bus, log, shard)
            if self.name == "entities":
                kinds = entity_kinds(settings)
                self._add_effects(bus, log)
                await stack.enter_async_context(forwarding(bus, {one.kind for one in kinds}, self.declared.shards))
            if self.gateway is not None:
                stack.push_async_callback(self.gateway.aclose)
                self.cells += self.gateway.cells(bus, log, settings.intake.pin_timeout_seconds)
            if self.queries is not None:
                self.queries.attach(log)
            await stack.enter_async_context(self._micro_services(bus))
            if self.name == "kafka":
                from tidegate.edges.kafka.bridge import bridged

                self.bridge = await stack.enter_async_context(bridged(settings, self.declared, bus))
                self.cells += self.bridge.cells
            self._waiting_for = ""
            telemetry.emit(telemetry.ProcessStarted(name=self.name))
            async with anyio.create_task_group() as group:
                for cell in self.cells:
                    group.start_soon(cell.run, name=cell.status.cell)
                if self.lifecycle is not None:
                    group.start_soon(self.lifecycle.follow, bus, log)
                if self.gateway is not None:
                    group.start_soon(self.gateway.channels.follow)
                if self.bridge is not None and self.bridge.inputs is not None:
                    group.start_soon(self.bridge.inputs.run)
                for tier in self.models:
                    group.start_soon(self._keep, log, tier, partial(self._projections, bus, log, tier, stack))
                for entity in kinds:
                    group.start_soon(self._keep, log, entity.kind, partial(self._entities, bus, log, entity))
                group.start_soon(self.gate.follow, bus, log)

    def _add_intake(self, bus: Bus, log: Log, rules: Callable[[], Pipeline], partition: int) -> None:
        from tidegate.intake import KIND, IntakeWork

        consumer = PinnedConsumer(
            bus,
            subject.INGEST,
            f"intake-{partition}",
            [f"ingest.*.{partition}"],
            pin_timeout_seconds=self.settings.intake.pin_timeout_seconds,
        )
        work = IntakeWork(bus, log, rules, partition, self.settings)
        self.cells.append(Cell(f"{KIND}.{partition}", work, Mailbox(consumer)))

    def _add_forward(self, bus: Bus, log: Log, shard: int) -> None:
        from tidegate.forwarder import KIND, ForwardWork

        consumer = PinnedConsumer(
            bus,
            subject.LOG,
            f"{KIND}-{shard}",
            [subject.event(shard)],
            pin_timeout_seconds=self.settings.intake.pin_timeout_seconds,
            headers_only=True,
        )
        self.cells.append(Cell(f"{KIND}.{shard}", ForwardWork(bus, log, shard), Mailbox(consumer)))

    def _entities(self, bus: Bus, log: Log, entity: Entity[Any, Any, Any], generation: int) -> list[Cell]:
        name = subject.generation_of(entity.kind, generation)
        cells = []
        for shard in range(self.declared.shards):
            work = GenerationWork(bus, log, entity, shard, generation)
            inputs = entity_inputs(bus, entity, shard, self.settings.intake.pin_timeout_seconds, name)
            cells.append(Cell(f"{name}.{shard}", work, inputs))
        return cells

    def _add_effects(self, bus: Bus, log: Log) -> None:
        """Each new alert is told once, at most, on `alert.raised`, to whoever listens."""
        from tidegate.entities.effects import KIND, EffectWork

        async def tell(alert_id: str, raised: Raised) -> None:
            told = {"id": alert_id, **msgspec.to_builtins(raised)}
            await bus.send(subject.ALERT_RAISED, msgspec.json.encode(told))

        for shard in range(self.declared.shards):
            name = f"{KIND}-{shard}"
            seconds = self.settings.intake.pin_timeout_seconds
            inputs = Mailbox(
                PinnedConsumer(bus, subject.LOG, name, [subject.entity("alert", shard)], pin_timeout_seconds=seconds)
            )
            self.cells.append(Cell(f"{KIND}.{shard}", EffectWork(log, shard, tell), inputs))

    async def _keep(self, log: Log, name: str, make: Callable[[int], list[Cell]]) -> None:
        """Run the cells of the generation of `name` that serves, and change over when another one does."""
        serving = await self._serving(log, name, 0)
        while True:
            cells = make(serving)
            self.cells += cells
            async with anyio.create_task_group() as group:
                for cell in cells:
                    group.start_soon(cell.run, name=cell.status.cell)
                serving = await self._serving(log, name, serving)
                group.cancel_scope.cancel()
            self.cells = [one for one in self.cells if one not in cells]

    async def _serving(self, log: Log, name: str, other: int) -> int:
        """The generation of `name` that serves, once it is not `other`."""
        while True:
            with contextlib.suppress(BusError, BusUnavailableError):
                if (active := (await log.generation(name))[1].active) != other:
                    return active
            await asyncio.sleep(_LOOK_SECONDS)

    def _projections(
        self, bus: Bus, log: Log, tier: str, stack: contextlib.AsyncExitStack, generation: int
    ) -> list[Cell]:
        model = self.models[tier] = read_models(self.settings, [tier], {tier: generation})[tier]
        # Not before the process ends: queries may still be reading a generation that serves no longer.
        stack.push_async_callback(model.aclose)
        limit, linger = batching(self.settings, model.name)
        cells = []
        for cell, subjects in cells_of(model, self.declared.shards).items():
            consumer = PinnedConsumer(
                bus,
                subject.LOG,
                consumer_of(model.name, cell, generation),
                [subjects],
                pin_timeout_seconds=self.settings.intake.pin_timeout_seconds,
            )
            work = ProjectionWork(log, model, cell, limit=limit, linger_seconds=linger)
            cells.append(Cell(f"{model.name}.{cell}", work, Mailbox(consumer)))
        return cells

    async def _streams(self, bus: Bus) -> None:
        """event-streaming makes the streams as declared; the others wait until they are there."""
        self._waiting_for = (
            "waiting for the streams INGEST and LOG; event-streaming or `tidegate subjects apply` makes them"
        )
        while True:
            try:
                if self.name == "event-streaming":
                    await streams.apply(bus, self.declared)
                else:
                    for name in self.declared.streams:
                        await bus.stream(name)
            except BusUnavailableError as error:
                self._waiting_for = str(error)
            except BusError as error:
                if error.code != STREAM_NOT_FOUND:
                    raise
            else:
                return
            await asyncio.sleep(0.2)


def _check_kafka(settings: Settings) -> None:
    """Raises ConfigError for settings that make no sense, or without what has to be installed for them."""
    try:
        from tidegate.edges.kafka.client import check
    except ModuleNotFoundError as error:
        raise ConfigError("kafka", f"needs {error.name}: pip install 'tidegate[kafka]'") from error
    check(settings.kafka)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _until_signalled(scope: anyio.CancelScope, stop: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop()
            scope.cancel()
            return


def collect_rarely() -> None:
    """Batches are lists of many small objects without cycles: collecting rarely takes a tenth off handling them."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


async def run(name: str, settings: Settings, tiers: Sequence[str] = TIERS) -> None:
    """Run the process `name` until SIGTERM or SIGINT. `tiers` limits what a storage-manager keeps."""
    if name == "kafka" and not settings.kafka.brokers:
        # A line of the Procfile that ended would end all the others.
        async with anyio.create_task_group() as group:
            group.start_soon(_until_signalled, group.cancel_scope, lambda: None)
            await asyncio.sleep(0)
            print("kafka.brokers (KAFKA_BROKERS) is not set: there is nothing to bridge", flush=True)  # noqa: T201
        return
    process = Process(name, settings, tiers)
    if name == "storage-manager":
        # Where cores are scarce, taking events in comes before projecting them: the log keeps what waits.
        os.nice(5)
    collect_rarely()
    with telemetry.setup(
        name,
        log_level=settings.telemetry.log_level,
        log_format=settings.telemetry.log_format,
        spans_path=settings.spans_path,
    ):
        try:
            await process.run()
        finally:
            telemetry.emit(telemetry.ProcessStopped(name=name))
