"""The GraphQL edge: queries and mutations over POST, subscriptions over graphql-transport-ws."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.edges.drivers import Counts, Events, Reader, Refused, Stored, counted
from tests.edges.world import World

PUBLISH = """mutation($source: String!, $body: String!, $type: String!, $encoding: String!, $key: String!) {
  publish(source: $source, body: $body, contentType: $type, contentEncoding: $encoding, key: $key) {
    positions records duplicates refused { index } } }"""
EVENT = "query($id: ID!, $position: String) { event(id: $id, position: $position) { data } }"
PAGE = "{ nodes { data } pageInfo { endCursor hasNextPage } }"
CORRELATION = (
    "query($name: String!, $first: Int!, $cursor: String, $position: String) {"
    "  events(correlationId: $name, first: $first, after: $cursor, position: $position) " + PAGE + " }"
)
OBSERVABLE = "query($value: String!, $first: Int!) { events(observable: $value, first: $first) " + PAGE + " }"
COUNTS = """query($since: String, $until: String) {
  counts(since: $since, until: $until) { minuteMs classUid severityId count } }"""
COMMAND = """mutation($kind: String!, $id: ID!, $command: JSON!) {
  command(kind: $kind, id: $id, command: $command) { version } }"""
ENTITY = "query($kind: String!, $id: ID!) { entity(kind: $kind, id: $id) { version state } }"
SUBSCRIBE = """subscription($start: String!, $source: String!, $types: [String!]!) {
  events(start: $start, source: $source, types: $types) { leftOut items { position event { data } } } }"""


class GraphQLDriver:
    name = "graphql"

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self._world = world
        self._client = client

    async def ask(self, who: str, query: str, /, **variables: Any) -> Any:
        """The data of the one field, or why not."""
        token = self._world.keys[who]
        answer = await self._client.post(
            f"{self._world.query_url}/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        told = answer.json()
        if "errors" in told:
            return refusal(told["errors"])
        assert answer.status_code == 200
        (data,) = told["data"].values()
        return data

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused:
        text = base64.b64encode(body).decode()
        found = await self.ask(
            key, PUBLISH, source=source, body=text, type=content_type, encoding=encoding, key=idempotency
        )
        if isinstance(found, Refused):
            return found
        refused = tuple(one["index"] for one in found["refused"])
        duplicate = found["duplicates"] == len(found["positions"])
        return Stored(found["records"], duplicate, refused, tuple(found["positions"]))

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        found = await self.ask(key, EVENT, id=event_id, position=after or None)
        return found if isinstance(found, Refused) else found["data"]

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        cursor = None
        while True:
            page = await self.ask(key, CORRELATION, name=name, first=limit, cursor=cursor, position=after or None)
            if isinstance(page, Refused):
                return page
            found += [one["data"] for one in page["nodes"]]
            cursor = page["pageInfo"]["endCursor"]
            assert page["pageInfo"]["hasNextPage"] == bool(cursor)
            if not cursor:
                return found

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        page = await self.ask(key, OBSERVABLE, value=value, first=limit)
        return page if isinstance(page, Refused) else [one["data"] for one in page["nodes"]]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        found = await self.ask(key, COUNTS, since=since or None, until=until or None)
        return found if isinstance(found, Refused) else counted(found, "minuteMs", "classUid", "severityId")

    async def sql(self, key: str) -> Refused | str:
        found = await self.ask(key, '{ sql(statement: "SELECT 1") { rows } }')
        return found if isinstance(found, Refused) else str(found)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        found = await self.ask(key, COMMAND, kind=kind, id=name, command=command)
        return found if isinstance(found, Refused) else found["version"]

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        return await self.ask(key, ENTITY, kind=kind, id=name)  # type: ignore[no-any-return]

    async def status(self, key: str) -> dict[str, Any] | Refused:
        return await self.ask(key, "{ status }")  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def connected(self, key: str) -> AsyncIterator[ClientConnection | Refused]:
        url = self._world.query_url.replace("http", "ws") + "/graphql"
        async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")], max_size=None) as one:
            payload = {"Authorization": f"Bearer {self._world.keys[key]}"}
            await one.send(json.dumps({"type": "connection_init", "payload": payload}))
            try:
                assert json.loads(await one.recv())["type"] == "connection_ack"
            except ConnectionClosed as error:
                yield Refused("unauthenticated" if error.rcvd and error.rcvd.code == 4403 else f"{error}")
                return
            yield one

    @contextlib.asynccontextmanager
    async def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> AsyncIterator[Reader | Refused]:
        async with self.connected(key) as one:
            if isinstance(one, Refused):
                yield one
                return
            variables = {"start": start, "source": source, "types": types}
            asked = {"type": "subscribe", "id": "s", "payload": {"query": SUBSCRIBE, "variables": variables}}
            await one.send(json.dumps(asked))
            reader = _Taking(one)
            refused = await reader.refused()
            yield refused or reader


class _Taking:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._found: list[tuple[str, dict[str, Any]]] = []

    async def refused(self) -> Refused | None:
        """Nothing says that a subscription has begun; one that is refused says so at once."""
        try:
            return await self._next(0.5)
        except TimeoutError:
            return None

    async def _next(self, seconds: float | None = None) -> Refused | None:
        async with asyncio.timeout(seconds):
            told = json.loads(await self._connection.recv())
        if told["type"] == "error":
            return refusal(told["payload"])
        assert told["type"] == "next", told
        if "errors" in told["payload"]:
            return refusal(told["payload"]["errors"])
        batch = told["payload"]["data"]["events"]
        assert batch["leftOut"] == 0
        self._found += [(item["position"], item["event"]["data"]) for item in batch["items"]]
        return None

    async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        while len(self._found) < count:
            assert await self._next() is None
        taken, self._found = self._found[:count], self._found[count:]
        return taken


def refusal(errors: list[dict[str, Any]]) -> Refused:
    (one,) = errors
    assert one["message"]
    return Refused(one["extensions"]["code"], one["message"])
