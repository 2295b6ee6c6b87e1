"""The edges of whole processes: gRPC and NATS micro services, from a record to the events that it becomes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterator

import grpc
import httpx
import nats
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.system.harness import System, system, tidegate
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
            one.run("gateway")
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


async def test_graphql_of_the_gateway_reads_the_generation_that_serves(running: System) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        events = f"http://127.0.0.1:{running.settings.http.event_streaming_port}/v1/events/billing"
        gateway = f"http://127.0.0.1:{running.settings.http.gateway_port}/graphql"
        asked = 'query($at: String!) { events(correlationId: "case-11", position: $at) { tier nodes { id } } }'

        async def published_and_found() -> int:
            stored = await client.post(events, json={"correlation_id": "case-11", "data": {"user": "mira"}})
            assert stored.status_code == 202, stored.text
            answer = await client.post(gateway, json={"query": asked, "variables": {"at": stored.json()["position"]}})
            page = answer.json()["data"]["events"]
            assert page["tier"] == "hot"
            return len({one["id"] for one in page["nodes"]})

        assert await published_and_found() == 1
        assert json.loads(await tidegate(running, "rebuild", "hot", "--json"))["generation"] == 2
        # Nothing is projected into the first generation any more.
        assert await published_and_found() == 2


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
