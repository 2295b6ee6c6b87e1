"""gRPC: frames published over one stream, and events of the log received over another; client and server in here.

Invariant: every frame that is counted has been acknowledged, and every event has been received.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tidegate import subject
from tidegate.app import ENTITY_KINDS, declarations
from tidegate.auth import LOCAL, Gate
from tidegate.bench.material import FRAME_RECORDS, commits, records
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bench.servers import fresh_streams, servers, without_streams
from tidegate.bus import Bus, connect
from tidegate.config import Auth, Grpc, Settings
from tidegate.edges.grpc_server import serving
from tidegate.frame import NDJSON
from tidegate.local.servers import HOST
from tidegate.pipeline.library import load_pipeline
from tidegate.proto import services_pb2 as pb
from tidegate.proto.services_pb2_grpc import EventsStub
from tidegate.service import Service
from tidegate.service.publishing import Publishing

__all__ = ["run"]

BAR = 80_000
SOURCE = "bench"
IN_FLIGHT = 16


async def run(settings: Settings, *, events: int = 100_000, seconds: float = 8.0, external: bool = False) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    given = records(events)
    bodies = [b"\n".join(given[first : first + FRAME_RECORDS]) for first in range(0, events, FRAME_RECORDS)]
    async with servers(["nats"], settings, external=external) as place, connect(place.settings.nats_url) as bus:
        try:
            await fresh_streams(bus, declared, place, first=True)
            gate, limits = Gate(Auth(mode="off")), settings.ingest
            publishing = Publishing(
                lambda: bus,
                gate,
                declared.partitions,
                limits.max_frame_bytes,
                limits.max_inflated_bytes,
            )
            service = Service(gate, publishing, bus=lambda: bus, shards=declared.shards, kinds=ENTITY_KINDS)
            async with _stub(service, limits.max_frame_bytes) as stub:
                await _publish(stub, bodies[:5], 0)
                runs, limit_runs, latencies = [], [], []
                for _ in rounds(seconds):
                    rate, times = await _publish(stub, bodies, events)
                    runs.append(rate)
                    latencies += times
                    limit_runs.append(await _without_grpc(service, bodies, events))
                received = await _subscribe(stub, bus, min(events, 50_000), declared.shards)
        finally:
            if bus.connected:
                await without_streams(bus, declared)
    return made(
        bench="grpc",
        events=events,
        runs=runs,
        limit="the same frames, given to the service without gRPC",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency=f"a frame of 1,000 events from its sending to its answer, with {IN_FLIGHT} always under way",
        fsync="each frame is synced to disk before its answer (nats sync_interval: always)",
        bytes_per_event=sum(map(len, given)) / events,
        began=began,
        place=place.text,
        note=f"client and server share one thread; subscribed from the log: {received:,.0f} events/s",
    )


@asynccontextmanager
async def _stub(service: Service, max_frame_bytes: int) -> AsyncIterator[Any]:
    with socket.socket() as one:
        one.bind((HOST, 0))
        port = int(one.getsockname()[1])
    server = serving(Grpc(), port, service, "Events", lambda: None, max_frame_bytes)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
            yield EventsStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await server.stop(0)


async def _publish(stub: Any, bodies: Sequence[bytes], events: int) -> tuple[float, list[float]]:
    """Events per second, and the seconds that each frame took."""
    call = stub.PublishEach()
    sent: deque[float] = deque()
    room = asyncio.Semaphore(IN_FLIGHT)

    async def send() -> None:
        for body in bodies:
            await room.acquire()
            sent.append(time.perf_counter())
            await call.write(pb.Records(source=SOURCE, content_type=NDJSON, body=body))
        await call.done_writing()

    start = time.perf_counter()
    sending = asyncio.create_task(send())
    stored, latencies = 0, []
    async for outcome in call:
        latencies.append(time.perf_counter() - sent.popleft())
        room.release()
        # Some of the records are malformed on purpose, and refused.
        stored += outcome.published.records + outcome.published.refused_count
    await sending
    if events:
        balanced("events answered for", stored, events)
    return stored / (time.perf_counter() - start), latencies


async def _without_grpc(service: Service, bodies: Sequence[bytes], events: int) -> float:
    room = asyncio.Semaphore(IN_FLIGHT)

    async def publish(body: bytes) -> int:
        async with room:
            found = await service.publish(LOCAL, SOURCE, body, NDJSON)
            return found.records + found.refused_count

    start = time.perf_counter()
    stored = sum(await asyncio.gather(*map(publish, bodies)))
    balanced("events answered for", stored, events)
    return events / (time.perf_counter() - start)


async def _subscribe(stub: Any, bus: Bus, events: int, shards: int) -> float:
    """Events per second that a subscriber receives from the log."""
    count = 0
    for commit in commits(events, load_pipeline(shards), shards, 4000):
        messages = [one for one in commit.messages if one.subject.startswith(subject.event("*").rstrip("*"))]
        await bus.publish_atomic(messages)
        count += commit.events
    return statistics.median([await _received(stub, count) for _ in range(3)])


async def _received(stub: Any, count: int) -> float:
    start = time.perf_counter()
    call = stub.Subscribe(pb.Subscription(beginning=True))
    received = 0
    while received < count:
        received += len((await call.read()).items)
    seconds = time.perf_counter() - start
    call.cancel()
    balanced("events received", received, count)
    return count / seconds
