"""The gateway over HTTP: answers, problems, scopes and tenants, and the process itself under kill -9."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.edges.world import served, until
from tests.gateway.conftest import World
from tests.gateway.services import Rest
from tests.system.harness import system, tidegate
from tidegate import config
from tidegate.auth import Gate, Principal
from tidegate.config import Auth
from tidegate.edges import rest_gateway
from tidegate.entities.access_key import Grant
from tidegate.errors import RefusedError
from tidegate.gateway import Configuration
from tidegate.gateway.configuration import Retry, Target

pytestmark = pytest.mark.anyio


def configuration(rest: Rest) -> Configuration:
    quick = Retry(attempts=2, backoff_seconds=0.01)
    shared = Target(name="it", protocol="rest", url=rest.url, retry=quick, tenants=("acme",))
    return Configuration(targets=[shared, Target(name="private", protocol="rest", url=rest.url)])


@contextlib.asynccontextmanager
async def edge(world: World, rest: Rest) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        world.opened(configuration(rest), working=True) as gateway,
        served(Gate(Auth(mode="off")), rest_gateway.routes(gateway)) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


async def test_calls_over_http(world: World, rest: Rest) -> None:
    async with edge(world, rest) as client:
        body = {"target": "it", "operation": "POST /echo", "payload": {"a": 1}}
        answer = await client.post("/v1/calls", json=body, headers={"Idempotency-Key": "k-7"})
        assert answer.status_code == 200
        assert answer.json()["result"]["got"] == {"a": 1}
        assert rest.keys == ["k-7"]

        answer = await client.post("/v1/calls", json={**body, "mode": "async"})
        assert answer.status_code == 202
        place = answer.headers["location"]

        async def ended() -> bool:
            return bool((await client.get(place)).json()["status"] == "succeeded")

        await until(ended, "the call has succeeded")
        assert (await client.get(place)).json()["result"]["got"] == {"a": 1}
        refused = await client.delete(place)
        assert (refused.status_code, refused.json()["refusal"]) == (409, "ended")

        (row, _) = (await client.get("/v1/channels")).json()["channels"]
        assert (row["target"], row["calls"], row["errors"], row["breaker"]) == ("it", 2, 0, "closed")


async def test_problems_over_http(world: World, rest: Rest) -> None:
    async with edge(world, rest) as client:

        async def problem(**body: object) -> tuple[int, str]:
            answer = await client.post("/v1/calls", json={"target": "it", **body})
            assert answer.headers["content-type"].startswith("application/problem+json")
            return answer.status_code, answer.json().get("failure", "")

        rest.failing = 2
        assert await problem(operation="GET /flaky") == (503, "unavailable")
        assert await problem(operation="GET /missing") == (409, "rejected")
        assert await problem(operation="nonsense") == (400, "invalid")
        rest.slow = 1
        assert await problem(operation="GET /slow", timeout_seconds=0.2) == (504, "timeout")
        assert await problem(operation="GET /", target="other") == (404, "")
        assert await problem(operation="GET /", mode="maybe") == (400, "")
        assert await problem(operation="GET /", url="http://127.0.0.1/") == (400, "")
        assert (await client.get("/v1/calls/none")).status_code == 404
        assert (await client.delete("/v1/calls/none")).status_code == 404
        assert (await client.get("/v1/calls/a%20b")).status_code == 400
        events = await client.post("/v1/events", json={"event_type": "no type", "data": 1})
        assert events.status_code == 400


async def test_a_tenant_reaches_its_targets_and_its_calls_only(world: World, rest: Rest) -> None:
    def of(tenant: str, *scopes: str) -> Principal:
        return Principal(f"key of {tenant}", msgspec.convert({"scopes": scopes, "tenant": tenant}, Grant))

    acme, other = of("acme", "command", "query"), of("other", "command", "query")
    async with world.opened(configuration(rest), working=True) as gateway:
        found = await gateway.execute_synchronous_call("it", "GET /echo", principal=acme, key="k")
        assert found.status == "201"
        assert rest.keys == ["acme:k"]
        for who, target in ((acme, "private"), (other, "it"), (acme, "none")):
            with pytest.raises(RefusedError, match="there is no target"):
                await gateway.execute_synchronous_call(target, "GET /echo", principal=who)
        call_id = await gateway.execute_asynchronous_call("it", "GET /echo", principal=acme)
        assert (await gateway.call(call_id, principal=acme)).status
        for lookup in (gateway.call(call_id, principal=other), gateway.call(call_id)):
            with pytest.raises(RefusedError, match="there is no call"):
                await lookup
        with pytest.raises(RefusedError, match="is no name"):
            await gateway.call(f"acme:{call_id}", principal=other)
        with pytest.raises(RefusedError, match="scope"):
            await gateway.execute_synchronous_call("it", "GET /echo", principal=of("acme", "query"))
        with pytest.raises(RefusedError, match="all tenants"):
            gateway.channel_statuses(principal=acme)


async def test_nothing_is_lost_when_the_process_is_killed(rest: Rest, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'[[targets]]\nname = "it"\nprotocol = "rest"\nurl = "{rest.url}"\ntimeout_seconds = 60\n'
        '[[targets]]\nname = "feed"\nprotocol = "nats"\nsubject = "feed"\n',
        encoding="utf-8",
    )
    with system(tmp_path / "run", gateway=config.Gateway(config_path=str(path))) as one:
        await one.serve("nats").ready()
        async with one.bus():
            gateway = one.run("gateway")
            one.run("entities")
            await one.ready()
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:

                async def order(operation: str) -> str:
                    body = {"target": "it", "operation": operation, "mode": "async"}
                    answer = await client.post("/v1/calls", json=body)
                    assert answer.status_code == 202, answer.text
                    return str(answer.json()["id"])

                async def stream_is(status: str) -> bool:
                    return bool((await client.get("/v1/streams/one")).json().get("status") == status)

                answer = await client.post("/v1/streams", json={"target": "feed", "name": "one", "source": "feed"})
                assert answer.status_code == 202, answer.text
                await until(lambda: stream_is("established"), "the stream stands")
                ids = [await order("POST /held") for _ in range(5)]

                async def begun() -> bool:
                    return rest.seen["/held"] == 5

                await until(begun, "all calls are made")
                gateway.kill()
                rest.hold.set()
                await asyncio.sleep(0)
                gateway.start()
                await gateway.ready()

                async def succeeded() -> bool:
                    found = [(await client.get(f"/v1/calls/{name}")).json() for name in ids]
                    return all((each["status"], each["attempts"]) == ("succeeded", 2) for each in found)

                await until(succeeded, "all calls have succeeded", 30)
                assert sorted(rest.keys) == sorted(ids * 2)
                await until(lambda: stream_is("resumed"), "the stream stands again")
                shown = await tidegate(one, "channels", "--json")
                assert [msgspec.json.decode(row)["target"] for row in shown.splitlines()] == ["feed", "it"]
