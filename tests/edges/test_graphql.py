"""The GraphQL edge with documents that ask for too much, calls that make no sense, and many events at once."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from graphql import get_introspection_query, parse
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.edges.drivers import Driver
from tests.edges.graphql_driver import SUBSCRIBE, GraphQLDriver
from tests.edges.test_contract import ident, published
from tests.edges.test_websocket import no_feeds_left
from tests.edges.world import World
from tidegate.edges.graphql_limits import measured

pytestmark = pytest.mark.anyio


async def post(edges: World, client: httpx.AsyncClient, body: Any, key: str = "root", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {edges.keys[key]}", **headers}
    return await client.post(f"{edges.query_url}/graphql", content=content, headers=headers)


async def test_introspection_works(edges: World, client: httpx.AsyncClient) -> None:
    for descriptions in (True, False):
        answer = await post(edges, client, {"query": get_introspection_query(descriptions=descriptions)})
        assert "errors" not in answer.json()
        assert answer.json()["data"]["__schema"]["subscriptionType"]["name"] == "Subscription"


EVENTS = 'events(correlationId: "x"%s) { nodes { id } }'
TOO_MUCH = {
    "deep": "{ " * 5 + "events { nodes " * 20,
    "deep in a fragment": "{ ...a } fragment a on Query { " + "__schema { types { fields { type " * 5 + "{ name } "
    + "} } } " * 5 + "}",
    "introspection in circles": "{ __schema { types " + "{ fields { type " * 5 + "{ name }" + " } }" * 5 + " } }",
    "many values": "{ %s }" % (EVENTS % ", first: 10000") + " query b { %s }" % (EVENTS % ", first: 10000"),
    "many values by a variable": "query($n: Int!) { %s b: %s c: %s }" % ((EVENTS % ", first: $n",) * 3),
    "many aliases of a list": "{ " + " ".join(f"a{n}: {EVENTS % ''}" for n in range(300)) + " }",
    "many aliases": "{ " + " ".join(f"a{n}: status" for n in range(1100)) + " }",
    "the same field often": "{ " + "__typename " * 2000 + "}",
    "many tokens": "{ " + "__typename " * 6000 + "}",
    "fragments of fragments": "{ ...f0 } "
    + " ".join(f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(40))
    + " fragment f40 on Query { a: status b: positions }",
    "a fragment within itself": "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
    "many directives": "{ __typename " + "@skip(if: false) " * 500 + "}",
}  # fmt: skip
TOO_MUCH["deep"] = "{ " + "events { nodes { " * 20 + "id" + " } }" * 20 + " }"


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_document_that_asks_for_too_much_is_refused_at_once(
    edges: World, client: httpx.AsyncClient, name: str
) -> None:
    began = time.monotonic()
    answer = await post(edges, client, {"query": TOO_MUCH[name], "variables": {"n": 10_000}})
    assert time.monotonic() - began < 1
    (error, *_) = answer.json()["errors"]
    assert error["extensions"]["code"] in ("too_large", "invalid"), error
    assert not answer.json().get("data")
    assert len(answer.content) < 20_000


def test_the_measure_of_a_document_counts_what_can_be_returned() -> None:
    def cost(text: str, **variables: Any) -> tuple[int, int, int]:
        return measured(parse(text), variables)

    assert cost("{ status }") == (1, 1, 1)
    assert cost('{ event(id: "x") { id time } }') == (2, 7, 2)
    assert cost("{ events(first: 10) { nodes { id time } } }") == (3, 1 + 10 * 3, 2)
    assert cost("query($n: Int) { events(first: $n) { tier } }", n=7) == (2, 8, 1)
    assert cost("query($n: Int) { events(first: $n) { tier } }") == (2, 101, 1)
    assert cost("{ a: status ...f } fragment f on Query { b: status c: status }") == (1, 3, 3)
    assert cost("{ ...f } fragment f on Query { ...f }").cost == 0  # type: ignore[attr-defined]


BAD: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "no JSON": (b"{", {}, 400, "invalid"),
    "no UTF-8": (b'{"query":"\xff"}', {}, 400, "invalid"),
    "a batch": ([{"query": "{ status }"}], {}, 400, "invalid"),
    "no query": ({}, {}, 400, "invalid"),
    "a query that is none": ({"query": 3}, {}, 400, "invalid"),
    "variables that are none": ({"query": "{ status }", "variables": []}, {}, 400, "invalid"),
    "deep": (b'{"query":"{ status }","variables":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}", {}, 400, "invalid"),
    "a form": (b"query={status}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported"),
    "a plain text": (b"{ status }", {"Content-Type": "text/plain"}, 415, "unsupported"),
    "too long": (b" " * (4 * 1024 * 1024 + 1), {}, 413, "too_large"),
    "an empty document": ({"query": ""}, {}, 200, "invalid"),
    "no document": ({"query": "{ status"}, {}, 200, "invalid"),
    "an unknown field": ({"query": "{ nothing }"}, {}, 200, "invalid"),
    "a wrong type": ({"query": "{ event(id: {}) { id } }"}, {}, 200, "invalid"),
    "a missing variable": ({"query": "query($i: ID!) { event(id: $i) { id } }"}, {}, 200, "invalid"),
    "a limit out of bounds": ({"query": '{ events(observable: "x", first: 0) { tier } }'}, {}, 200, "invalid"),
    "no time": ({"query": '{ counts(since: "soon") { count } }'}, {}, 200, "invalid"),
    "no cursor": ({"query": '{ events(observable: "x", after: "%") { tier } }'}, {}, 200, "invalid"),
    "an operation that is not there": (
        {"query": "query a { status }", "operationName": "b"}, {}, 400, "invalid",
    ),
    "a subscription": ({"query": "subscription { events { leftOut } }"}, {}, 400, "invalid"),
    "no command": (
        {"query": 'mutation { command(kind: "alert", id: "x", command: 3) { version } }'}, {}, 200, "invalid",
    ),
    "two bodies": ({"query": 'mutation { publish(source: "app", text: "a", body: "") { records } }'}, {}, 200,
        "invalid"),
    "no base64": ({"query": 'mutation { publish(source: "app", body: "%") { records } }'}, {}, 200, "invalid"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_call_is_refused_in_the_shape_of_graphql(
    edges: World, client: httpx.AsyncClient, name: str
) -> None:
    body, headers, status, code = BAD[name]
    answer = await post(edges, client, body, **headers)
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == code
    assert error["message"]


async def test_one_field_that_fails_leaves_the_others_and_says_where(edges: World, client: httpx.AsyncClient) -> None:
    answer = await post(edges, client, {"query": "{ status positions }"}, "acme")
    told = answer.json()
    assert told["data"] is None  # neither may be null, and one of them has failed
    assert told["errors"][0]["path"] == ["positions"]
    assert told["errors"][0]["extensions"]["code"] == "forbidden"


async def test_many_events_of_one_call_are_one_look_up(
    edges: World, client: httpx.AsyncClient, all_drivers: list[Driver]
) -> None:
    correlation = ident()
    after = await published(edges, all_drivers[0], "acme", correlation, 50)
    await all_drivers[0].event("root", "x", after=after)
    query = "{ " + " ".join(f'e{n}: event(id: "{correlation}-{n}") {{ id tenant data }}' for n in range(50)) + " }"
    async with Redis.from_url(edges.settings.redis_url) as redis:

        async def lookups() -> int:
            stats = await redis.info("commandstats")
            return sum(one["calls"] for name, one in stats.items() if name in ("cmdstat_get", "cmdstat_mget"))

        before = await lookups()
        told = (await post(edges, client, {"query": query}, "acme")).json()
        assert await lookups() - before == 2  # the places of all, and the blocks that they are in
    assert {one["id"] for one in told["data"].values()} == {f"acme:{correlation}-{n}" for n in range(50)}
    assert told["data"]["e7"]["data"]["unmapped"]["n"] == 7
    other = (await post(edges, client, {"query": query}, "globex")).json()
    assert {one["extensions"]["code"] for one in other["errors"]} == {"not_found"}


async def test_counts_can_be_grouped(edges: World, client: httpx.AsyncClient, all_drivers: list[Driver]) -> None:
    after = await published(edges, all_drivers[0], "root", ident(), 20)
    parts = " ".join(f'{name.lower()}: counts(by: [{name}], position: "{after}") {{ classUid minuteMs count }}'
                     for name in ("CLASS", "MINUTE", "SEVERITY"))  # fmt: skip
    told = (
        await post(edges, client, {"query": f'{{ all: counts(by: [], position: "{after}") {{ count }} {parts} }}'})
    ).json()["data"]
    (total,) = told.pop("all")
    assert total["count"] >= 20
    assert {sum(one["count"] for one in group) for group in told.values()} == {total["count"]}
    assert all(one["classUid"] is not None and one["minuteMs"] is None for one in told["class"])


SOCKET_BAD: dict[str, tuple[str | bytes, int]] = {
    "binary": (b"\0", 4400),
    "no JSON": ("{", 4400),
    "an array": ("[]", 4400),
    "an unknown type": ('{"type":"nothing"}', 4400),
    "a number for an id": ('{"type":"subscribe","id":3,"payload":{"query":"{ status }"}}', 4400),
    "a payload that is none": ('{"type":"subscribe","id":"1","payload":3}', 4400),
    "no document": ('{"type":"subscribe","id":"1","payload":{"query":"{"}}', 4400),
    "a second beginning": ('{"type":"connection_init"}', 4429),
}


@pytest.mark.parametrize("name", SOCKET_BAD)
async def test_a_bad_message_ends_the_connection_as_the_protocol_has_it(edges: World, client: Any, name: str) -> None:
    message, code = SOCKET_BAD[name]
    async with GraphQLDriver(edges, client).connected("root") as one:
        await one.send(message)  # type: ignore[union-attr]
        with pytest.raises(ConnectionClosed) as error:
            await one.recv()  # type: ignore[union-attr]
    assert error.value.rcvd is not None
    assert error.value.rcvd.code == code


async def test_who_has_not_said_who_they_are_is_sent_away(edges: World) -> None:
    url = edges.query_url.replace("http", "ws") + "/graphql"
    async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")]) as one:
        await one.send('{"type":"subscribe","id":"1","payload":{"query":"{ status }"}}')
        with pytest.raises(ConnectionClosed) as error:
            await one.recv()
    assert error.value.rcvd is not None
    assert error.value.rcvd.code == 4401


async def test_a_connection_has_so_many_operations_and_all_end_with_it(edges: World, client: httpx.AsyncClient) -> None:
    async with GraphQLDriver(edges, client).connected("root") as one:
        variables = {"start": "now", "source": "", "types": []}
        for number in range(40):
            payload = {"query": SUBSCRIBE, "variables": variables}
            await one.send(json.dumps({"type": "subscribe", "id": str(number), "payload": payload}))  # type: ignore[union-attr]
        refused = [json.loads(await one.recv()) for _ in range(8)]  # type: ignore[union-attr]
        assert {one["type"] for one in refused} == {"error"}
        await one.send('{"type":"complete","id":"3"}')  # type: ignore[union-attr]
        await one.send('{"type":"subscribe","id":"q","payload":{"query":"{ status }"}}')  # type: ignore[union-attr]
        told = json.loads(await one.recv())  # type: ignore[union-attr]
        assert (told["id"], told["type"]) == ("q", "next")
    await no_feeds_left()
