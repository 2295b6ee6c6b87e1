"""Floods: of wrong keys, of connections, of calls and of subscriptions. Each is refused in time, and takes little."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.edges.catalogue import FLOODS
from tests.edges.drivers import Driver, Refused, Stored, drivers
from tests.edges.grpc_driver import GrpcDriver
from tests.edges.world import GRANTS, World, app_lines, served, served_grpc, until, world
from tidegate.auth.audit import Audit
from tidegate.auth.limits import network_of
from tidegate.bus import connect as connect_bus
from tidegate.config import Auth, Grpc, Redis, Settings
from tidegate.edges import graphql, http, ws
from tidegate.proto import services_pb2 as pb
from tidegate.proto import services_pb2_grpc as rpc

pytestmark = pytest.mark.anyio

SUBSCRIPTIONS = 3
WRONG = 0.5
GOOD = b'{"data":{"n":1}}'


@pytest.fixture(scope="module")
async def edges(nats_server: Settings, redis_server: Settings) -> AsyncIterator[World]:
    settings = replace(nats_server, redis=Redis(url=redis_server.redis_url))
    limits = Auth(mode="keys", wrong_keys_per_second=WRONG, subscriptions_per_key=SUBSCRIPTIONS)
    async with world(settings, limits) as one:
        one.keys["fresh"] = await one.created(GRANTS["root"])
        yield one


@pytest.fixture(scope="module")
async def over_addresses(edges: World, client: httpx.AsyncClient) -> AsyncIterator[list[Driver]]:
    """The edges that see the address of who calls: all but NATS."""
    async with GrpcDriver(edges) as over_grpc:
        yield [*drivers(edges, client)[1:], over_grpc]


# -- wrong keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", FLOODS)
async def test_guessing_keys_is_slow_on_every_edge(edges: World, over_addresses: list[Driver], flood: str) -> None:
    key, code = FLOODS[flood]
    for one in over_addresses:
        edges.gate._wrong._buckets.clear()
        assert await one.publish("root", "app", GOOD) == Stored(1)
        answers = [await one.publish(key, "app", GOOD) for _ in range(12)]
        assert answers[0] == Refused(code), one.name
        assert set(answers) == {Refused(code), Refused("rate_limited")}, one.name
        # Who has been let in before shares the address, and does not notice. A right key that is new has to wait.
        assert await one.publish("root", "app", GOOD) == Stored(1)
        assert await one.publish("fresh", "app", GOOD) == Refused("rate_limited"), one.name


async def test_an_address_may_try_again_after_as_long_as_it_is_told(edges: World, client: httpx.AsyncClient) -> None:
    edges.gate._wrong._buckets.clear()
    url = f"{edges.ingest_url}/v1/status"
    key = await edges.created(GRANTS["root"])
    for _ in range(12):
        refused = await client.get(url, headers={"X-API-Key": edges.keys["unknown"]})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "2"
    headers = {"X-API-Key": key}
    assert (await client.get(url, headers=headers)).status_code == 429
    await asyncio.sleep(2)
    assert (await client.get(url, headers=headers)).status_code == 200


def test_whoever_has_one_address_of_a_network_has_all_of_them() -> None:
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:1:2:3::1") == network_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:3::9") != network_of("2001:db8:1:2::9")


async def test_a_flood_leaves_a_line_a_minute_and_every_request_is_counted(edges: World) -> None:
    now = 0.0
    audit = Audit(lambda: now)
    begin = (await edges.log.state()).last_sequence + 1

    async def lines() -> list[dict[str, Any]]:
        found = []
        async for message in edges.log.read("log.audit.0", begin):
            found += [json.loads(line) for line in app_lines(message.payload)]
        return [one for one in found if one["what"] == "flood"]

    async with connect_bus(edges.settings.nats_url) as bus:
        for second in range(130):
            now = float(second)
            for _ in range(100):
                audit.add("", "flood", "unauthenticated", peer="192.0.2.1")
            await audit.flush(bus)
        await audit.flush(bus, whole=True)
        found = await lines()
        assert len(found) == 4
        assert sum(one.get("count", 1) for one in found) == 13_000
        # What administrators have done is told of each second, as it has been done.
        for _ in range(2):
            audit.add("root", "flood", "allowed")
            await audit.flush(bus)
    assert [one["result"] for one in await lines()][4:] == ["allowed"] * 2


def stub(channel: grpc.aio.Channel) -> Any:
    return rpc.EventsStub(channel)  # type: ignore[no-untyped-call]


# -- connections ------------------------------------------------------------------------------------------------


async def told(url: str, path: str, subprotocol: str = "") -> tuple[int, str]:
    """The code that a WebSocket is closed with, and why."""
    protocols = [Subprotocol(subprotocol)] if subprotocol else None
    async with connect(url.replace("http", "ws") + path, subprotocols=protocols) as one:
        with pytest.raises(ConnectionClosed) as caught:
            await one.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def test_connections_beyond_the_limit_are_told_to_come_again(edges: World) -> None:
    routes = [*ws.routes(edges.service), *graphql.routes(edges.service)]
    async with served(edges.gate, routes, 5) as url, contextlib.AsyncExitStack() as stack:
        sockets: list[ClientConnection] = []
        for _ in range(5):
            headers = {"Authorization": f"Bearer {edges.keys['root']}"}
            socket = await stack.enter_async_context(
                connect(url.replace("http", "ws") + "/v1/ws", additional_headers=headers)
            )
            assert json.loads(await socket.recv())["type"] == "welcome"
            sockets.append(socket)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {edges.keys['root']}"}) as client:
            refused = await client.get(f"{url}/status")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["code"] == "unavailable"
            # Whoever looks whether the process lives is answered all the same.
            assert (await client.get(f"{url}/healthz")).status_code == 200
        for path, subprotocol in (("/v1/ws", ""), ("/graphql", "graphql-transport-ws")):
            code, reason = await told(url, path, subprotocol)
            assert code == 1013
            assert "http.max_connections" in reason
        await sockets[0].close()

        async def served_again() -> bool:
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {edges.keys['root']}"}) as client:
                return (await client.get(f"{url}/status")).status_code == 200

        await until(served_again, "there is room again")


async def test_idle_connections_beyond_all_measure_are_ended_at_once(
    edges: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_FULL_SECONDS", 0.5)
    monkeypatch.setattr(http, "_HEADERS_SECONDS", 1.5)
    monkeypatch.setattr(http, "_MOST_TOLD", 20)
    async with served(edges.gate, [], 10) as url:
        port = int(url.rpartition(":")[2])
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in flood]
        _, there = await asyncio.wait(ended, timeout=0.3)
        assert len(there) <= 30
        async with asyncio.timeout(10):
            await asyncio.gather(*ended, return_exceptions=True)
        for _, writer in flood:
            writer.close()
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/healthz")).status_code == 200


async def test_grpc_takes_so_many_connections_and_calls(edges: World) -> None:
    metadata = (("authorization", f"Bearer {edges.keys['root']}"),)

    async def status(channel: Any) -> Any:
        try:
            return await stub(channel).GetStatus(pb.StatusRequest(), metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()

    async with (
        served_grpc(edges.service, "Events", Grpc(max_connections=2, max_calls=2)) as target,
        contextlib.AsyncExitStack() as stack,
    ):
        # Without this the channels of one process share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options)) for _ in range(3)
        ]
        assert (await status(channels[0])).ready
        assert (await status(channels[1])).ready
        assert await status(channels[2]) is grpc.StatusCode.UNAVAILABLE
        feeds = [stub(channels[0]).Subscribe(pb.Subscription(), metadata=metadata, timeout=20) for _ in range(2)]
        for feed in feeds:
            await feed.initial_metadata()
        assert await status(channels[1]) is grpc.StatusCode.RESOURCE_EXHAUSTED
        feeds[0].cancel()

        async def room() -> bool:
            return await status(channels[1]) is not grpc.StatusCode.RESOURCE_EXHAUSTED

        await until(room, "a call has ended")
        feeds[1].cancel()


# -- subscriptions ----------------------------------------------------------------------------------------------


async def test_a_key_has_so_many_subscriptions_over_all_edges(edges: World, all_drivers: list[Driver]) -> None:
    able = [one for one in all_drivers if one.name != "micro"]
    for one in able:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(SUBSCRIPTIONS):
                other = able[(able.index(one) + number) % len(able)]
                assert not isinstance(await stack.enter_async_context(other.subscribe("acme")), Refused)
            async with one.subscribe("acme") as refused:
                assert refused == Refused("rate_limited"), one.name
            async with one.subscribe("globex") as another:
                assert not isinstance(another, Refused)

        async def ended() -> bool:
            return not edges.gate.subscriptions._taken

        await until(ended, "all subscriptions have ended")
