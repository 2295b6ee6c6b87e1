"""The WebSocket edge with peers that send nonsense, too much, or nothing: nothing is lost, and all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.edges.catalogue import NDJSON
from tests.edges.drivers import Driver, Stored
from tests.edges.test_contract import envelope, ident
from tests.edges.websocket_driver import WebSocketDriver
from tests.edges.world import World, served, until
from tidegate.auth import Gate
from tidegate.config import Auth
from tidegate.edges import http, sockets, ws
from tidegate.entities.access_key import SCOPES, Grant

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def connected(world: World, key: str = "root") -> AsyncIterator[ClientConnection]:
    async with WebSocketDriver(world).connected(key) as one:
        assert isinstance(one, ClientConnection)
        yield one


async def ask(one: ClientConnection, **message: Any) -> dict[str, Any]:
    await one.send(json.dumps(message))
    return json.loads(await one.recv())  # type: ignore[no-any-return]


async def closing(one: ClientConnection) -> int:
    """With which code it was closed."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionClosed):
            async for _ in one:  # what came before
                pass
        await one.wait_closed()
    assert one.close_code is not None
    return one.close_code


def feeds() -> int:
    return sum(task.get_name().startswith("feed of") for task in asyncio.all_tasks())


async def no_feeds_left() -> None:
    async def none() -> bool:
        return feeds() == 0

    await until(none, "the subscriptions of a connection end with it")


