"""The contract: every edge answers the same calls, good and bad, in the same way, and leaves the same behind."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import pytest
import zstandard

from tests.edges.catalogue import LINES, LONG, MB, MSGPACK, NDJSON, PUBLISHED
from tests.edges.drivers import Driver, Refused, Stored
from tests.edges.world import GRANTS, World, until

pytestmark = pytest.mark.anyio

A = TypeVar("A")


async def same(all_drivers: list[Driver], call: Callable[[Driver], Awaitable[A]]) -> A:
    """What all drivers answer, after comparing."""
    answers = {one.name: await call(one) for one in all_drivers}
    first = answers["service"]
    assert all(one == first for one in answers.values()), answers
    return first


def envelope(correlation: str, **more: Any) -> bytes:
    return msgspec.json.encode({"correlation_id": correlation, "data": {"n": 1}, **more})


def ident() -> str:
    return f"c-{uuid.uuid4().hex[:10]}"


@pytest.mark.parametrize("case", PUBLISHED)
async def test_publishing(all_drivers: list[Driver], edges: World, case: str) -> None:
    body, content_type, encoding, expected = PUBLISHED[case]
    answer = await same(all_drivers, lambda one: one.publish("root", "app", body, content_type, encoding))
    assert answer == (Refused(expected) if isinstance(expected, str) else expected)


@pytest.mark.parametrize(
    ("source", "key", "idempotency", "code"),
    [
        ("no.such", "root", "", "invalid"),
        ("x" * 65, "root", "", "invalid"),
        ("s%20pace", "root", "", "invalid"),
        ("app", "root", "k" * 201, "invalid"),
        ("app", "nobody", "", "unauthenticated"),
        ("app", "unknown", "", "unauthenticated"),
        ("app", "rubbish", "", "unauthenticated"),
        ("app", "expired", "", "unauthenticated"),
        ("app", "revoked", "", "unauthenticated"),
        ("app", "reader", "", "forbidden"),
        ("app", "writer", "", "forbidden"),
    ],
)
async def test_who_may_not_publish(
    all_drivers: list[Driver], source: str, key: str, idempotency: str, code: str
) -> None:
    answer = await same(all_drivers, lambda one: one.publish(key, source, LINES, NDJSON, "", idempotency))
    assert answer == Refused(code)


async def test_what_was_refused_left_nothing_and_what_was_stored_became_events(
    all_drivers: list[Driver], edges: World
) -> None:
    """Neighbours of bad records come through, each once, from each edge."""
    correlation = ident()
    good = [envelope(correlation, event_id=f"{correlation}-{number}") for number in range(3)]
    for number, one in enumerate(all_drivers):
        lines = [line.replace(b"-", b"-%d-" % number, 0) for line in good]
        answer = await one.publish("root", "app", b"\n".join([lines[0], b"{", lines[1], LONG, lines[2]]), NDJSON)
        assert answer == Stored(3, refused=(1, 3))
        assert await one.publish("root", "app", b"{", NDJSON) == Refused("invalid")

    async def all_there() -> bool:
        return len(await edges.logged(correlation)) >= 3 * len(all_drivers)

    await until(all_there, "the events are in the log")
    assert len(await edges.logged(correlation)) == 3 * len(all_drivers)


async def test_under_one_key_a_body_is_stored_once_even_when_it_is_of_many_frames(all_drivers: list[Driver]) -> None:
    body = b"".join(b'{"data":{"n":%d,"pad":"%s"}}\n' % (number, b"x" * 700) for number in range(3500))
    assert len(body) > 2 * MB
    for one in all_drivers:
        key = ident()
        first = await one.publish("root", "app", body, NDJSON, "", key)
        again = await one.publish("root", "app", body, NDJSON, "", key)
        assert isinstance(first, Stored)
        assert isinstance(again, Stored)
        assert (first.records, first.duplicate, len(first.positions)) == (3500, False, 4)
        assert (again.duplicate, again.positions) == (True, first.positions)
        # The key of another tenant is another key.
        other = await one.publish("acme", "app", body, NDJSON, "", key)
        assert isinstance(other, Stored)
        assert not other.duplicate


async def test_a_key_limited_to_a_source_cannot_name_another_in_an_envelope(all_drivers: list[Driver]) -> None:
    named = [
        b'{"source":"billing","data":1}',
        b'{"source":"suricata","data":1}',
        b'{"\\u0073ource":"suricata","data":1}',
        b'{"source":"suricata","source":"billing","data":1}',
        b'{"source":"billing","source":"suricata","data":1}',
        b'{"source":"suricata","data":1,"further":1}',
    ]
    answer = await same(all_drivers, lambda one: one.publish("writer", "billing", b"\n".join(named), NDJSON))
    assert answer == Stored(3, refused=(1, 2, 4))
    packed = msgspec.msgpack.encode([{"source": "suricata", "data": 1}, {"data": 1}])
    answer = await same(all_drivers, lambda one: one.publish("writer", "billing", packed, MSGPACK))
    assert answer == Stored(1, refused=(0,))


async def test_a_key_may_have_a_limit_for_bodies_also_after_inflating(all_drivers: list[Driver]) -> None:
    lines = LINES * 100
    for body, encoding in ((lines, ""), (zstandard.compress(lines), "zstd"), (gzip.compress(lines), "gzip")):
        answer = await same(all_drivers, lambda one: one.publish("small", "app", body, NDJSON, encoding))  # noqa: B023
        assert answer == Refused("too_large")
    assert await same(all_drivers, lambda one: one.publish("small", "app", LINES, NDJSON)) == Stored(2)


async def test_a_key_may_have_a_rate(all_drivers: list[Driver], edges: World) -> None:
    for one in all_drivers:
        edges.keys["slow now"] = await edges.created(GRANTS["slow"])
        assert await one.publish("slow now", "app", b'{"data":1}\n' * 6, NDJSON) == Stored(6)
        refused = await one.publish("slow now", "app", LINES, NDJSON)
        assert refused == Refused("rate_limited")
        await asyncio.sleep(0.6)
        assert await one.publish("slow now", "app", LINES, NDJSON) == Stored(2)


# -- what each may see ------------------------------------------------------------------------------------------


async def published(edges: World, driver: Driver, key: str, correlation: str, count: int = 3) -> str:
    body = b"\n".join(
        envelope(correlation, event_id=f"{correlation}-{n}", data={"src_ip": "10.9.8.7", "n": n}) for n in range(count)
    )
    answer = await driver.publish(key, "billing", body, NDJSON)
    assert isinstance(answer, Stored), answer
    return answer.positions[-1]


async def test_a_tenant_sees_its_events_and_no_others(all_drivers: list[Driver], edges: World) -> None:
    """Both tenants, and one who is of none, use the same ids: each finds what is theirs."""
    correlation = ident()
    for key in ("acme", "globex", "root"):
        after = await published(edges, all_drivers[0], key, correlation)
    event_id = f"{correlation}-0"

    for tenant in ("acme", "globex"):
        events = await same(all_drivers, lambda one: one.correlation(tenant, correlation, after=after))  # noqa: B023
        assert not isinstance(events, Refused)
        assert len(events) == 3
        assert {one["metadata"]["tenant_uid"] for one in events} == {tenant}
        event = await same(all_drivers, lambda one: one.event(tenant, event_id))  # noqa: B023
        assert not isinstance(event, Refused)
        assert event["metadata"]["tenant_uid"] == tenant
        # By the whole name of what is another's.
        other = "globex" if tenant == "acme" else "acme"
        events = await same(all_drivers, lambda one: one.correlation(tenant, f"{other}:{correlation}"))  # noqa: B023
        assert events == []
        for name in (f"{other}:{event_id}", f"{tenant}:{other}:{event_id}", "*", ident()):
            event = await same(all_drivers, lambda one: one.event(tenant, name))  # noqa: B023
            assert event == Refused("not_found")
    everything = await same(all_drivers, lambda one: one.event("root", f"globex:{event_id}"))
    assert not isinstance(everything, Refused)
    assert await same(all_drivers, lambda one: one.event("root", event_id)) != everything


async def test_an_observable_leads_a_tenant_to_its_own_events(all_drivers: list[Driver], edges: World) -> None:
    address = f"203.0.113.{uuid.uuid4().int % 250}"
    suricata = {
        "timestamp": "2026-05-04T10:11:12.000000+0000", "event_type": "dns", "flow_id": 1, "proto": "UDP",
        "src_ip": address, "src_port": 1, "dest_ip": "10.0.0.53", "dest_port": 53,
        "dns": {"type": "query", "rrname": "example.com", "rrtype": "A"},
    }  # fmt: skip
    body = b"\n".join(msgspec.json.encode({**suricata, "flow_id": number}) for number in range(20))
    for key in ("globex", "root", "acme", "globex"):
        stored = await all_drivers[0].publish(key, "suricata", body, NDJSON)
    assert isinstance(stored, Stored)
    await all_drivers[0].event("root", "x", after=stored.positions[-1])
    # Of the newest 80, those of one tenant: also when none of them is among the newest few.
    events = await same(all_drivers, lambda one: one.observable("acme", address, limit=5))
    assert not isinstance(events, Refused)
    assert [one["metadata"]["tenant_uid"] for one in events] == ["acme"] * 5


async def test_pages_hold_each_event_once(all_drivers: list[Driver], edges: World) -> None:
    correlation = ident()
    after = await published(edges, all_drivers[0], "acme", correlation, 23)
    events = await same(all_drivers, lambda one: one.correlation("acme", correlation, limit=5, after=after))
    assert not isinstance(events, Refused)
    assert sorted(one["unmapped"]["n"] for one in events) == list(range(23))


@pytest.mark.parametrize(
    ("key", "code"),
    [("acme", "forbidden"), ("nobody", "unauthenticated"), ("writer", "forbidden"), ("revoked", "unauthenticated")],
)
async def test_who_may_not_ask_in_sql(all_drivers: list[Driver], key: str, code: str) -> None:
    assert await same(all_drivers, lambda one: one.sql(key)) == Refused(code)


async def test_counts_are_of_the_hour_before_their_end_unless_it_is_said_otherwise(
    all_drivers: list[Driver], edges: World
) -> None:
    minutes = [int(time.time() // 60 - ago) * 60_000 for ago in (10, 90, 150)]
    body = b"\n".join(
        envelope(ident(), timestamp=datetime.fromtimestamp(one / 1000 + 1, UTC).isoformat()) for one in minutes
    )
    stored = await all_drivers[0].publish("root", "app", body, NDJSON)
    assert isinstance(stored, Stored)
    await all_drivers[0].event("root", "x", after=stored.positions[-1])

    async def seen(one: Driver, since: str = "", until: str = "") -> list[bool]:
        found = await one.counts("root", since, until)
        assert not isinstance(found, Refused), found
        there = {minute for minute, *_ in found}
        return [one in there for one in minutes]

    assert await same(all_drivers, seen) == [True, False, False]
    assert await same(all_drivers, lambda one: seen(one, until="80m")) == [False, True, False]
    assert await same(all_drivers, lambda one: seen(one, since="3h")) == [True, True, True]
    assert await same(all_drivers, lambda one: seen(one, since="3h", until="140m")) == [False, False, True]
    assert await same(all_drivers, lambda one: one.counts("root", "1h", "2h")) == Refused("invalid")
    assert await same(all_drivers, lambda one: one.counts("acme")) == Refused("forbidden")


# -- subscriptions ----------------------------------------------------------------------------------------------


async def test_a_subscriber_gets_what_is_theirs_in_order_and_can_go_on_behind_any_event(
    all_drivers: list[Driver], edges: World
) -> None:
    correlation = ident()
    end = (await edges.log.state()).last_sequence
    for key in ("globex", "acme", "root"):
        after = await published(edges, all_drivers[0], key, correlation, 40)
    await all_drivers[0].event("root", "x", after=after)

    async def read(one: Driver, key: str, start: str, count: int) -> list[tuple[str, str]]:
        async with one.subscribe(key, start) as reader:
            assert not isinstance(reader, Refused)
            return [(position, event["metadata"]["uid"]) for position, event in await reader.take(count)]

    found = await same(all_drivers, lambda one: read(one, "acme", f"LOG/{end}", 40))
    assert {uid for _, uid in found} == {f"acme:{correlation}-{number}" for number in range(40)}
    for place in (0, 17, 38):
        rest = await same(all_drivers, lambda one: read(one, "acme", found[place][0], 39 - place))  # noqa: B023
        assert rest == found[place + 1 :]
    # Who is limited to a source sees what it has sent, of all tenants.
    everything = await same(all_drivers, lambda one: read(one, "root", f"LOG/{end}", 120))
    assert len({uid for _, uid in everything}) == 120


async def test_a_subscriber_from_now_on_gets_what_comes(all_drivers: list[Driver], edges: World) -> None:
    for one in all_drivers:
        async with one.subscribe("acme") as reader:
            assert not isinstance(reader, Refused)
            correlation = ident()
            await published(edges, one, "globex", correlation, 2)
            await published(edges, one, "acme", correlation, 2)
            taken = await reader.take(2)
            assert [event["metadata"]["tenant_uid"] for _, event in taken] == ["acme"] * 2


@pytest.mark.parametrize(
    ("key", "start", "code"),
    [
        ("nobody", "now", "unauthenticated"),
        ("reader", "now", "forbidden"),
        ("acme", "LOG/99999999", "invalid"),
        ("acme", "99999999-1", "invalid"),
        ("acme", "LOG/x", "invalid"),
    ],
)
async def test_who_may_not_subscribe_or_where(all_drivers: list[Driver], key: str, start: str, code: str) -> None:
    async def answer(one: Driver) -> Any:
        async with one.subscribe(key, start) as reader:
            return reader

    assert await same(all_drivers, answer) == Refused(code)


# -- commands ---------------------------------------------------------------------------------------------------

RAISE = {"type": "alert.raise.v1", "title": "Beaconing", "severity": 4, "by": "mira"}


async def test_a_tenant_commands_its_own_entities_only(all_drivers: list[Driver]) -> None:
    for one in all_drivers:
        name = ident()
        assert await one.command("acme", "alert", name, RAISE) == 1
        assert await one.command("acme", "alert", name, {"type": "alert.acknowledge.v1", "by": "mira"}) == 2
        mine = await one.entity("acme", "alert", name)
        assert not isinstance(mine, Refused)
        assert (mine["version"], mine["state"]["status"]) == (2, "acknowledged")
        # The same id is another entity for another tenant, and the whole name is no way around.
        for key, said in (("globex", name), ("globex", f"acme:{name}"), ("root", name)):
            assert await one.entity(key, "alert", said) == Refused("not_found")
            resolve = {"type": "alert.resolve.v1", "by": "eve"}
            assert await one.command(key, "alert", said, resolve) == Refused("not_found")
        assert (await one.entity("root", "alert", f"acme:{name}")) == mine


@pytest.mark.parametrize(
    ("key", "kind", "command", "code"),
    [
        ("nobody", "alert", RAISE, "unauthenticated"),
        ("reader", "alert", RAISE, "forbidden"),
        ("acme", "window", {"type": "x"}, "forbidden"),
        ("acme", "pipeline", {"type": "pipeline.roll_back.v1"}, "forbidden"),
        ("acme", "access_key", {"type": "access_key.revoke.v1"}, "forbidden"),
        ("root", "nothing", {"type": "x"}, "not_found"),
        ("root", "alert", {"type": "alert.nothing.v1"}, "invalid"),
        ("root", "alert", {"type": "alert.raise.v1"}, "invalid"),
        ("root", "alert", {}, "invalid"),
    ],
)
async def test_commands_that_are_refused(
    all_drivers: list[Driver], key: str, kind: str, command: dict[str, Any], code: str
) -> None:
    assert await same(all_drivers, lambda one: one.command(key, kind, "some", command)) == Refused(code)


async def test_status_tells_a_caller_what_it_may_do_and_an_administrator_more(all_drivers: list[Driver]) -> None:
    told = await same(all_drivers, lambda one: one.status("acme"))
    assert not isinstance(told, Refused)
    assert told["principal"]["tenant"] == "acme"
    assert "sections" not in told
    told = await same(all_drivers, lambda one: one.status("root"))
    assert not isinstance(told, Refused)
    assert "sections" in told
    assert await same(all_drivers, lambda one: one.status("nobody")) == Refused("unauthenticated")


async def test_refusals_and_commands_are_in_the_log_and_no_secret_is(all_drivers: list[Driver], edges: World) -> None:
    from tests.edges.world import app_lines

    name = ident()
    await all_drivers[1].command("acme", "alert", name, RAISE)
    await all_drivers[1].publish("unknown", "app", LINES, NDJSON)
    seen: list[dict[str, Any]] = []
    raw = b""

    async def there() -> bool:
        nonlocal raw
        seen.clear()
        async for message in edges.log.read("log.>"):
            if message.subject == "log.audit.0":
                lines = app_lines(message.payload)
                seen.extend(json.loads(line) for line in lines)
                raw += b"".join(lines)
            elif message.subject.startswith("log.access_key."):
                raw += b"".join(app_lines(message.payload))
        told = {(one["what"], one["result"]) for one in seen}
        return (f"alert.raise.v1 alert acme:{name}", "allowed") in told and any(
            one["result"] == "unauthenticated" and one["what"] == "POST /v1/events/{source:str}" for one in seen
        )

    await until(there, "the audit is in the log")
    for key in edges.keys.values():
        if key.count("_") >= 2:
            assert key.split("_", 2)[2].encode() not in raw
