"""The driver of the NATS micro services: requests of a NATS client that knows nothing of Tidegate."""

from __future__ import annotations

import json
from typing import Any

import nats
from nats.aio.client import Client

from tests.edges.drivers import Counts, Events, Refused, ServiceDriver, counted
from tidegate.edges.problems import STATUS
from tidegate.errors import Code


class MicroDriver(ServiceDriver):
    """Asks over NATS; what NATS itself is for, publishing and subscribing, goes to the contract."""

    name = "micro"
    _client: Client

    async def __aenter__(self) -> MicroDriver:
        self._client = await nats.connect(self._world.settings.nats_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, key: str, subject: str, body: Any) -> Any:
        token = self._world.keys[key]
        headers = {"Tidegate-Key": token} if token else None
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self._client.request(subject, data, timeout=15, headers=headers)
        told = json.loads(answer.data)
        if not answer.headers or "Nats-Service-Error-Code" not in answer.headers:
            return told
        assert answer.headers["Nats-Service-Error-Code"] == str(STATUS[Code(told["code"])][0])
        assert answer.headers["Nats-Service-Error"] == told["detail"]
        return Refused(told["code"], told["detail"])

    async def event(self, key: str, event_id: str, after: str = "") -> dict[str, Any] | Refused:
        found = await self.ask(key, "svc.query.event", {"id": event_id, "after": after or None})
        return found if isinstance(found, Refused) else found["event"]

    async def correlation(self, key: str, name: str, limit: int = 100, after: str = "") -> Events | Refused:
        found: Events = []
        asked = {"correlation_id": name, "limit": limit, "after": after or None, "cursor": ""}
        while True:
            page = await self.ask(key, "svc.query.find", asked)
            if isinstance(page, Refused):
                return page
            assert page["count"] == len(page["events"])
            found += page["events"]
            asked["cursor"] = page["next"]
            if not page["next"]:
                return found

    async def observable(self, key: str, value: str, limit: int = 100) -> Events | Refused:
        page = await self.ask(key, "svc.query.find", {"observable": value, "limit": limit})
        return page if isinstance(page, Refused) else page["events"]

    async def counts(self, key: str, since: str = "", until: str = "") -> Counts | Refused:
        found = await self.ask(key, "svc.query.counts", {"since": since or None, "until": until or None})
        return found if isinstance(found, Refused) else counted(found["counts"])

    async def sql(self, key: str) -> Refused | str:
        found = await self.ask(key, "svc.query.sql", {"sql": "SELECT 1"})
        return found if isinstance(found, Refused) else str(found)

    async def command(self, key: str, kind: str, name: str, command: dict[str, Any]) -> int | Refused:
        found = await self.ask(key, "svc.entities.command", {"kind": kind, "id": name, "command": command})
        return found if isinstance(found, Refused) else int(found["version"])

    async def entity(self, key: str, kind: str, name: str) -> dict[str, Any] | Refused:
        found = await self.ask(key, "svc.entities.get", {"kind": kind, "id": name})
        return found if isinstance(found, Refused) else {"version": found["version"], "state": found["state"]}

    async def status(self, key: str) -> dict[str, Any] | Refused:
        return await self.ask(key, "svc.entities.status", {})  # type: ignore[no-any-return]
