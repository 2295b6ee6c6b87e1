"""What REST has beyond the contract of all edges."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.edges.drivers import RestDriver, Stored
from tests.edges.world import GRANTS, World, served, until
from tidegate.auth import Gate
from tidegate.config import Auth
from tidegate.edges import rest_stream

pytestmark = pytest.mark.anyio


def bearer(edges: World, key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {edges.keys[key]}"}


async def test_the_source_is_that_of_the_address_else_of_the_only_envelope_else_of_the_key(
    edges: World, client: httpx.AsyncClient
) -> None:
    name = f"c-{uuid.uuid4().hex[:10]}"
    url = f"{edges.ingest_url}/v1/events"
    envelope = {"source": "billing", "correlation_id": name, "event_id": f"{name}-1", "data": 1}
    bare = {"correlation_id": name, "event_id": f"{name}-2", "data": 1}
    for answer in [
        await client.post(url, json=envelope, headers=bearer(edges, "root")),
        await client.post(url, json=bare, headers=bearer(edges, "root")),
        await client.post(url, json={**bare, "event_id": f"{name}-3"}, headers=bearer(edges, "writer")),
        await client.post(f"{url}?source=other", json={**bare, "event_id": f"{name}-4"}, headers=bearer(edges, "root")),
    ]:
        assert answer.status_code == 202, answer.text

    async def all_there() -> bool:
        return len(await edges.logged(name)) == 4

    await until(all_there, "the events are in the log")
    found = {one["metadata"]["uid"][-1]: one["metadata"]["log_source"] for one in await edges.logged(name)}
    assert found == {"1": "billing", "2": "app", "3": "billing", "4": "other"}


async def test_an_upload_of_unknown_length_is_stored_while_it_comes_in(edges: World, client: httpx.AsyncClient) -> None:
    before = (await edges.log.state()).last_sequence
    line = b'{"data":{"n":1,"pad":"%s"}}\n' % (b"x" * 900)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield line * 300
        async with asyncio.timeout(10):
            while (await edges.log.state()).last_sequence == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield line

    answer = await client.post(
        f"{edges.ingest_url}/v1/events/app",
        content=parts(),
        headers={**bearer(edges, "root"), "Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["records"] == 9001
    assert len(answer.json()["positions"]) >= 9


async def test_what_has_not_changed_is_not_sent_again(edges: World, client: httpx.AsyncClient) -> None:
    name = f"c-{uuid.uuid4().hex[:10]}"
    stored = await RestDriver(edges, client).publish("acme", "app", b'{"event_id":"%s","data":1}' % name.encode())
    assert isinstance(stored, Stored)
    url = f"{edges.query_url}/v1/events/{name}?after={stored.positions[-1]}"
    first = await client.get(url, headers=bearer(edges, "acme"))
    assert first.status_code == 200
    again = await client.get(url, headers={**bearer(edges, "acme"), "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_a_stream_ends_when_its_key_is_revoked(
    edges: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_stream, "_BEAT_SECONDS", 0.1)
    key = await edges.created(GRANTS["acme"])
    url = f"{edges.ingest_url}/v1/stream"
    async with asyncio.timeout(5), client.stream("GET", url, headers={"Authorization": f"Bearer {key}"}) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith(":")
        await edges.revoked(key)
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest[0] == "event: refused"
    assert "revoked" in json.loads(rest[1].removeprefix("data: "))["detail"]


async def data_of(answer: httpx.Response, count: int) -> list[str]:
    """Of the next so many events of a stream."""
    found: list[str] = []
    async with asyncio.timeout(5):
        async for line in answer.aiter_lines():
            found += [line.removeprefix("data: ")] if line.startswith("data: ") else []
            if len(found) == count:
                break
    return found


async def test_streams_that_want_the_same_get_the_same_with_one_feed_and_leave_nothing_behind(edges: World) -> None:
    def feeds() -> int:
        return sum(task.get_name().startswith("feed of ") for task in asyncio.all_tasks())

    async def gone() -> bool:
        return feeds() == 0

    await until(gone, "nobody reads")
    async with httpx.AsyncClient() as client, contextlib.AsyncExitStack() as stack:
        answers = []
        for _ in range(20):
            stream = client.stream("GET", f"{edges.ingest_url}/v1/stream", headers=bearer(edges, "acme"))
            answers.append(await stack.enter_async_context(stream))
            assert answers[-1].status_code == 200
        records = [{"source": "app", "event_id": uuid.uuid4().hex, "data": {"n": n}} for n in range(5)]
        stored = await client.post(f"{edges.ingest_url}/v1/events", json=records, headers=bearer(edges, "acme"))
        assert stored.status_code == 202
        told = [await data_of(answer, len(records)) for answer in answers]
        assert sorted(json.loads(event)["unmapped"]["n"] for event in told[0]) == [*range(5)]
        assert all(events == told[0] for events in told)
        assert feeds() == 2  # all want the same: one feed, and what hands it on
    await until(gone, "no feed is left")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080", "Origin": "http://127.0.0.1:3000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
    ],
)
async def test_without_keys_a_web_page_of_elsewhere_reaches_nothing(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    async with served(Gate(Auth(mode="off")), []) as url:
        assert (await client.get(f"{url}/status", headers=headers)).status_code == status
