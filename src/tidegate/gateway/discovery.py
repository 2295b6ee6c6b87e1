"""Targets that NATS micro services (ADR-32) make known themselves, by answering `$SRV.INFO`.

Invariant: only services whose names the configuration allows become targets, and only their plain subjects outside
those of NATS and Tidegate count.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from tidegate.bus import Bus
from tidegate.gateway.configuration import NAME, safe_subject

__all__ = ["find"]

_WAIT_SECONDS = 0.5
_MOST_ANSWERS = 1000


class _Endpoint(Struct):
    name: str
    subject: str


class _Service(Struct):
    name: str
    endpoints: list[_Endpoint] = []


async def find(bus: Bus) -> dict[str, dict[str, str]]:
    """Service -> endpoint -> subject, of all that answer. Raises BusUnavailableError."""
    found: dict[str, dict[str, str]] = {}

    async def take(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            one = msgspec.json.decode(message.data, type=_Service)
            if NAME.fullmatch(one.name) and (one.name in found or len(found) < _MOST_ANSWERS):
                plain = {each.name: each.subject for each in one.endpoints[:100] if safe_subject(each.subject)}
                found.setdefault(one.name, {}).update(plain)

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, take)
    try:
        await bus.send("$SRV.INFO", b"", inbox)
        await asyncio.sleep(_WAIT_SECONDS)
    finally:
        await bus.unsubscribe(subscription)
    return found
