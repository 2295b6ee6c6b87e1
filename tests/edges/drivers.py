"""One driver for each edge: the same calls, and answers in the same form, so that one suite can compare them.

A further edge is a further class here, and an entry in `drivers`. `Refused` compares by code alone: each edge may
say a little more or less about why.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import msgspec

from tests.edges.world import World
from tidegate.entities.access_key import Scope
from tidegate.entities.selection import EventFilter
from tidegate.errors import Code, RefusedError
from tidegate.service import Service


@dataclass(frozen=True)
class Refused:
    code: str
    problem: str = field(default="", compare=False)


@dataclass(frozen=True)
class Stored:
    records: int
    duplicate: bool = False
    refused: tuple[int, ...] = ()
    positions: tuple[str, ...] = field(default=(), compare=False)


Events = list[dict[str, Any]]
Counts = list[tuple[int, int, int, int]]
"""Minute, class, severity, count."""


def counted(found: Any, minute: str = "minute_ms", of: str = "class_uid", severity: str = "severity_id") -> Counts:
    """In order, from objects with these members."""
    return sorted((one[minute], one[of], one[severity], one["count"]) for one in found)


class Reader(Protocol):
    async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """So many events with their positions."""


class Driver(Protocol):
    name: str

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused: ...

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused: ...

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused: ...

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused: ...

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused: ...

    async def sql(self, key: str) -> Refused | str: ...

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused: ...

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused: ...

    async def status(self, key: str) -> dict[str, Any] | Refused: ...

    def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> contextlib.AbstractAsyncContextManager[Reader | Refused]: ...


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]


class ServiceDriver:
    """No edge at all: what the others are compared with."""

    name = "service"

    def __init__(self, world: World) -> None:
        self._world = world
        self._service: Service = world.service

    async def _enter(self, key: str, scope: Scope | None) -> Any:
        return await self._world.gate.enter(self._world.keys[key], scope, "test")

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused:
        try:
            who = await self._enter(key, "publish")
            # Edges hand over in parts what is long.
            given = body if len(body) <= 1024 * 1024 else _parts(body)
            found = await self._service.publish(who, source, given, content_type, encoding, key=idempotency)
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        duplicate = found.duplicates == len(found.positions)
        return Stored(found.records, duplicate, tuple(one.index for one in found.refused), tuple(found.positions))

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        try:
            _, line = await self._service.event(await self._enter(key, "query"), event_id, None, after or None)
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        return json.loads(line)  # type: ignore[no-any-return]

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        cursor = ""
        try:
            while True:
                page = await self._service.by_correlation(
                    await self._enter(key, "query"), name, limit, cursor=cursor, after=after or None
                )
                found += [json.loads(line) for line in page.events]
                cursor = page.cursor
                if not cursor:
                    return found
        except RefusedError as error:
            return Refused(error.code.value, error.problem)

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        try:
            page = await self._service.by_observable(await self._enter(key, "query"), value, limit=limit)
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        return [json.loads(line) for line in page.events]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        try:
            found = await self._service.counts(await self._enter(key, "query"), since, until)
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        return counted(msgspec.to_builtins(found))

    async def sql(self, key: str) -> Refused | str:
        try:
            return str(await self._service.sql(await self._enter(key, "query"), "SELECT 1"))
        except RefusedError as error:
            return Refused(error.code.value, error.problem)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        try:
            return (await self._service.command(await self._enter(key, "command"), kind, name, command)).version
        except RefusedError as error:
            return Refused(error.code.value, error.problem)

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        try:
            answer = await self._service.entity(await self._enter(key, "query"), kind, name)
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        return {"version": answer.version, "state": json.loads(bytes(answer.state))}

    async def status(self, key: str) -> dict[str, Any] | Refused:
        try:
            told = await self._service.status(await self._enter(key, None))
        except RefusedError as error:
            return Refused(error.code.value, error.problem)
        return msgspec.json.decode(msgspec.json.encode(told))  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> AsyncIterator[Reader | Refused]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                who = await self._enter(key, "subscribe")
                feed = await stack.enter_async_context(
                    self._service.subscribe(who, start=start, where=EventFilter(source=source), types=types)
                )
            except RefusedError as error:
                yield Refused(error.code.value, error.problem)
                return

            class Taking:
                async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
                    found: list[tuple[str, dict[str, Any]]] = []
                    while len(found) < count:
                        batch = await feed.next(count - len(found), timeout_seconds=10)
                        assert batch.items, f"only {len(found)} of {count} events have come"
                        found += [(one.position, json.loads(one.line)) for one in batch.items]
                    return found

            yield Taking()


class RestDriver:
    """HTTP, over real connections."""

    name = "rest"

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self._world = world
        self._client = client

    def _headers(self, key: str, **more: str) -> dict[str, str]:
        token = self._world.keys[key]
        headers = {name.replace("_", "-"): value for name, value in more.items() if value}
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers

    @staticmethod
    def refusal(answer: httpx.Response) -> Refused:
        """Of a problem, after looking whether it is a whole one."""
        assert answer.headers["content-type"].split(";")[0] == "application/problem+json", answer.text
        body = answer.json()
        assert body["status"] == answer.status_code
        assert body["title"]
        assert body["type"]
        assert body["detail"]
        return Refused(body.get("code", ""), body["detail"])

    async def publish(
        self, key: str, source: str, body: bytes, content_type: str = "", encoding: str = "", idempotency: str = ""
    ) -> Stored | Refused:
        answer = await self._client.post(
            f"{self._world.ingest_url}/v1/events/{source}",
            content=body,
            headers=self._headers(
                key, Content_Type=content_type, Content_Encoding=encoding, Idempotency_Key=idempotency
            ),
        )
        if answer.status_code != 202:
            return self.refusal(answer)
        found = answer.json()
        refused = tuple(one["index"] for one in found.get("refused", ()))
        return Stored(found["records"], found.get("duplicate", False), refused, tuple(found["positions"]))

    async def _get(self, url: str, key: str, **query: str | int) -> Any:
        answer = await self._client.get(
            url, params={name: value for name, value in query.items() if value}, headers=self._headers(key)
        )
        return answer.json() if answer.status_code == 200 else self.refusal(answer)

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        return await self._get(f"{self._world.query_url}/v1/events/{event_id}", key, after=after)  # type: ignore[no-any-return]

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        cursor = ""
        while True:
            page = await self._get(
                f"{self._world.query_url}/v1/events",
                key,
                correlation_id=name,
                limit=limit,
                after=after,
                cursor=cursor,
            )
            if isinstance(page, Refused):
                return page
            assert page["count"] == len(page["events"])
            found += page["events"]
            cursor = page.get("next", "")
            if not cursor:
                return found

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        page = await self._get(f"{self._world.query_url}/v1/events", key, observable=value, limit=limit)
        return page if isinstance(page, Refused) else page["events"]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        found = await self._get(f"{self._world.query_url}/v1/counts", key, since=since, until=until)
        return found if isinstance(found, Refused) else counted(found["counts"])

    async def sql(self, key: str) -> Refused | str:
        answer = await self._client.post(
            f"{self._world.query_url}/v1/sql", json={"sql": "SELECT 1"}, headers=self._headers(key)
        )
        return answer.text if answer.status_code == 200 else self.refusal(answer)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        answer = await self._client.post(
            f"{self._world.ingest_url}/v1/entities/{kind}/{name}",
            json={"command": command},
            headers=self._headers(key),
        )
        return answer.json()["version"] if answer.status_code == 200 else self.refusal(answer)

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        found = await self._get(f"{self._world.ingest_url}/v1/entities/{kind}/{name}", key)
        return found if isinstance(found, Refused) else {"version": found["version"], "state": found["state"]}

    async def status(self, key: str) -> dict[str, Any] | Refused:
        return await self._get(f"{self._world.ingest_url}/v1/status", key)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def subscribe(
        self, key: str, start: str = "now", source: str = "", types: tuple[str, ...] = ()
    ) -> AsyncIterator[Reader | Refused]:
        query: list[tuple[str, str | int | float | bool | None]] = [
            ("start", start),
            ("source", source),
            *(("types", one) for one in types),
        ]
        async with self._client.stream(
            "GET", f"{self._world.ingest_url}/v1/stream", params=query, headers=self._headers(key)
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                yield self.refusal(answer)
                return
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith(":")

            class Taking:
                async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
                    found: list[tuple[str, dict[str, Any]]] = []
                    position = ""
                    while len(found) < count:
                        line = await anext(lines)
                        if line.startswith("id: "):
                            position = line[4:]
                        elif line.startswith("data: "):
                            found.append((position, json.loads(line[6:])))
                    return found

            yield Taking()


def drivers(world: World, client: httpx.AsyncClient) -> list[Driver]:
    """One for each edge."""
    from tests.edges.graphql_driver import GraphQLDriver
    from tests.edges.websocket_driver import WebSocketDriver

    return [ServiceDriver(world), RestDriver(world, client), WebSocketDriver(world), GraphQLDriver(world, client)]


CODES = {one.value for one in Code}
