"""A schema registry (Confluent's HTTP API): schemas by their ids, and ids for schemas of ours.

Invariant: a schema is asked for once; an id never gets another meaning, and one that is unknown is asked for again only
after a while, however many records name it.
"""

from __future__ import annotations

import asyncio
import base64
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from tidegate.errors import TierUnavailableError

__all__ = ["Registry", "Schema"]

_SECONDS = 10.0
_AGAIN_SECONDS = 60.0
_MOST = 10_000
"""Unknown ids that are remembered."""
_TYPE = "application/vnd.schemaregistry.v1+json"


class Schema(msgspec.Struct, frozen=True):
    """A schema as the registry has it."""

    schema: str
    kind: str = msgspec.field(default="AVRO", name="schemaType")
    references: list[object] = []


class _Id(msgspec.Struct, frozen=True):
    id: int


class Registry:
    """One registry at `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        self._url = urlunsplit(parts._replace(netloc=host)).rstrip("/")
        self._headers = {"Accept": _TYPE, "Content-Type": _TYPE}
        if at:
            self._headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
        self._known: dict[int, Schema] = {}
        self._unknown: dict[int, float] = {}

    async def schema(self, number: int) -> Schema | None:
        """The schema with this id; None where there is none. Raises TierUnavailableError."""
        if number in self._known:
            return self._known[number]
        if time.monotonic() - self._unknown.get(number, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return None
        found = await self._ask(f"/schemas/ids/{number}")
        if found is None:
            if len(self._unknown) >= _MOST:
                self._unknown.clear()
            self._unknown[number] = time.monotonic()
            return None
        self._known[number] = msgspec.json.decode(found, type=Schema)
        return self._known[number]

    async def register(self, subject: str, schema: bytes) -> int:
        """The id of an Avro schema under `subject`, where it is registered if it is not there yet."""
        body = msgspec.json.encode({"schema": schema.decode(), "schemaType": "AVRO"})
        found = await self._ask(f"/subjects/{quote(subject, safe='')}/versions", body)
        if found is None:
            raise TierUnavailableError("kafka", f"the schema registry at {self._url} knows no subjects")
        return msgspec.json.decode(found, type=_Id).id

    async def _ask(self, path: str, body: bytes | None = None) -> bytes | None:
        request = urllib.request.Request(f"{self._url}{path}", data=body, headers=self._headers)  # noqa: S310 - http(s)

        def fetch() -> bytes:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content

        try:
            return await asyncio.to_thread(fetch)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                detail = error.read(300).decode(errors="replace")
            problem = f"the schema registry at {self._url} answers {error.code} to {path}: {detail}"
            raise TierUnavailableError("kafka", problem) from error
        except OSError as error:
            raise TierUnavailableError("kafka", f"no schema registry answers at {self._url}: {error}") from error
