"""Everything that edges stand on, in this process, on a real NATS and a real Redis, with keys for several callers."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from litestar.types import ControllerRouterHandler

from tests.conftest import free_ports
from tidegate import app, streams, subject
from tidegate.actor.cell import Cell, running
from tidegate.actor.host import EntityWork
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.system import System
from tidegate.auth import Gate
from tidegate.auth.keys import new_key
from tidegate.bus import connect
from tidegate.config import Auth, Grpc, Settings
from tidegate.edges import (
    graphql,
    grpc_server,
    micro_services,
    rest_entities,
    rest_ingest,
    rest_query,
    rest_stream,
    ws,
)
from tidegate.edges.http import application, serving
from tidegate.entities.access_key import KIND, SCOPES, AccessKeys, Grant, Revoke
from tidegate.entities.alert import Alerts
from tidegate.history import cells_of, consumer_of
from tidegate.intake import IntakeWork
from tidegate.log import Log
from tidegate.pipeline.library import load_pipeline
from tidegate.projector import ProjectionWork
from tidegate.query import Queries
from tidegate.service import Service
from tidegate.service.publishing import Publishing

GRANTS = {
    "root": Grant(scopes=SCOPES),
    "acme": Grant(scopes=SCOPES, tenant="acme"),
    "globex": Grant(scopes=SCOPES, tenant="globex"),
    "reader": Grant(scopes=("query",)),
    "writer": Grant(scopes=("publish",), sources=("billing",)),
    "small": Grant(scopes=("publish",), max_body_bytes=2000),
    "slow": Grant(scopes=("publish",), rate_per_second=5),
    "expired": Grant(scopes=SCOPES, expires_ms=1),
    "revoked": Grant(scopes=SCOPES),
}


class World:
    """What a test has at hand."""

    def __init__(self, service: Service, system: System, log: Log, settings: Settings) -> None:
        self.service = service
        self.gate = service.gate
        self.system = system
        self.log = log
        self.settings = settings
        self.keys: dict[str, str] = {"nobody": "", "unknown": new_key(GRANTS["root"])[1], "rubbish": "tg_x"}
        self.ingest_url = self.query_url = ""
        self.grpc_events = self.grpc_queries = ""

    async def created(self, grant: Grant) -> str:
        """A new key, known at once."""
        key_id, key, command = new_key(grant, by="test")
        await self.system.ask(KIND, key_id, command)
        await self._known(lambda: key_id in self._ring.known)
        return key

    async def revoked(self, key: str) -> None:
        key_id = key.split("_")[1]
        await self.system.ask(KIND, key_id, Revoke("test"))
        await self._known(lambda: bool(self._ring.known[key_id].revoked_ms))

    @property
    def _ring(self) -> Any:
        assert self.gate.keys is not None
        return self.gate.keys

    async def _known(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < deadline, "the keyring has not followed"
            await asyncio.sleep(0.02)

    async def stored(self) -> int:
        """Records that were stored for the intake, as the frames' own counts have it."""
        total = 0
        for name in ("intake",):
            for partition in range(4):
                _, progress = await self.log.progress(name, partition)
                total += progress.records if progress else 0
        return total

    async def logged(self, correlation: str) -> list[dict[str, Any]]:
        """All events of a correlation, whosever they are, straight from the log."""
        found = []
        async for message in self.log.read(subject.event("*")):
            for line in app_lines(message.payload):
                event = msgspec.json.decode(line)
                if event["metadata"]["correlation_uid"].rpartition(":")[2] == correlation:
                    found.append(event)
        return found


def app_lines(payload: bytes) -> list[bytes]:
    from tidegate import frame

    return frame.split_lines(frame.inflate(payload, "zstd", 2**31))


class _Reported:
    name = "edges"

    def not_ready(self) -> str | None:
        return None

    async def sections(self) -> dict[str, list[dict[str, Any]]]:
        return {"cells": []}


