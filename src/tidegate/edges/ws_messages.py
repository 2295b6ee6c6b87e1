"""The messages of the WebSocket edge: JSON objects in text frames, each with its kind in `type`.

Invariant: every request is answered with one `reply` or one `error` that bears its `id`, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.edges import framing
from tidegate.entities.selection import EventType
from tidegate.errors import RefusedError
from tidegate.query import TierName
from tidegate.service import Item, Slow

__all__ = [
    "Ack",
    "Auth",
    "Command",
    "Counts",
    "Entity",
    "Event",
    "Events",
    "Message",
    "Publish",
    "Sql",
    "Status",
    "Subscribe",
    "Unsubscribe",
    "decode",
    "error",
    "events",
    "events_head",
    "ident_of",
    "reply",
]

Ident = Annotated[str, Meta(max_length=100)]
_PIECE_BYTES = 1024 * 1024
"""Events are sent in messages of about this size, so that no single one fills a peer's memory."""


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    id: Ident = ""
    """Comes back with the answer; that of `subscribe` also names the subscription."""


class Auth(_Request, frozen=True):
    """First message of a client that cannot set the header `Authorization`, as in a browser."""

    token: str


class Subscribe(_Request, frozen=True):
    start: str = "now"
    """`now`, `start`, a time of logging (RFC 3339, or 15m, 2h), or a position: behind it."""
    types: list[EventType] = []
    source: str = ""
    correlation_id: str = ""
    min_severity: int = 0
    fields: dict[str, str | int | float | bool | None] = {}
    buffer: int = 1000
    """Events that are kept for a slow reader, or wait for its acknowledgement."""
    slow: Slow = "hold"
    acks: bool = False


class Unsubscribe(_Request, frozen=True):
    subscription: Ident


class Ack(_Request, frozen=True):
    """All events of the subscription up to this position are dealt with; answered when it has an `id`."""

    subscription: Ident
    position: str


class Publish(_Request, frozen=True):
    """Exactly one of `records`, `text` and `body`."""

    source: str
    records: list[Raw] | None = None
    """Any JSON values: native records, or envelopes."""
    text: str | None = None
    body: bytes | None = None
    """Base64."""
    content_type: str = ""
    content_encoding: str = ""
    key: str = ""
    """Under the same one, what was stored in the last two minutes is not stored again."""


class Event(_Request, frozen=True):
    event_id: str
    tier: TierName | None = None
    after: str | None = None


class Events(_Request, frozen=True):
    """Exactly one of `correlation_id` and `observable`."""

    correlation_id: str | None = None
    observable: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    tier: TierName | None = None
    after: str | None = None
    cursor: str = ""


class Counts(_Request, frozen=True):
    since: str | None = None
    until: str | None = None
    after: str | None = None


class Sql(_Request, frozen=True):
    sql: str
    max_rows: int = 1000
    timeout_seconds: float = 10.0
    after: str | None = None


class Command(_Request, frozen=True):
    kind: str
    entity_id: str
    command: dict[str, Any]
    command_id: str = ""
    expected_version: int | None = None


class Entity(_Request, frozen=True):
    kind: str
    entity_id: str


class Status(_Request, frozen=True):
    pass


Message = (
    Auth | Subscribe | Unsubscribe | Ack | Publish | Event | Events | Counts | Sql | Command | Entity | Status
)  # fmt: skip

decode = msgspec.json.Decoder(Message).decode


class _Any(Struct):
    id: Any = ""


_ANY = msgspec.json.Decoder(_Any)


def ident_of(text: str) -> str:
    """The id of a message that cannot be understood, as far as there is one."""
    try:
        found = _ANY.decode(text).id
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return found if isinstance(found, str) and len(found) <= 100 else ""


def reply(ident: str, result: Any) -> str:
    return _text({"type": "reply", "id": ident, "result": result})


def error(ident: str, refused: RefusedError, kind: Literal["error", "ended"] = "error") -> str:
    """`ended`: it was the subscription of that id, and nothing more comes of it."""
    told: dict[str, Any] = {"type": kind, "id": ident, "code": refused.code.value, "problem": refused.problem}
    if refused.after:
        told["after_seconds"] = round(refused.after, 3)
    if refused.details:
        told["details"] = refused.details
    return _text(told)


async def events(items: Sequence[Item], window: int) -> list[tuple[int, framing.Rest]]:
    """All of the messages about these events but their beginnings (`events_head`); `window` is as in `framing.rest`."""
    pieces: list[tuple[int, framing.Rest]] = []
    parts: list[bytes] = []
    size = 0
    for position, line in items:
        if parts and size + len(line) > _PIECE_BYTES:
            pieces.append((len(parts), await _rest(parts, window)))
            parts, size = [], 0
        parts.append(b'{"position":"%b","event":%b}' % (position.encode(), line))
        size += len(line)
    if parts:
        pieces.append((len(parts), await _rest(parts, window)))
    return pieces


async def _rest(parts: list[bytes], window: int) -> framing.Rest:
    return await framing.rest(b',"count":%d,"events":[%b]}' % (len(parts), b",".join(parts)), window)


def events_head(ident: str, left_out: int) -> bytes:
    return msgspec.json.encode({"type": "events", "id": ident, "left_out": left_out})[:-1]


def _text(told: Any) -> str:
    return msgspec.json.encode(told, enc_hook=str).decode()
