"""Compression of WebSocket messages (RFC 7692): what is agreed upon, what then comes, and what a peer may do to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.edges.catalogue import NDJSON
from tests.edges.drivers import Driver, Stored
from tests.edges.test_contract import envelope, ident
from tests.edges.world import World
from tidegate.edges import framing, sockets

pytestmark = pytest.mark.anyio

OFFER = "permessage-deflate; client_max_window_bits"
"""As browsers make it."""
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class Raw:
    """A peer that knows frames (RFC 6455, 5.2) and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: str) -> None:
        self._reader = reader
        self._writer = writer
        self.status = int(answer.split(" ")[1])
        headers = dict(line.split(": ", 1) for line in answer.lower().split("\r\n")[1:] if line)
        self.agreed = headers.get("sec-websocket-extensions")

    def send(self, first: int, payload: bytes = b"") -> None:
        """A frame whose first byte is `first`, masked with zeros."""
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xff" + length.to_bytes(8, "big")
        self._writer.write(bytes([first]) + size + bytes(4) + payload)

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self._reader.readexactly(2)
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        return first, await self._reader.readexactly(size)

    async def message(self, window: int = 15) -> tuple[dict[str, Any], bool]:
        """The next one, and whether it came compressed."""
        first, payload = await self.frame()
        while not first & 0x80:
            further, more = await self.frame()
            assert further & 0x7F == 0, "a frame that goes on bears no mark of its own"
            first, payload = first | further, payload + more
        assert first in (0x81, 0xC1)
        if deflated := first == 0xC1:
            payload = inflated(payload, window)
        return json.loads(payload), deflated

    async def closed(self) -> int:
        """With which code."""
        async with asyncio.timeout(5):
            while (one := await self.frame())[0] != 0x88:
                pass
        return int.from_bytes(one[1][:2], "big")


def inflated(payload: bytes, window: int = 15) -> bytes:
    return zlib.decompressobj(-window).decompress(payload + b"\0\0\xff\xff")


def deflated(payload: bytes, window: int = 15) -> bytes:
    one = zlib.compressobj(wbits=-window)
    return (one.compress(payload) + one.flush(zlib.Z_SYNC_FLUSH))[:-4]


@contextlib.asynccontextmanager
async def raw(world: World, offer: str | None, key: str = "root") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.query_url.rpartition(":")[2]))
    try:
        writer.write(
            "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Authorization: Bearer {world.keys[key]}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Version: 13\r\n{f'Sec-WebSocket-Extensions: {offer}' if offer else 'X: y'}\r\n\r\n".encode()
        )
        yield Raw(reader, writer, (await reader.readuntil(b"\r\n\r\n")).decode())
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def subscribed(world: World, offer: str | None, key: str = "root", **how: Any) -> AsyncIterator[Raw]:
    async with raw(world, offer, key) as one:
        assert (await one.message())[0]["type"] == "welcome"
        one.send(0x81, json.dumps({"type": "subscribe", "id": "s", **how}).encode())
        assert (await one.message())[0]["type"] == "reply"
        yield one


async def publish(driver: Driver, correlation: str, count: int, key: str = "root") -> str:
    """The position of the last."""
    lines = [envelope(correlation, data={"n": n, "pad": "x" * 1000}) for n in range(count)]
    stored = await driver.publish(key, "app", b"\n".join(lines), NDJSON)
    assert isinstance(stored, Stored)
    assert stored.records == count
    return stored.positions[-1]


@given(head=st.binary(max_size=700), payload=st.binary(max_size=3000), window=st.integers(9, 15))
def test_whatever_goes_out_in_two_frames_is_one_message_to_whoever_inflates_it(
    head: bytes, payload: bytes, window: int
) -> None:
    async def both() -> None:
        for used in (0, window):
            rest = await framing.rest(payload, used)
            reader = asyncio.StreamReader()
            reader.feed_data(framing.beginning(head, rest.deflated) + rest.frame)
            reader.feed_data(await framing.whole(payload, used))
            peer = Raw(reader, None, "HTTP/1.1 101\r\n")  # type: ignore[arg-type]
            (first, one), (_, two), (last, three) = [await peer.frame() for _ in range(3)]
            assert (first, last) == ((0x41, 0xC1) if rest.deflated else (0x01, 0x81))
            assert (inflated(one + two, window) if rest.deflated else one + two) == head + payload
            assert (inflated(three, window) if rest.deflated else three) == payload
            assert rest.deflated == (used > 0 and len(payload) >= 1024)

    asyncio.run(both())


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        (None, None),
        ("permessage-deflate", AGREED),
        (OFFER, AGREED),
        ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", AGREED),
        ("permessage-deflate; server_max_window_bits=10", f"{AGREED}; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=8", None),  # zlib cannot
        ("permessage-deflate; client_max_window_bits=9", f"{AGREED}; client_max_window_bits=9"),
        ("permessage-deflate; further", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=010", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("x-webkit-deflate-frame", None),
        (f"permessage-deflate; further, {OFFER}, permessage-deflate", AGREED),
    ],
)
async def test_what_is_offered_is_agreed_upon_or_declined(edges: World, offer: str | None, agreed: str | None) -> None:
    async with raw(edges, offer) as one:
        assert (one.status, one.agreed) == (101, agreed)
        assert (await one.message())[0]["type"] == "welcome"