@contextlib.asynccontextmanager
async def served(gate: Gate, routes: list[ControllerRouterHandler], most: int = 500) -> AsyncIterator[str]:
    """The URL of a real HTTP server that takes so many connections."""
    (port,) = free_ports(1)
    serve, stop = serving(application(_Reported(), routes, gate), "127.0.0.1", port, most)
    task = asyncio.create_task(serve())
    try:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop()
        await task


@contextlib.asynccontextmanager
async def served_grpc(service: Service, name: str, settings: Grpc | None = None) -> AsyncIterator[str]:
    """The address of a real gRPC server."""
    (port,) = free_ports(1)
    server = grpc_server.serving(settings or Grpc(), port, service, name, lambda: None, 4 * 1024 * 1024)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def world(settings: Settings, auth: Auth) -> AsyncIterator[World]:
    """All of it, until the block ends."""
    declared = app.declarations(settings)
    async with contextlib.AsyncExitStack() as stack:
        bus = await stack.enter_async_context(connect(settings.nats_url))
        await streams.apply(bus, declared)
        log, pipeline = Log(bus, declared.shards), load_pipeline(declared.shards)
        models = app.read_models(settings, ["hot"], {"hot": int(uuid.uuid4()) % 10**6})
        (hot,) = models.values()
        await hot.open()
        stack.push_async_callback(hot.aclose)
        cells = []
        for partition in range(declared.partitions):
            consumer = PinnedConsumer(bus, subject.INGEST, f"intake-{partition}", [f"ingest.*.{partition}"])
            work = IntakeWork(bus, log, lambda: pipeline, partition, settings)
            cells.append(Cell(f"intake.{partition}", work, Mailbox(consumer)))
        for cell, subjects in cells_of(hot, declared.shards).items():
            consumer = PinnedConsumer(bus, subject.LOG, consumer_of("hot", cell, 1), [subjects])
            cells.append(
                Cell(f"hot.{cell}", ProjectionWork(log, hot, cell, limit=4000, linger_seconds=0.0), Mailbox(consumer))
            )
        for entity in (AccessKeys(), Alerts()):
            cells += [
                Cell(
                    f"{entity.kind}.{shard}",
                    EntityWork(bus, log, entity, shard),
                    app.entity_inputs(bus, entity, shard, 1.0),
                )
                for shard in range(declared.shards)
            ]
        await stack.enter_async_context(running(cells))
        gate = Gate(auth)
        following = asyncio.create_task(gate.follow(bus, log))
        stack.push_async_callback(_ended, following)
        limits = settings.ingest
        publishing = Publishing(
            lambda: bus, gate, declared.partitions, limits.max_frame_bytes, limits.max_inflated_bytes
        )
        queries = Queries(models, log)
        service = Service(
            gate, publishing, bus=lambda: bus, shards=declared.shards, kinds=app.ENTITY_KINDS,
            queries=lambda: queries, report=_Reported().sections,
        )  # fmt: skip
        one = World(service, System(bus, log), log, settings)
        ingest = [*rest_ingest.routes(service), *rest_stream.routes(service), *rest_entities.routes(service)]
        one.ingest_url = await stack.enter_async_context(served(gate, ingest))
        one.query_url = await stack.enter_async_context(
            served(gate, [*rest_query.routes(service), *graphql.routes(service), *ws.routes(service)])
        )
        await stack.enter_async_context(
            micro_services.offered(
                bus, service, query=micro_services.query(service), entities=micro_services.entities(service)
            )
        )
        one.grpc_events = await stack.enter_async_context(served_grpc(service, "Events"))
        one.grpc_queries = await stack.enter_async_context(served_grpc(service, "Queries"))
        if gate.keys is not None:
            # Each takes as long as the keyring needs to follow, so all at once.
            keys = await asyncio.gather(*map(one.created, GRANTS.values()))
            one.keys |= dict(zip(GRANTS, keys, strict=True))
            await one.revoked(one.keys["revoked"])
        yield one


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 10.0) -> Any:
    """What `condition` gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.03)
    return found
