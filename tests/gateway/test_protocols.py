"""Every protocol, towards real servers: good answers, refusals, timeouts, answers too large, servers that are away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.request import Request

from tests.conftest import free_ports
from tests.gateway.conftest import World
from tests.gateway.services import Rest, grpc_service, websocket_service
from tidegate.gateway import CallFailedError, Configuration, Gateway
from tidegate.gateway.configuration import Discovery, Retry, Secret, Target

pytestmark = pytest.mark.anyio

ONCE = Retry(attempts=1)


@contextlib.asynccontextmanager
async def calling(world: World, **changes: Any) -> AsyncIterator[Gateway]:
    """A gateway with one target, `it`."""
    target = Target(**{"name": "it", "retry": ONCE, "timeout_seconds": 0.5, "max_response_bytes": 10_000, **changes})
    async with world.opened(Configuration(targets=[target])) as gateway:
        yield gateway


async def failure(gateway: Gateway, operation: str, payload: Any = None) -> str:
    """The kind of failure of a call that must not succeed."""
    with pytest.raises(CallFailedError) as caught:
        await gateway.execute_synchronous_call("it", operation, payload)
    return caught.value.kind


async def test_rest(world: World, rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_IT", "s3cret")
    secrets = {"Authorization": Secret(env="TOKEN_OF_IT")}
    async with calling(world, protocol="rest", url=rest.url, secrets=secrets) as gateway:
        found = await gateway.execute_synchronous_call("it", "POST /echo?a=1", {"b": 2}, key="k-1")
        assert found.value == {"got": {"b": 2}, "query": {"a": "1"}, "authorization": "s3cret"}
        assert rest.keys == ["k-1"]
        assert await failure(gateway, "GET /missing") == "rejected"
        assert await failure(gateway, "GET /large") == "too_large"
        assert await failure(gateway, "GET /squeezed") == "unavailable"
        assert await failure(gateway, "GET /away") == "rejected"  # redirects are not followed
        assert rest.seen["/echo"] == 1
        rest.slow = 1
        assert await failure(gateway, "GET /slow") == "timeout"
        assert "s3cret" not in repr(gateway.channel_statuses())


@pytest.mark.parametrize(
    "operation", ["GET http://127.0.0.1/", "GET //x/../y", "GET /a/%2e%2e/b", "CONNECT /", "GET /a b", "GET /\r\nX: y"]
)
async def test_operations_of_rest_stay_at_the_target(world: World, rest: Rest, operation: str) -> None:
    async with calling(world, protocol="rest", url=f"{rest.url}/base") as gateway:
        assert await failure(gateway, operation) == "invalid"
    assert not rest.seen


async def test_graphql(world: World, rest: Rest) -> None:
    async with calling(world, protocol="graphql", url=f"{rest.url}/graphql") as gateway:
        found = await gateway.execute_synchronous_call("it", "query ($a: Int) { echo(a: $a) }", {"a": 1})
        assert found.value == {"echo": {"a": 1}}
        assert await failure(gateway, "{ wrong }") == "rejected"


async def test_websocket(world: World) -> None:
    async with websocket_service() as (url, connections), calling(world, protocol="websocket", url=url) as gateway:
        for number in range(2):
            assert (await gateway.execute_synchronous_call("it", "echo", number)).value == number
        assert len(connections) == 1
        assert await failure(gateway, "refuse") == "rejected"
        assert await failure(gateway, "silence") == "timeout"
        assert await failure(gateway, "hang up") == "unavailable"
        assert (await gateway.execute_synchronous_call("it", "echo", "again")).value == "again"
        assert len(connections) == 2


async def test_grpc(world: World) -> None:
    async with grpc_service() as url, calling(world, protocol="grpc", url=url) as gateway:
        found = await gateway.execute_synchronous_call("it", "demo.Echo/Say", {"a": [1, "b"]})
        assert found.value == {"a": [1, "b"]}
        raw = await gateway.execute_synchronous_call("it", "demo.Echo/Say", b"\x0a\x00")
        assert raw.body == b"\x0a\x00"
        assert await failure(gateway, "demo.Echo/Refuse", {}) == "rejected"
        assert await failure(gateway, "demo.Echo/Wait", {}) == "timeout"
        assert await failure(gateway, "demo.Echo/Large", {}) == "too_large"
        assert await failure(gateway, "demo.Echo/Nothing", {}) == "invalid"
        assert await failure(gateway, "demo.Other/Say", {}) == "invalid"


async def test_nats(world: World) -> None:
    async def answer(message: Msg) -> None:
        if message.subject.endswith("echo"):
            await message.respond(message.data)
        elif message.subject.endswith("refuse"):
            assert world.bus._client is not None
            headers = {"Nats-Service-Error-Code": "400", "Nats-Service-Error": "no"}
            await world.bus._client.publish(message.reply, b"", headers=headers)

    subscription = await world.bus.subscribe("svc.it.*", answer)
    try:
        async with calling(world, protocol="nats", subject="svc.it") as gateway:
            assert (await gateway.execute_synchronous_call("it", "echo", {"a": 1})).value == {"a": 1}
            assert await failure(gateway, "refuse") == "rejected"
            assert await failure(gateway, "silence") == "timeout"
            assert await failure(gateway, "echo.deep") == "unreachable"
            assert await failure(gateway, "*") == "invalid"
    finally:
        await world.bus.unsubscribe(subscription)


async def test_discovered_services_are_targets_by_their_names(world: World) -> None:
    async def double(request: Request) -> None:
        await request.respond(request.data * 2)

    service = await add_service(world.bus._client, name="doubler", version="1.0.0")
    await service.add_endpoint(name="double", subject="svc.double", handler=double)
    await service.add_endpoint(name="evil", subject="cmd.call.0", handler=double)
    try:
        async with world.opened(Configuration(discovery=Discovery(services=("doub*",)))) as gateway:
            from tidegate.gateway.discovery import find

            gateway.channels._take(await find(world.bus))
            assert (await gateway.execute_synchronous_call("doubler", "double", b"ab")).body == b"abab"
            with pytest.raises(CallFailedError, match="it has: double"):
                await gateway.execute_synchronous_call("doubler", "evil", b"")
    finally:
        await service.stop()


@pytest.mark.parametrize("protocol", ["rest", "graphql", "websocket", "grpc"])
async def test_a_server_that_is_away_is_unreachable(world: World, protocol: str) -> None:
    scheme = {"rest": "http", "graphql": "http", "websocket": "ws", "grpc": "grpc"}[protocol]
    (port,) = free_ports(1)
    async with calling(world, protocol=protocol, url=f"{scheme}://127.0.0.1:{port}") as gateway:
        operation = {"rest": "GET /", "graphql": "{a}", "websocket": "a", "grpc": "a.B/C"}[protocol]
        assert await failure(gateway, operation) == "unreachable"
