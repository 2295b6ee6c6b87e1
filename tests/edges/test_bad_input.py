"""Bad input over HTTP: each is refused clearly, with the right status, and who sends good records notices nothing."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from tests.edges.catalogue import MB, NDJSON, PUBLISHED, REQUESTS
from tests.edges.drivers import Refused, RestDriver, Stored
from tests.edges.world import World, until
from tidegate.edges import http, rest_ingest

pytestmark = pytest.mark.anyio

ENOUGH = 60
GOOD = b'{"data":{"n":1}}'
CUT = b"POST /v1/events/app HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/x-ndjson\r\n"


@pytest.fixture
def rest(edges: World, client: httpx.AsyncClient) -> RestDriver:
    return RestDriver(edges, client)


async def connected(edges: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(edges.ingest_url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert found, head
    return int(head.split()[1]), await reader.readexactly(int(found[1]))


async def good(rest: RestDriver) -> None:
    """A good record is stored, and soon."""
    async with asyncio.timeout(5):
        assert await rest.publish("root", "app", GOOD, NDJSON) == Stored(1)


def test_the_catalogue_is_large() -> None:
    assert len(PUBLISHED) + len(REQUESTS) >= ENOUGH


@pytest.mark.parametrize("case", REQUESTS)
async def test_a_bad_request_is_answered_as_a_problem(edges: World, rest: RestDriver, case: str) -> None:
    sent, status = REQUESTS[case]
    reader, writer = await connected(edges)
    try:
        writer.write(sent.replace(b"{key}", edges.keys["root"].encode()))
        async with asyncio.timeout(10):
            found, body = await answered(reader)
        assert found == status, body
        told = json.loads(body)
        assert told["status"] == status
        assert told["title"]
        assert told["detail"]
    finally:
        writer.close()
    await good(rest)


async def test_a_body_that_is_cut_off_stores_nothing_and_holds_up_nobody(edges: World, rest: RestDriver) -> None:
    name = f"c-{uuid.uuid4().hex[:10]}"
    line = b'{"correlation_id":"%s","data":1}\n' % name.encode()
    for ending in ("half-closed", "closed", "reset"):
        _, writer = await connected(edges)
        writer.write(CUT % edges.keys["root"].encode() + b"Content-Length: 1000\r\n\r\n" + line)
        await writer.drain()
        await asyncio.sleep(0.05)
        if ending == "half-closed":
            writer.write_eof()
            await asyncio.sleep(0.1)
        if ending == "reset":
            writer.transport.abort()
        else:
            writer.close()
        await good(rest)
    assert await rest.publish("root", "app", line, NDJSON) == Stored(1)
    await until(lambda: edges.logged(name), "the event is in the log")
    assert len(await edges.logged(name)) == 1


async def test_a_connection_that_is_half_closed_before_its_request_ends_is_ended(edges: World) -> None:
    reader, writer = await connected(edges)
    writer.write(CUT)
    writer.write_eof()
    async with asyncio.timeout(2):
        assert await reader.read() == b""
    writer.close()


async def test_who_dawdles_over_headers_is_shut_out(
    edges: World, rest: RestDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Header by header, each soon behind the one before, as slow-loris does; and who says nothing at all."""
    monkeypatch.setattr(http, "_HEADERS_SECONDS", 0.5)
    slow = [await connected(edges) for _ in range(100)]

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if number % 2:
            writer.write(b"POST /v1/events HTTP/1.1\r\n")
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            if number % 2:
                writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.1)
        await asyncio.gather(ended, return_exceptions=True)
        writer.close()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for number, (reader, writer) in enumerate(slow):
            group.create_task(drip(reader, writer, number))
        await good(rest)
    await good(rest)


async def test_who_dawdles_over_a_body_is_told_so(edges: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_ingest, "_IDLE_SECONDS", 0.2)
    reader, writer = await connected(edges)
    writer.write(CUT % edges.keys["root"].encode() + b"Content-Length: 1000\r\n\r\n{")
    async with asyncio.timeout(5):
        status, body = await answered(reader)
    assert (status, json.loads(body)["code"]) == (408, "too_slow")
    writer.close()


def _peak(reset: bool = False) -> int:
    """The most memory that this process has had, in bytes, since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="there is no /proc/self/clear_refs here")
async def test_bombs_and_floods_take_a_bounded_amount_of_memory(edges: World, rest: RestDriver) -> None:
    bomb = zstandard.compress(b"x" * (256 * MB))
    blank = zstandard.compress(b"\n" * (16 * MB))
    long = (b"x" * MB for _ in range(64))

    async def endless() -> Refused:
        async def chunks() -> AsyncIterator[bytes]:
            for part in long:
                yield part

        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(
                f"{edges.ingest_url}/v1/events/app",
                content=chunks(),
                headers={"Authorization": f"Bearer {edges.keys['root']}", "Content-Type": NDJSON},
            )
        return rest.refusal(answer)

    before = _peak(reset=True)
    answers = await asyncio.gather(
        *(rest.publish("root", "app", bomb, NDJSON, "zstd") for _ in range(4)),
        *(rest.publish("root", "app", blank, NDJSON, "zstd") for _ in range(2)),
        *(rest.publish("unknown", "app", GOOD, NDJSON) for _ in range(200)),
        endless(),
        *(good(rest) for _ in range(5)),
    )
    assert [one for one in answers[:6] if one != Refused("invalid")] == []
    assert set(answers[6:206]) == {Refused("unauthenticated")}
    assert answers[206] == Refused("invalid")
    assert _peak() - before < 150 * MB
    await good(rest)
