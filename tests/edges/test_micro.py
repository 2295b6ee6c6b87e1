"""NATS micro services: discovery as any client of them knows it, bad requests, floods, and the end of a process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from tests.edges.drivers import Refused
from tests.edges.micro_driver import MicroDriver
from tests.edges.world import World, until
from tidegate.auth import Gate, Principal
from tidegate.bus import connect
from tidegate.config import Auth
from tidegate.edges import micro
from tidegate.edges.micro import Endpoint, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(edges: World) -> AsyncIterator[Client]:
    one = await nats.connect(edges.settings.nats_url)
    yield one
    await one.close()


@pytest.fixture
async def asking(edges: World) -> AsyncIterator[MicroDriver]:
    async with MicroDriver(edges) as one:
        yield one


async def all_answers(client: Client, subject: str) -> list[dict[str, Any]]:
    """What comes within a while."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, b"", reply=inbox)
    found = []
    while True:
        try:
            found.append(json.loads((await subscription.next_msg(timeout=0.2)).data))
        except TimeoutError:
            await subscription.unsubscribe()
            return found


async def test_services_are_found_and_described_as_nats_clients_expect(
    edges: World, client: Client, asking: MicroDriver
) -> None:
    there = [ServicePing.from_dict(one) for one in await all_answers(client, "$SRV.PING")]
    assert {one.name for one in there} >= {"tidegate-query", "tidegate-entities"}
    (query,) = [one for one in there if one.name == "tidegate-query"]
    (info,) = [ServiceInfo.from_dict(one) for one in await all_answers(client, "$SRV.INFO.tidegate-query")]
    assert (info.id, info.version) == (query.id, query.version)
    assert {one.subject for one in info.endpoints} >= {"svc.query.event", "svc.query.sql"}

    async def stats() -> ServiceStats:
        (one,) = await all_answers(client, f"$SRV.STATS.tidegate-query.{query.id}")
        assert one["type"] == "io.nats.micro.v1.stats_response"
        return ServiceStats.from_dict(one)

    (before,) = [one for one in (await stats()).endpoints if one.name == "event"]
    assert await asking.event("acme", "nothing") == Refused("not_found")
    (after,) = [one for one in (await stats()).endpoints if one.name == "event"]
    assert after.num_requests == before.num_requests + 1
    assert after.num_errors == before.num_errors + 1
    assert after.last_error is not None
    assert after.last_error.startswith("404:")
    assert after.processing_time > before.processing_time


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff", "invalid"),
        (b"[", "invalid"),
        (b"[" * 10_000, "invalid"),
        (b"[]", "invalid"),
        (b"", "invalid"),
        (b'{"id":1}', "invalid"),
        (b'{"id":"x","unknown":1}', "invalid"),
        (b'{"id":"x","tier":"tepid"}', "invalid"),
        (b'{"id":"x","after":"LOG/\xc3\xa9\\n"}', "invalid"),
        (b'{"id":"' + b"x" * 300_000 + b'"}', "too_large"),
        (b'{"id":"x\\r\\nNats-Service-Error-Code: 200"}', "not_found"),
    ],
)
async def test_requests_that_make_no_sense_are_told_so(asking: MicroDriver, body: bytes, code: str) -> None:
    assert await asking.ask("root", "svc.query.event", body) == Refused(code)


async def test_a_key_is_needed_also_for_who_may_use_nats(edges: World, asking: MicroDriver) -> None:
    for key in ("nobody", "unknown", "rubbish", "revoked"):
        assert await asking.ask(key, "svc.entities.status", {}) == Refused("unauthenticated")


def endpoint(work: Any, subject: str) -> Endpoint:
    return Endpoint(name="work", subject=subject, scope=None, work=work)


async def test_one_that_waits_keeps_no_other_waiting_and_too_many_are_refused_at_once(
    edges: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro, "_UNDER_WAY", 4)
    go = asyncio.Event()

    async def work(_: Principal, body: bytes) -> bytes:
        if body == b"wait":
            await go.wait()
        return body

    async with (
        connect(edges.settings.nats_url) as bus,
        serving(bus, Gate(Auth(mode="off")), "test", "1.0.0", "", [endpoint(work, "svc.test.flood")]),
    ):
        waiting = [asyncio.create_task(client.request("svc.test.flood", b"wait", timeout=10)) for _ in range(3)]
        assert (await client.request("svc.test.flood", b"quick", timeout=5)).data == b"quick"
        flood = [asyncio.create_task(client.request("svc.test.flood", b"wait", timeout=10)) for _ in range(200)]

        async def refused() -> bool:
            return sum(one.done() for one in flood) == 199

        await until(refused, "all but one are refused")
        go.set()
        answers = await asyncio.gather(*waiting, *flood)
        assert sum(one.data == b"wait" for one in answers) == 4
        codes = {one.headers["Nats-Service-Error-Code"] for one in answers if one.headers}
        assert codes == {"503"}
        assert (await client.request("svc.test.flood", b"quick", timeout=5)).data == b"quick"


async def test_who_still_waits_when_a_service_ends_is_answered(
    edges: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro, "_GRACE_SECONDS", 0.1)
    begun = asyncio.Event()

    async def work(_: Principal, __: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with connect(edges.settings.nats_url) as bus:
        async with serving(bus, Gate(Auth(mode="off")), "test", "1.0.0", "", [endpoint(work, "svc.test.end")]):
            asked = asyncio.create_task(client.request("svc.test.end", b"", timeout=10))
            await begun.wait()
        answer: Msg = await asked
    assert json.loads(answer.data)["code"] == "unavailable"


async def test_faults_and_answers_that_are_too_large_are_told_without_what_is_inside(
    edges: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(_: Principal, body: bytes) -> bytes:
        if body == b"large":
            return b"x" * (9 * 1024 * 1024)
        raise ValueError("secret")

    async with (
        connect(edges.settings.nats_url) as bus,
        serving(bus, Gate(Auth(mode="off")), "test", "1.0.0", "", [endpoint(work, "svc.test.fault")]),
    ):
        answer = await client.request("svc.test.fault", b"large", timeout=10)
        assert json.loads(answer.data)["code"] == "too_large"
        answer = await client.request("svc.test.fault", b"", timeout=10)
        assert answer.headers
        assert answer.headers["Nats-Service-Error-Code"] == "500"
        assert b"secret" not in answer.data
        assert "secret" in caplog.text
