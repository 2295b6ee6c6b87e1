"""The command `tidegate channels`: how the calls of the gateway to other services go."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from tidegate.config import Settings

__all__ = ["channels"]


async def channels(
    *,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    settings: Annotated[Settings, Parameter(parse=False)],
) -> int:
    """List the channels of all gateways that answer: breaker, calls, errors, latency, bytes.

    Parameters
    ----------
    json
        Print one JSON object a line.
    """
    from tidegate.app import opened_log
    from tidegate.presence import gather

    async with opened_log(settings) as (bus, _):
        gateways = [one for one in await gather(bus) if one.process == "gateway"]
    rows = [
        {"gateway": f"{one.pid}@{one.host}", **row}
        for one in gateways
        for row in (one.sections or {}).get("channels", [])
    ]
    if json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return 0
    from rich.console import Console

    from tidegate.cli.local import table

    if rows:
        Console().print(table("channels", rows))
    else:
        print("no channels" if gateways else "no gateway answers; is the process `gateway` up?")
    return 0