async def test_an_offer_that_is_none_is_no_handshake(edges: World) -> None:
    for offer in ("permessage-deflate;;=", ", permessage-deflate; a=\x7f", "permessage-deflate; a b"):
        async with raw(edges, offer) as one:
            assert one.status == 400


async def test_each_gets_the_events_as_it_inflates_and_what_many_get_is_compressed_once(
    edges: World, all_drivers: list[Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(payload: bytes, window: int) -> bytes:
        made.append(window)
        return deflate(payload, window)

    deflate = framing._deflate
    monkeypatch.setattr(framing, "_deflate", counted)
    correlation, count = ident(), 300
    windows = [0, 0, 9, 10, 12, 15, 15, 15, 15]
    async with contextlib.AsyncExitStack() as stack:
        peers = []
        for window in windows:
            offer = f"permessage-deflate; server_max_window_bits={window}" if window else None
            peers.append(await stack.enter_async_context(subscribed(edges, offer, correlation_id=correlation)))
        own = await stack.enter_async_context(
            subscribed(
                edges,
                "permessage-deflate; server_max_window_bits=11",
                correlation_id=correlation,
                acks=True,
                buffer=10_000,
            )
        )
        await publish(all_drivers[1], correlation, count)
        taken, messages = [], {}
        for window, one in zip([*windows, 11], [*peers, own], strict=True):
            events: list[Any] = []
            messages[window] = 0
            while len(events) < count:
                told, compressed = await one.message(window or 15)
                assert compressed == (window > 0)
                assert told["left_out"] == 0
                messages[window] += 1
                events += told["events"]
            taken.append(events)
    assert all(events == taken[0] for events in taken)
    assert len({event["position"] for event in taken[0]}) == count
    # There are four with a window of 15 bits.
    assert {window: made.count(window) for window in set(made)} == {w: n for w, n in messages.items() if w}


async def test_what_is_compressed_for_many_has_nothing_of_another_tenant(
    edges: World, all_drivers: list[Driver]
) -> None:
    correlation, count = ident(), 40
    async with contextlib.AsyncExitStack() as stack:
        peers = [
            (key, await stack.enter_async_context(subscribed(edges, OFFER, key)))
            for key in ("acme", "globex", "acme", "globex")
        ]
        for key in ("acme", "globex"):
            await publish(all_drivers[1], correlation, count, key)
        for key, one in peers:
            events: list[Any] = []
            while len(events) < count:
                told, compressed = await one.message()
                assert compressed
                events += told["events"]
            assert {event["event"]["metadata"]["tenant_uid"] for event in events} == {key}
            assert sorted(event["event"]["unmapped"]["n"] for event in events) == [*range(count)]


async def test_long_answers_come_compressed_and_short_ones_do_not(edges: World, all_drivers: list[Driver]) -> None:
    correlation = ident()
    after = await publish(all_drivers[1], correlation, 300)
    asks: dict[str, dict[str, Any]] = {
        "short": {"type": "entity", "kind": "alert", "entity_id": "none"},
        "long": {"type": "events", "correlation_id": correlation, "limit": 300, "after": after},
    }
    async with raw(edges, OFFER) as one:
        assert not (await one.message())[1]
        for name, ask in asks.items():
            one.send(0x81, json.dumps(ask).encode())
            told, compressed = await one.message()
            assert compressed == (name == "long"), told


async def test_messages_that_come_compressed_are_understood_however_they_are_cut(edges: World) -> None:
    ask = json.dumps({"type": "entity", "kind": "alert", "entity_id": "y" * 3000, "id": "1"})
    whole = deflated(ask.encode())
    async with raw(edges, OFFER) as one:
        await one.message()
        for cuts in ([], [1], [1, 2, 3], [0, 0, 5], [len(whole)], [*range(0, len(whole), 7)]):
            parts = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
            for number, part in enumerate(parts):
                final = 0x80 if number == len(parts) - 1 else 0
                one.send((0x41 if number == 0 else 0) | final, part)
                if not final:
                    one.send(0x89, b"still there?")
            for _ in parts[1:]:
                assert await one.frame() == (0x8A, b"still there?")
            assert (await one.message())[0]["id"] == "1"
        # Each message starts anew, and may be one that is not compressed.
        one.send(0x81, ask.encode())
        assert (await one.message())[0]["id"] == "1"


async def test_what_breaks_the_rules_ends_the_connection_with_a_code(edges: World) -> None:
    ask = deflated(b'{"type":"status"}')
    cases: dict[str, tuple[str | None, list[tuple[int, bytes]], int]] = {
        "compressed, which was not agreed upon": (None, [(0xC1, ask)], 1002),
        "no deflate": (OFFER, [(0xC1, b"\xff" * 40)], 1002),
        "marked again": (OFFER, [(0x41, ask[:3]), (0xC0, ask[3:])], 1002),
        "another mark": (OFFER, [(0xA1, ask)], 1002),
        "a control frame that is compressed": (OFFER, [(0xC9, b"")], 1002),
        "no UTF-8": (OFFER, [(0xC1, deflated(b"\xff\xfe"))], 1007),
        "a bomb": (OFFER, [(0xC1, deflated(bytes(sockets.MAX_MESSAGE_BYTES + 1)))], 1009),
        "a bomb in frames": (
            OFFER,
            [(0x41, b""), *((0x00, part) for part in parted(deflated(bytes(sockets.MAX_MESSAGE_BYTES * 2)), 100))],
            1009,
        ),
    }
    for name, (offer, frames, code) in cases.items():
        async with raw(edges, offer) as one:
            for frame in frames:
                one.send(*frame)
            assert await one.closed() == code, name


def parted(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


async def test_a_bomb_and_a_message_of_countless_frames_take_little_memory(edges: World) -> None:
    bomb = deflated(bytes(200 * 1024 * 1024))  # 200 kB on the wire
    async with raw(edges, OFFER) as one, raw(edges, OFFER) as other:
        other.send(0x01)
        tracemalloc.start()
        try:
            one.send(0xC1, bomb)
            assert await one.closed() == 1009
            for _ in range(60):
                for _ in range(1000):
                    other.send(0x00)
                other.send(0x89)
                while (await other.frame())[0] != 0x8A:
                    pass
            gc.collect()  # what the bomb was inflated to may hang in a cycle
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * sockets.MAX_MESSAGE_BYTES
    assert now < 250_000  # each frame kept would take 8 bytes


@pytest.mark.parametrize("library", ["websockets", "aiohttp"])
async def test_clients_agree_upon_it_by_themselves(edges: World, all_drivers: list[Driver], library: str) -> None:
    correlation, count = ident(), 200
    url = edges.query_url.replace("http", "ws") + "/v1/ws"
    headers = {"Authorization": f"Bearer {edges.keys['root']}"}
    subscribe = {"type": "subscribe", "id": "s", "correlation_id": correlation}
    records = [msgspec.Raw(envelope(correlation, data={"n": n, "pad": os.urandom(20).hex()})) for n in range(count)]
    text = msgspec.json.encode({"type": "publish", "source": "app", "records": records}).decode()

    async def talk(send: Any, receive: Any) -> None:
        assert json.loads(await receive())["type"] == "welcome"
        await send(json.dumps(subscribe))
        assert json.loads(await receive())["type"] == "reply"
        await send(text)
        seen: list[int] = []
        while len(seen) < count:
            told = json.loads(await receive())
            seen += [item["event"]["unmapped"]["n"] for item in told.get("events", ())]
        assert sorted(seen) == [*range(count)]

    if library == "websockets":
        async with connect(url, additional_headers=headers) as one:
            assert [extension.name for extension in one.protocol.extensions] == ["permessage-deflate"]
            await talk(one.send, one.recv)
    else:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers, compress=15) as two:
            assert two.compress == 15
            await talk(two.send_str, two.receive_str)
