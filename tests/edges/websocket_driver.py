"""The WebSocket edge, with a connection for each call: half of them with the key in a header, half as browsers do.

These also offer to inflate, as browsers do.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.edges.drivers import Counts, Events, Reader, Refused, Stored, counted
from tests.edges.world import World

OPTIONAL = ("after", "cursor", "key")


class WebSocketDriver:
    name = "websocket"

    def __init__(self, world: World) -> None:
        self._world = world
        self._turn = itertools.count()

    @contextlib.asynccontextmanager
    async def connected(self, key: str) -> AsyncIterator[ClientConnection | Refused]:
        token = self._world.keys[key]
        by_header = next(self._turn) % 2 == 0
        headers = {"Authorization": f"Bearer {token}"} if token and by_header else {}
        url = self._world.query_url.replace("http", "ws") + "/v1/ws"
        compression = None if headers else "deflate"
        async with connect(url, additional_headers=headers, max_size=None, compression=compression) as one:
            if not headers:
                await one.send(json.dumps({"type": "auth", "id": "a", "token": token}))
            first = json.loads(await one.recv())
            yield one if first["type"] == "welcome" else refusal(first)

    async def ask(self, who: str, kind: str, /, **members: Any) -> Any:
        """The result, or why not."""
        given = {name: value for name, value in members.items() if value or name not in OPTIONAL}
        async with self.connected(who) as one:
            if isinstance(one, Refused):
                return one
            try:
                await one.send(json.dumps({"type": kind, "id": "1", **given}))
                answer = json.loads(await one.recv())
            except ConnectionClosed as error:
                return Refused("too_large" if error.rcvd and error.rcvd.code == 1009 else f"{error}")
            assert answer["id"] == "1"
            return answer["result"] if answer["type"] == "reply" else refusal(answer)

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused:
        found = await self.ask(
            key,
            "publish",
            source=source,
            body=base64.b64encode(body).decode(),
            content_type=content_type,
            content_encoding=encoding,
            key=idempotency,
        )
        if isinstance(found, Refused):
            return found
        refused = tuple(one["index"] for one in found["refused"])
        duplicate = found["duplicates"] == len(found["positions"])
        return Stored(found["records"], duplicate, refused, tuple(found["positions"]))

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        found = await self.ask(key, "event", event_id=event_id, after=after)
        return found if isinstance(found, Refused) else found["event"]

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        cursor = ""
        while True:
            page = await self.ask(key, "events", correlation_id=name, limit=limit, after=after, cursor=cursor)
            if isinstance(page, Refused):
                return page
            found += page["events"]
            cursor = page["next"]
            if not cursor:
                return found

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        page = await self.ask(key, "events", observable=value, limit=limit)
        return page if isinstance(page, Refused) else page["events"]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        found = await self.ask(key, "counts", since=since or None, until=until or None)
        return found if isinstance(found, Refused) else counted(found)

    async def sql(self, key: str) -> Refused | str:
        found = await self.ask(key, "sql", sql="SELECT 1")
        return found if isinstance(found, Refused) else str(found)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        found = await self.ask(key, "command", kind=kind, entity_id=name, command=command)
        return found if isinstance(found, Refused) else found["version"]

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        found = await self.ask(key, "entity", kind=kind, entity_id=name)
        return found if isinstance(found, Refused) else {"version": found["version"], "state": found["state"]}

    async def status(self, key: str) -> dict[str, Any] | Refused:
        return await self.ask(key, "status")  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> AsyncIterator[Reader | Refused]:
        async with self.connected(key) as one:
            if isinstance(one, Refused):
                yield one
                return
            asked = {"type": "subscribe", "id": "s", "start": start, "source": source, "types": types}
            await one.send(json.dumps(asked))
            answer = json.loads(await one.recv())
            if answer["type"] != "reply":
                yield refusal(answer)
                return
            yield _Taking(one)


class _Taking:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._found: list[tuple[str, dict[str, Any]]] = []

    async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        while len(self._found) < count:
            told = json.loads(await self._connection.recv())
            if told["type"] == "events":
                assert (told["id"], told["left_out"]) == ("s", 0)
                self._found += [(item["position"], item["event"]) for item in told["events"]]
        taken, self._found = self._found[:count], self._found[count:]
        return taken


def refusal(told: dict[str, Any]) -> Refused:
    assert told["type"] == "error", told
    assert told["problem"]
    return Refused(told["code"], told["problem"])
