"""Who is there: a request on one subject that every process of Tidegate answers, wherever it runs.

Invariant: a process answers twice, at once with its name and then with what it has to report, so that one whose report
takes long, or never comes, is known all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from nats.aio.msg import Msg

from tidegate import subject
from tidegate.bus import Bus
from tidegate.errors import BusUnavailableError

__all__ = ["Presence", "Sections", "answering", "gather"]

Sections = dict[str, list[dict[str, Any]]]
"""Title -> rows."""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """One process, and what it reports."""

    process: str
    host: str
    pid: int
    address: str
    """Of its HTTP server, as it is bound."""
    waiting_for: str = ""
    """Empty: it is ready."""
    sections: Sections | None = None
    """None: not yet, or not in time."""


@contextlib.asynccontextmanager
async def answering(
    bus: Bus, process: str, address: str, ready: Callable[[], str | None], report: Callable[[], Awaitable[Sections]]
) -> AsyncIterator[None]:
    """Answer until the block ends; `ready` tells what it waits for, if for anything."""

    async def answer(message: Msg) -> None:
        here = Presence(
            process=process, host=socket.gethostname(), pid=os.getpid(), address=address, waiting_for=ready() or ""
        )
        with contextlib.suppress(BusUnavailableError):
            await bus.send(message.reply, msgspec.json.encode(here))
            told = msgspec.structs.replace(here, sections=await report())
            await bus.send(message.reply, msgspec.json.encode(told))

    subscription = await bus.subscribe(subject.STATUS, answer)
    try:
        yield
    finally:
        await bus.unsubscribe(subscription)


async def gather(bus: Bus, *, seconds: float = 0.5, patience_seconds: float = 5.0) -> list[Presence]:
    """Everyone who says within `seconds` that he is there; their reports are waited for until `patience_seconds`."""
    found: dict[tuple[str, int, str], Presence] = {}
    changed = asyncio.Event()

    async def take(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):  # where nobody is there, the server says so without a body
            one = msgspec.json.decode(message.data, type=Presence)
            found[one.host, one.pid, one.process] = one
            changed.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, take)
    try:
        began = time.monotonic()
        await bus.send(subject.STATUS, b"", inbox)
        await asyncio.sleep(seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, patience_seconds - (time.monotonic() - began))):
                while any(one.sections is None for one in found.values()):
                    changed.clear()
                    await changed.wait()
    finally:
        await bus.unsubscribe(subscription)
    return sorted(found.values(), key=lambda one: (one.process, one.host, one.pid))