async def publish(driver: Driver, correlation: str, count: int, size: int = 1) -> None:
    lines = [  # with what compression makes half as long, at best
        envelope(correlation, event_id=f"{correlation}-{n}", data={"n": n, "pad": os.urandom(-(-size // 2)).hex()})
        for n in range(count)
    ]
    assert await driver.publish("root", "app", b"\n".join(lines), NDJSON) == Stored(count)


BAD: dict[str, str | bytes] = {
    "nothing": "",
    "half": '{"id":"7","type":"status"',
    "an array": "[]",
    "null": "null",
    "no type": '{"id":"7"}',
    "an unknown type": '{"id":"7","type":"nothing"}',
    "a type that is none": '{"id":"7","type":3}',
    "a missing member": '{"id":"7","type":"event"}',
    "an unknown member": '{"id":"7","type":"status","further":1}',
    "a number for a text": '{"id":"7","type":"event","event_id":3}',
    "a text for a number": '{"id":"7","type":"events","observable":"x","limit":"ten"}',
    "a limit out of bounds": '{"id":"7","type":"events","observable":"x","limit":0}',
    "an unknown tier": '{"id":"7","type":"event","event_id":"x","tier":"tepid"}',
    "both of two": '{"id":"7","type":"events","observable":"x","correlation_id":"y"}',
    "no time": '{"id":"7","type":"counts","since":"soon"}',
    "no body": '{"id":"7","type":"publish","source":"app"}',
    "two bodies": '{"id":"7","type":"publish","source":"app","text":"a","records":[1]}',
    "no base64": '{"id":"7","type":"publish","source":"app","body":"%"}',
    "a path to nowhere": '{"id":"7","type":"subscribe","fields":{"a.b.c":1}}',
    "a buffer out of bounds": '{"id":"7","type":"subscribe","buffer":0}',
    "a second key": '{"id":"7","type":"auth","token":"x"}',
    "deep": '{"id":"7","type":"command","command":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
    "not a number": '{"id":"7","type":"subscribe","min_severity":NaN}',
    "binary": b'{"id":"7","type":"status"}',
}


async def test_a_bad_message_is_answered_and_the_connection_goes_on(edges: World) -> None:
    async with connected(edges) as one:
        for name, message in BAD.items():
            await one.send(message)
            answer = json.loads(await one.recv())
            assert (answer["type"], answer["code"]) == ("error", "invalid"), (name, answer)
            has_id = isinstance(message, str) and message.endswith("}") and name not in ("deep", "not a number")
            assert answer["id"] == ("7" if has_id else ""), name
        assert (await ask(one, type="status", id="8"))["type"] == "reply"
        for kind, subscription in (("unsubscribe", "none"), ("ack", "none")):
            more = {"position": "1-1"} if kind == "ack" else {}
            answer = await ask(one, type=kind, id="9", subscription=subscription, **more)
            assert (answer["id"], answer["code"]) == ("9", "not_found")


async def test_what_cannot_be_answered_ends_the_connection_with_a_code(edges: World) -> None:
    async with connected(edges) as one:
        with contextlib.suppress(ConnectionClosed):
            await one.send("x" * (sockets.MAX_MESSAGE_BYTES + 1))
        assert await closing(one) == 1009
    async with connected(edges) as one:
        await one.send(b"\xff\xfe", text=True)
        assert await closing(one) == 1007
    async with connected(edges) as one:
        for _ in range(100):
            await one.send("{")
        assert await closing(one) == 4400
    url = edges.query_url.replace("http", "ws") + "/v1/ws"
    for first in ('{"type":"status"}', '{"type":"auth","token":"tg_x"}', "{", b"\0"):
        async with connect(url) as one:
            await one.send(first)
            assert await closing(one) == (4401 if isinstance(first, str) and first != "{" else 4400)


async def test_requests_at_the_same_time_are_each_answered_under_their_id(edges: World) -> None:
    async with connected(edges) as one:
        for number in range(200):
            await one.send(json.dumps({"type": "status", "id": str(number)}))
        answers = [json.loads(await one.recv()) for _ in range(200)]
    assert {answer["id"] for answer in answers} == {str(number) for number in range(200)}


async def test_a_connection_has_so_many_subscriptions_and_all_end_with_it(
    edges: World, all_drivers: list[Driver]
) -> None:
    async with connected(edges) as one:
        answers = [await ask(one, type="subscribe", id=f"s{number}") for number in range(33)]
        assert [answer["type"] for answer in answers] == ["reply"] * 32 + ["error"]
        assert answers[-1]["code"] == "conflict"
        assert (await ask(one, type="subscribe", id="s1"))["code"] == "conflict"
        assert (await ask(one, type="unsubscribe", id="u", subscription="s5"))["type"] == "reply"
        assert (await ask(one, type="subscribe", id="s5"))["type"] == "reply"
        assert feeds() == 2  # all want the same: one feed, and what hands it on
        correlation = ident()
        await publish(all_drivers[1], correlation, 1)
        told = [json.loads(await one.recv()) for _ in range(32)]
        assert {one["id"] for one in told} == {f"s{number}" for number in range(32)}
    await no_feeds_left()


async def test_who_never_acknowledges_gets_so_much_and_may_go_on_where_it_was(
    edges: World, all_drivers: list[Driver]
) -> None:
    correlation, start = ident(), f"LOG/{(await edges.log.state()).last_sequence}"
    await publish(all_drivers[1], correlation, 30)
    how = {"type": "subscribe", "id": "s", "correlation_id": correlation, "buffer": 5, "acks": True}
    seen: list[int] = []
    for _ in range(3):  # each time five are taken, and three acknowledged
        async with connected(edges) as one:
            assert (await ask(one, **how, start=start))["type"] == "reply"
            items: list[dict[str, Any]] = []
            while len(items) < 5:
                items += json.loads(await one.recv())["events"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.recv(), 0.2)
            answer = await ask(one, type="ack", id="a", subscription="s", position="1-99")
            assert (answer["id"], answer["code"]) == ("a", "invalid")
            start = items[2]["position"]
            await one.send(json.dumps({"type": "ack", "subscription": "s", "position": start}))
            assert len(json.loads(await one.recv())["events"]) > 0
            seen += [item["event"]["unmapped"]["n"] for item in items[:3]]
    assert len(set(seen)) == len(seen) == 9
    await no_feeds_left()


@pytest.mark.parametrize(
    ("slow", "compression"), [("hold", None), ("skip", None), ("hold", "deflate"), ("skip", "deflate")]
)
async def test_a_reader_that_falls_behind_is_waited_for_or_told_what_it_has_missed(
    edges: World, all_drivers: list[Driver], slow: str, compression: str | None
) -> None:
    correlation, count = ident(), 16_000
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    port = int(edges.query_url.rpartition(":")[2])
    small.connect(("127.0.0.1", port))
    headers = {"Authorization": f"Bearer {edges.keys['root']}"}
    url = edges.query_url.replace("http", "ws") + "/v1/ws"
    async with connect(
        url, sock=small, additional_headers=headers, max_size=None, max_queue=1, compression=compression
    ) as one:
        await one.recv()
        await ask(one, type="subscribe", id="s", correlation_id=correlation, slow=slow, buffer=100)
        for _ in range(4):
            await publish(all_drivers[1], correlation, count // 4, 800)

        async def all_logged() -> bool:
            return len(await edges.logged(correlation)) == count

        await until(all_logged, "the events are in the log")
        await asyncio.sleep(0.3)
        got = missed = 0
        positions: list[tuple[int, ...]] = []
        while got + missed < count:
            told = json.loads(await asyncio.wait_for(one.recv(), 10))
            if told["type"] == "events":
                got += len(told["events"])
                missed += told["left_out"]
                positions += [tuple(map(int, item["position"].split("-"))) for item in told["events"]]
    assert got + missed == count
    assert (missed > 0) == (slow == "skip")
    assert positions == sorted(set(positions))
    await no_feeds_left()


async def raw(world: World, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that follows the log from its start, by a peer that does not know the protocol any further."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1024)
    key = world.keys["root"]
    head = (
        "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Authorization: Bearer {key}\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    message = b'{"type":"subscribe","start":"start","buffer":100}'
    # RFC 6455, 5.2: final text frame, masked with zeros.
    writer.write(head.encode())
    await reader.readuntil(b"welcome")
    writer.write(bytes([0x81, 0x80 + len(message), 0, 0, 0, 0]) + message)
    await reader.readuntil(b"subscription")
    assert feeds() == 1
    return reader, writer


@pytest.mark.parametrize("how", ["aborts", "shuts its half", "never answers a ping", "never reads"])
async def test_a_peer_that_is_gone_is_let_go(
    edges: World, all_drivers: list[Driver], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "never answers a ping":
        monkeypatch.setattr(http, "PING_SECONDS", 0.2)
    if how == "never reads":
        monkeypatch.setattr(sockets, "_STALLED_SECONDS", 0.3)
    async with served(edges.gate, ws.routes(edges.service)) as url:
        _, writer = await raw(edges, url)
        if how == "aborts":
            writer.transport.abort()
        elif how == "shuts its half":
            writer.write_eof()
        elif how == "never reads":
            await publish(all_drivers[1], ident(), 3000, 4000)
        await no_feeds_left()
        writer.transport.abort()


async def test_a_stop_of_the_server_ends_connections_and_leaves_nothing(edges: World) -> None:
    before = asyncio.all_tasks()
    async with served(edges.gate, ws.routes(edges.service)) as url:
        headers = {"Authorization": f"Bearer {edges.keys['root']}"}
        one = await connect(url.replace("http", "ws") + "/v1/ws", additional_headers=headers)
        await one.recv()
        await ask(one, type="subscribe", id="s", start="start")
    assert await closing(one) == 1012
    await one.wait_closed()

    async def nothing_left() -> bool:
        left = asyncio.all_tasks() - before
        # The cells of the world go on meanwhile, and read ahead in tasks of their own.
        return not [task for task in left if "async_generator_asend" not in repr(task.get_coro())]

    await until(nothing_left, "all tasks of the server have ended")


async def test_a_quiet_connection_hears_that_it_is_alive_until_its_key_is_revoked(
    edges: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "_BEAT_SECONDS", 0.1)
    edges.keys["short"] = await edges.created(Grant(scopes=SCOPES))
    async with connected(edges, "short") as one:
        assert json.loads(await one.recv()) == {"type": "idle"}
        await edges.revoked(edges.keys["short"])
        assert await closing(one) == 4401


async def test_without_keys_a_page_of_another_site_is_turned_away(edges: World) -> None:
    service = copy.copy(edges.service)
    service.gate = Gate(Auth(mode="off"))
    async with served(service.gate, ws.routes(service)) as url:
        address = url.replace("http", "ws") + "/v1/ws"
        with pytest.raises(InvalidStatus) as error:
            await connect(address, origin="http://evil.example")  # type: ignore[arg-type]
        assert error.value.response.status_code == 403
        async with connect(address, origin=url) as one:  # type: ignore[arg-type]
            assert json.loads(await one.recv())["principal"] == "local"
            assert (await ask(one, type="status"))["result"]["ready"]
