"""Pages of an answer that is a list, latest first: a cursor says where the last page ended.

Invariant: what is logged between two pages does not move their seam; a cursor whose place is gone is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from tidegate.errors import Code, RefusedError
from tidegate.query import MAX_EVENTS, Answer, TierName

__all__ = ["Cursor", "Page", "paged"]


class Cursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    tier: TierName
    last: str
    """Id of the last event of the page."""
    seen: int
    """Events up to and with that one, on all pages."""

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Raises RefusedError."""
        try:
            padded = text.encode() + b"=" * (-len(text) % 4)
            return msgspec.json.decode(base64.urlsafe_b64decode(padded), type=cls)
        except (msgspec.MsgspecError, binascii.Error, UnicodeError, ValueError) as error:
            raise RefusedError(Code.INVALID, f"{text[:60]!r} is no cursor of a page") from error


class Page(Struct, frozen=True, kw_only=True):
    tier: str
    events: list[bytes]
    complete: bool
    cursor: str
    """For the page behind this one; "": there is none."""


class _Id(Struct):
    uid: str = ""


class _Event(Struct):
    metadata: _Id = msgspec.field(default_factory=_Id)


_EVENT = msgspec.json.Decoder(_Event)
Fetch = Callable[[int, TierName | None], Awaitable[Answer]]


async def paged(fetch: Fetch, limit: int, tier: TierName | None, cursor: str) -> Page:
    """`limit` events of what `fetch(most, tier)` finds, behind the cursor."""
    if not 1 <= limit <= MAX_EVENTS:
        raise RefusedError(Code.INVALID, f"limit must be from 1 to {MAX_EVENTS}, not {limit}")
    before = Cursor.read(cursor) if cursor else None
    if before is None:
        answer, start = await fetch(min(limit + 1, MAX_EVENTS), tier), 0
    else:
        answer, start = await _behind(fetch, before, limit)
    events = answer.events[start : start + limit]
    more = len(answer.events) > start + limit
    following = Cursor(answer.tier, _id(events[-1]), start + limit).text() if more else ""  # type: ignore[arg-type]
    return Page(tier=answer.tier, events=events, complete=answer.complete, cursor=following)


async def _behind(fetch: Fetch, before: Cursor, limit: int) -> tuple[Answer, int]:
    most = before.seen + limit + 1
    while True:
        most = min(most, MAX_EVENTS)
        answer = await fetch(most, before.tier)
        for place, line in enumerate(answer.events):
            if _id(line) == before.last:
                if len(answer.events) > place + limit or len(answer.events) < most or most == MAX_EVENTS:
                    return answer, place + 1
                break
        else:
            if len(answer.events) < most or most == MAX_EVENTS:
                raise RefusedError(Code.INVALID, "the place of this cursor is not there any more; begin anew")
        most *= 2


def _id(line: bytes) -> str:
    return _EVENT.decode(line).metadata.uid
