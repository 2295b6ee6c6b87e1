"""Asynchronous calls and stream connections, worked off by the gateway's cells on a real NATS server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from tests.edges.world import until
from tests.gateway.conftest import World
from tests.gateway.services import Rest, grpc_service, websocket_service
from tidegate.entities.call import Call
from tidegate.errors import CommandRefusedError, RefusedError
from tidegate.event import KafkaPlace
from tidegate.gateway import Configuration, Gateway
from tidegate.gateway.configuration import Breaker, Callbacks, Calls, Retry, Secret, Streams, Target

pytestmark = pytest.mark.anyio


def configuration(rest: Rest, **changes: Any) -> Configuration:
    target = Target(
        name="it", protocol="rest", url=rest.url, retry=Retry(attempts=1), breaker=Breaker(minimum=1000, window=1000)
    )
    return Configuration(
        **{
            "targets": [target],
            "calls": Calls(backoff_seconds=0.02, max_backoff_seconds=0.05),
            "streams": Streams(backoff_seconds=0.02, max_backoff_seconds=0.05),
            **changes,
        }
    )


async def settled(gateway: Gateway, call_id: str) -> Call:
    """The call, once nothing is left to do for it."""

    async def look() -> Call | None:
        state = await gateway.call(call_id)
        return state if state.settled else None

    found: Call = await until(look, f"{call_id} is settled")
    return found


async def test_a_call_is_made_until_it_succeeds_always_under_one_key(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest), working=True) as gateway:
        rest.failing = 2
        call_id = await gateway.execute_asynchronous_call("it", "POST /flaky", {"a": 1})
        state = await settled(gateway, call_id)
        assert (state.status, state.attempts, state.body) == ("succeeded", 3, b'{"ok":true}')
        assert rest.keys == [call_id] * 3


async def test_a_call_that_is_refused_or_fails_too_often_has_failed(world: World, rest: Rest) -> None:
    settings = Calls(attempts=2, backoff_seconds=0.01)
    async with world.opened(configuration(rest, calls=settings), working=True) as gateway:
        refused = await gateway.execute_asynchronous_call("it", "GET /missing")
        assert (await settled(gateway, refused)).error == "rejected: answered with status 404"
        rest.failing = 100
        failed = await settled(gateway, await gateway.execute_asynchronous_call("it", "GET /flaky"))
        assert (failed.status, failed.attempts) == ("failed", 2)


async def test_a_repeated_order_is_one_call(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest), working=True) as gateway:
        call_id = f"order-{uuid.uuid4().hex}"
        for _ in range(3):
            assert await gateway.execute_asynchronous_call("it", "GET /echo", call_id=call_id) == call_id
        await settled(gateway, call_id)
        with pytest.raises(CommandRefusedError, match="another call"):
            await gateway.execute_asynchronous_call("it", "GET /flaky", call_id=call_id)
        assert rest.seen["/echo"] == 1


async def test_a_call_can_be_cancelled_while_it_is_made(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest), working=True) as gateway:
        call_id = await gateway.execute_asynchronous_call("it", "POST /held")

        async def begun() -> bool:
            return rest.seen["/held"] == 1

        await until(begun, "the attempt is made")
        await gateway.cancel_call(call_id)
        assert (await settled(gateway, call_id)).status == "cancelled"

        async def dropped() -> bool:
            return gateway.channel_statuses()[0].running == 0

        await until(dropped, "the attempt is dropped")
        done = await gateway.execute_asynchronous_call("it", "GET /echo")
        await settled(gateway, done)
        with pytest.raises(CommandRefusedError, match="succeeded already"):
            await gateway.cancel_call(done)


async def test_results_go_to_a_subject(world: World, rest: Rest) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    async with world.opened(configuration(rest), working=True) as gateway:
        subscription = await world.bus.subscribe("results.billing", hear)
        call_id = await gateway.execute_asynchronous_call("it", "GET /echo", callback_subject="results.billing")
        assert (await settled(gateway, call_id)).callback == "delivered"
        await world.bus.unsubscribe(subscription)
        told = msgspec.json.decode(heard[0].data)
        assert (told["id"], told["status"], told["result"]["got"]) == (call_id, "succeeded", None)
        with pytest.raises(RefusedError):
            await gateway.execute_asynchronous_call("it", "GET /echo", callback_subject="log.event.0")


async def test_results_go_to_a_webhook_that_is_allowed_and_are_signed(
    world: World, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "quiet")
    allowed = Callbacks(webhooks=(f"{rest.url}/hook",), secret=Secret(env="HOOK_SECRET"), backoff_seconds=0.01)
    async with world.opened(configuration(rest, callbacks=allowed), working=True) as gateway:
        call_id = await gateway.execute_asynchronous_call("it", "GET /missing", callback_webhook=f"{rest.url}/hook")
        assert (await settled(gateway, call_id)).callback == "delivered"
        body, signature = rest.bodies[-1]
        assert (body["id"], body["status"]) == (call_id, "failed")
        digest = hmac.new(b"quiet", msgspec.json.encode(body), hashlib.sha256).hexdigest()
        assert signature == f"sha256={digest}"
        for url in (f"{rest.url}/echo", "http://169.254.169.254/latest/"):
            with pytest.raises(RefusedError, match="allows this URL"):
                await gateway.execute_asynchronous_call("it", "GET /echo", callback_webhook=url)
        lost = await gateway.execute_asynchronous_call("it", "GET /echo", callback_webhook=f"{rest.url}/hook/none")
        state = await settled(gateway, lost)
        assert (state.status, state.callback) == ("succeeded", "failed")
        assert "404" in state.callback_error


async def test_more_calls_than_may_be_open_are_refused(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest, calls=Calls(max_open=5, max_running=2)), working=True) as gateway:
        asked = [gateway.execute_asynchronous_call("it", "POST /held") for _ in range(30)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        good = [one for one in results if isinstance(one, str)]
        assert len(good) == 5
        assert {one.code.value for one in results if isinstance(one, RefusedError)} == {"rate_limited"}
        rest.hold.set()
        for one in good:
            assert (await settled(gateway, one)).status == "succeeded"
        await until(lambda: _accepts(gateway), "there is room again")


async def _accepts(gateway: Gateway) -> bool:
    try:
        return bool(await gateway.execute_asynchronous_call("it", "GET /echo"))
    except RefusedError:
        return False


async def test_old_calls_are_forgotten(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest, calls=Calls(keep_ended=0)), working=True) as gateway:
        call_id = await gateway.execute_asynchronous_call("it", "GET /echo")

        async def gone() -> bool:
            try:
                await gateway.call(call_id)
            except RefusedError as error:
                return error.code.value == "not_found"
            return False

        await until(gone, "it is forgotten")


# -- streams ------------------------------------------------------------------------------------------------------


async def stored(world: World, source: str) -> list[Any]:
    """What INGEST has of a source, in order."""
    from tidegate.reader import read

    end = (await world.bus.stream("INGEST")).last_sequence
    lines: list[bytes] = []
    async for message in read(world.bus, "INGEST", f"ingest.{source}.*", 1, end):
        assert "Content-Encoding" not in message.headers
        lines += message.payload.splitlines()
    return [msgspec.json.decode(line) for line in lines]


async def history(world: World, name: str) -> list[str]:
    """The tags of all that has happened to a connection."""
    from tidegate.log import lines_of

    found = []
    async for message in world.log.read("log.connection.*"):
        for line in lines_of(message):
            change = msgspec.json.decode(line)
            if change["id"] == name:
                found += [one["type"].split(".")[1] for one in change["events"]]
    return found


async def test_a_stream_is_resumed_after_the_last_message_until_it_is_closed(world: World, rest: Rest) -> None:
    async with world.opened(configuration(rest), working=True) as gateway:
        name = await gateway.establish_stream_connection("it", "/events", source="sse")

        async def enough() -> bool:
            return len(await stored(world, "sse")) >= 9

        await until(enough, "three connections' worth of messages are stored")
        await gateway.close_stream_connection(name)
        assert (await gateway.stream_connection(name)).status == "closed"
        numbers = [one["number"] for one in await stored(world, "sse")]
        assert numbers == list(range(1, len(numbers) + 1))  # nothing is missing, nothing twice
        assert rest.event_ids[:3] == ["", "3", "6"]
        happened = await history(world, name)
        assert happened[:5] == ["requested", "established", "lost", "resumed", "lost"]
        assert happened[-1] == "closed"
        with pytest.raises(RefusedError, match="no connection"):
            await gateway.stream_connection("unknown")


async def test_websocket_grpc_and_nats_can_be_streams(world: World, rest: Rest) -> None:
    async with websocket_service() as (url, connections), grpc_service() as grpc_url:
        targets = [
            Target(name="ws", protocol="websocket", url=url),
            Target(name="grpc", protocol="grpc", url=grpc_url),
            Target(name="nats", protocol="nats", subject="feed.numbers"),
        ]
        slow = Streams(backoff_seconds=100.0, max_backoff_seconds=100.0)
        async with world.opened(configuration(rest, targets=targets, streams=slow), working=True) as gateway:
            for target, topic in (("ws", "numbers"), ("grpc", "demo.Echo/Count"), ("nats", "")):
                await gateway.establish_stream_connection(target, topic, source=f"from-{target}", name=f"s-{target}")

            async def stands() -> bool:
                return (await gateway.stream_connection("s-nats")).status == "established"

            await until(stands, "the stream of NATS stands")
            await world.bus.send("feed.numbers", b"no JSON")

            async def all_stored() -> bool:
                return [len(await stored(world, f"from-{one}")) for one in ("ws", "grpc", "nats")] == [3, 3, 1]

            await until(all_stored, "messages of all three are stored")
            assert (await stored(world, "from-ws"))[2] == {"topic": "numbers", "number": 2}
            assert (await stored(world, "from-grpc"))[1] == {"number": 1.0}
            assert await stored(world, "from-nats") == [{"data": {"message": "no JSON"}}]
            for one in ("ws", "grpc", "nats"):
                await gateway.close_stream_connection(f"s-{one}")

            async def left() -> bool:
                return all(one.close_code is not None for one in connections)

            await until(left, "the connections are closed")


async def test_events_go_where_their_types_say(world: World, rest: Rest) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)
        if message.reply:
            await message.respond(b'{"topic":"audit","partition":1,"offset":7}')

    from tidegate.gateway.configuration import Route

    routes = [
        Route(types="security.*", to=("log",), source="services"),
        Route(types="realtime.*", to=("realtime",)),
        Route(types="audit.*", to=("log", "kafka"), topic="audit", source="services"),
    ]
    async with world.opened(configuration(rest, routes=routes)) as gateway:
        subscriptions = [await world.bus.subscribe(one, hear) for one in ("live.>", "kafka.out.*")]
        found = await gateway.publish_event("security.login.failed", {"user": "a"})
        assert found.to == ("log",)
        assert found.positions[0].startswith("INGEST/")
        assert await stored(world, "services") == [{"data": {"user": "a"}, "event_type": "security.login.failed"}]
        await gateway.publish_event("realtime.tick", 1)
        assert (await gateway.publish_event("audit.read", 2)).kafka == KafkaPlace("audit", 1, 7)

        async def both() -> bool:
            return len(heard) == 2

        await until(both, "both are heard")
        assert sorted(one.subject for one in heard) == ["kafka.out.audit", "live._.realtime.tick"]
        for one in subscriptions:
            await world.bus.unsubscribe(one)
        with pytest.raises(RefusedError, match="no route"):
            await gateway.publish_event("other", 1)
