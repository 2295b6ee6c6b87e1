"""The command `apikeys`: make keys, show and revoke them, and see what was refused."""

from __future__ import annotations

import contextlib
import getpass
from typing import Annotated

from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.entities.access_key import KIND, SCOPES, Grant, Revoke, Scope
from tidegate.errors import QueryError

__all__ = ["apikeys"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]

apikeys = App(name="apikeys", help="Keys for the edges: create, list, revoke; what was refused.")


@apikeys.command
async def create(
    *,
    scope: Annotated[list[Scope], Parameter(name="--scope", negative="")],
    tenant: str = "",
    source: Annotated[list[str] | None, Parameter(name="--source", negative="")] = None,
    rate: float = 0.0,
    max_body: int = 0,
    days: float = 0.0,
    note: str = "",
    json: Json = False,
    settings: Given,
) -> int:
    """Make a key and print it, this once: the log has only a hash of it.

    Parameters
    ----------
    scope
        What it is for: publish, subscribe, query, command, admin; may be given several times.
    tenant
        Its events become this tenant's, and it sees no others. Default: all tenants.
    source
        It publishes to, and sees, these sources only; may be given several times. Default: all.
    rate
        Requests and published records a second, together. Default: `auth.rate_per_second`.
    max_body
        Bytes of a request, after inflating. Default: `auth.max_body_bytes`.
    days
        It expires after so long. Default: never.
    note
        What it is for, for people.
    json
        Print one JSON object.
    """
    import time

    import msgspec

    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.auth.keys import new_key

    grant = Grant(
        scopes=tuple(one for one in SCOPES if one in scope),
        tenant=tenant,
        sources=tuple(source or ()),
        rate_per_second=rate,
        max_body_bytes=max_body,
        expires_ms=int((time.time() + days * 86_400) * 1000) if days else 0,
    )
    key_id, key, command = new_key(grant, note, getpass.getuser())
    async with opened_log(settings) as (bus, log):
        await System(bus, log).ask(KIND, key_id, command, command_id=f"create-{key_id}")
    print(msgspec.json.encode({"id": key_id, "key": key}).decode() if json else key)
    return 0


@apikeys.command(name="list")
async def list_(*, json: Json = False, settings: Given) -> int:
    """List all keys, with what they may do; never the keys themselves.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    import msgspec

    from tidegate.app import opened_log
    from tidegate.auth.keys import Keyring

    ring = Keyring()
    async with opened_log(settings) as (bus, log):
        await ring.refresh(bus, log)
    rows = [
        {
            "id": key_id,
            "status": "revoked" if one.revoked_ms else "active",
            "scopes": " ".join(one.grant.scopes),
            "tenant": one.grant.tenant or "(all)",
            "sources": " ".join(one.grant.sources) or "(all)",
            "rate": one.grant.rate_per_second or "",
            "created": _time(one.created_ms),
            "by": one.created_by,
            "expires": _time(one.grant.expires_ms),
            "note": one.note,
        }
        for key_id, one in ring.known.items()
        if one.grant is not None
    ]
    if json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    elif rows:
        from rich.console import Console

        from tidegate.cli.local import table

        Console().print(table("keys", rows))
    else:
        print("no keys")
    return 0


def _time(ms: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}" if ms else ""


@apikeys.command
async def revoke(key_id: str, /, *, reason: str = "", settings: Given) -> int:
    """Have a key opened by nothing any more, within a second, for good.

    Parameters
    ----------
    key_id
        The 16 digits after `tg_`.
    """
    from tidegate.actor.system import System
    from tidegate.app import opened_log

    if key_id.startswith("tg_"):
        raise QueryError("give the id of the key, its 16 digits after tg_, and not the key: commands can be seen")
    async with opened_log(settings) as (bus, log):
        await System(bus, log).ask(KIND, key_id, Revoke(getpass.getuser(), reason))
    print(f"{key_id} is revoked")
    return 0


@apikeys.command
async def audit(*, limit: int = 50, settings: Given) -> int:
    """Print the latest of what was refused, and of what was commanded and administered, one JSON object a line."""
    from collections import deque

    from tidegate import subject
    from tidegate.app import opened_log
    from tidegate.log import lines_of

    latest: deque[bytes] = deque(maxlen=max(0, limit))
    async with (
        opened_log(settings) as (_, log),
        contextlib.aclosing(log.read(subject.entity("audit", 0))) as messages,
    ):
        async for message in messages:
            latest.extend(lines_of(message))
    for line in latest:
        print(line.decode())
    return 0
