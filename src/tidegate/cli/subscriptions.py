"""The command `tidegate subscriptions`: list, show, pause, resume, seek, delete."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError

if TYPE_CHECKING:
    from tidegate.subscriptions.manager import Place, SubscriptionManager

__all__ = ["subscriptions"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Name = Annotated[str, Parameter(help="Its name, or name/group; the group is `main` otherwise.")]

subscriptions = App(name="subscriptions", help="Who reads the events of the log: list, pause, resume, seek, delete.")


@asynccontextmanager
async def _manager(settings: Settings) -> AsyncIterator[SubscriptionManager]:
    from tidegate.app import opened_log
    from tidegate.subscriptions.manager import SubscriptionManager

    async with opened_log(settings) as (bus, log):
        yield SubscriptionManager(bus, log)


def _split(name: str) -> tuple[str, str]:
    first, _, group = name.partition("/")
    return first, group or "main"


@subscriptions.command(name="list")
async def list_(*, json: Json = False, settings: Given) -> int:
    """List all, with status, lag, counts, and what was tried after the last failure.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    import msgspec

    async with _manager(settings) as manager:
        rows = await manager.rows()
    if json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return 0
    from rich.console import Console

    from tidegate.cli.local import table

    if rows:
        Console().print(table("subscriptions", rows))
    else:
        print("no subscriptions")
    return 0


@subscriptions.command
async def show(name: Name, /, *, settings: Given) -> int:
    """Show all that is known of one, as JSON: its settings, position, totals, lag, last failure."""
    import msgspec

    from tidegate.entities.subscription import recovery

    first, group = _split(name)
    async with _manager(settings) as manager:
        state, lag = await manager.get(first, group=group), await manager.lag(first, group=group)
    shown = {"lag": msgspec.to_builtins(lag), "recovery": recovery(state), **msgspec.to_builtins(state)}
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    return 0


@subscriptions.command
async def pause(name: Name, /, *, reason: str = "", settings: Given) -> int:
    """Have all members stop after the batch they are at.

    Parameters
    ----------
    reason
        Shown by `list`, `show` and `tidegate status`.
    """
    first, group = _split(name)
    async with _manager(settings) as manager:
        await manager.pause(first, group=group, reason=reason)
    print(f"{first}/{group} is paused")
    return 0


@subscriptions.command
async def resume(name: Name, /, *, settings: Given) -> int:
    """Go on from where it was paused."""
    first, group = _split(name)
    async with _manager(settings) as manager:
        await manager.resume(first, group=group)
    print(f"{first}/{group} is active")
    return 0


@subscriptions.command
async def seek(name: Name, to: str, /, *, settings: Given) -> int:
    """Go on from elsewhere in the log.

    Parameters
    ----------
    to
        `start`, `end`, a sequence of the stream LOG, or a time such as 2026-05-04T10:00:00Z.
    """
    first, group = _split(name)
    async with _manager(settings) as manager:
        await manager.seek(first, _place(to), group=group)
    print(f"{first}/{group} goes on from {to}")
    return 0


@subscriptions.command
async def delete(name: Name, /, *, settings: Given) -> int:
    """End it: its members stop, its consumer is removed; made again it begins anew."""
    first, group = _split(name)
    async with _manager(settings) as manager:
        await manager.delete(first, group=group)
    print(f"{first}/{group} is deleted")
    return 0


def _place(text: str) -> Place:
    if text in ("start", "end"):
        return cast("Place", text)
    if text.isdecimal():
        return int(text)
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(f"{text!r} is not start, end, a sequence, or a time such as 2026-05-04T10:00:00Z") from None
    return at if at.tzinfo else at.astimezone()
