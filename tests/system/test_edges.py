"""The edges of whole processes: gRPC and NATS micro services, from a record to the events that it becomes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterator

import grpc
import nats
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.system.harness import System, system
from tidegate.proto import services_pb2 as pb
from tidegate.proto.services_pb2_grpc import EventsStub, QueriesStub

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system(tmp_path_factory.mktemp("edges")) as one:

        async def begin() -> None:
            for name in ("nats", "redis"):
                await one.serve(name).ready()
            one.run("event-streaming")
            one.run("transformation-pipeline")
            one.run("storage-manager", "--tiers", "hot")
            one.run("entities")
            await one.ready()

        asyncio.run(begin())
        yield one


async def test_what_is_published_over_grpc_is_found_over_grpc_and_over_nats(running: System) -> None:
    ports = running.settings.grpc
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.event_streaming_port}") as to_events,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.storage_manager_port}") as to_queries,
    ):
        for channel in (to_events, to_queries):
            health = health_pb2_grpc.HealthStub(channel)
            checked = await health.Check(health_pb2.HealthCheckRequest())
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        events, queries = EventsStub(to_events), QueriesStub(to_queries)  # type: ignore[no-untyped-call]
        body = b'{"correlation_id":"case-9","data":{"user":"mira"}}'
        stored = await events.Publish(pb.Records(source="billing", body=body))
        after = stored.positions[-1]
        page = await queries.FindEvents(pb.FindRequest(correlation_id="case-9", after=after))
        (event,) = [json.loads(line) for line in page.events]
        assert event["metadata"]["correlation_uid"] == "case-9"
        assert (await queries.GetStatus(pb.StatusRequest())).ready

        client = await nats.connect(running.settings.nats_url)
        try:
            answer = await client.request("svc.query.find", b'{"correlation_id":"case-9"}', timeout=10)
            assert json.loads(answer.data)["events"] == [event]
            answer = await client.request("svc.pipelines.list", b"", timeout=10)
            assert json.loads(answer.data) == []
            answer = await client.request("svc.storage.positions", b"", timeout=10)
            assert answer.headers is None, answer.headers
            command = {"type": "alert.raise.v1", "title": "Beaconing", "severity": 4, "by": "mira"}
            given = json.dumps({"kind": "alert", "id": "a", "command": command}).encode()
            answer = await client.request("svc.entities.command", given, timeout=10)
            assert json.loads(answer.data)["version"] == 1
        finally:
            await client.close()


async def test_a_process_ends_at_once_though_somebody_subscribes(running: System) -> None:
    address = f"127.0.0.1:{running.settings.grpc.event_streaming_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        call = EventsStub(channel).Subscribe(pb.Subscription())  # type: ignore[no-untyped-call]
        await call.initial_metadata()
        program = running.programs["event-streaming"]
        program.signal(signal.SIGTERM)
        assert await program.ended(12) == 0
        assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not re.search("never awaited|never retrieved|destroyed", program.log_tail(200))
