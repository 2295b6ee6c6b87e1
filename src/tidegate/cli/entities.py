"""The command `tidegate ask`: commands to entities, and what is known of them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from tidegate.config import Settings

__all__ = ["ask"]


async def ask(
    kind: str,
    entity_id: str,
    command: str = "",
    /,
    *,
    command_id: str = "",
    expected_version: int | None = None,
    timeout: Annotated[float, Parameter(name="--timeout")] = 10.0,
    settings: Annotated[Settings, Parameter(parse=False)],
) -> int:
    """Give a command to an entity and print what came of it, as JSON; without a command, print its state.

    Parameters
    ----------
    kind
        What kind of entity: correlation, alert, window, subscription.
    entity_id
        Which one.
    command
        JSON with the command's tag in `type`: {"type": "alert.acknowledge.v1", "by": "alice"}.
    command_id
        A command that is given again under the same id takes effect only once.
    expected_version
        Refuse unless the entity has this version.
    timeout
        Seconds to wait for the answer.
    """
    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.errors import CommandRefusedError

    try:
        decoded = msgspec.json.decode(command) if command else None
    except msgspec.DecodeError as error:
        raise CommandRefusedError("invalid", f"the command is not JSON: {error}") from error
    async with opened_log(settings) as (bus, log):
        system = System(bus, log)
        if decoded is None:
            answer = await system.get(kind, entity_id, timeout_seconds=timeout)
        else:
            answer = await system.ask(
                kind,
                entity_id,
                decoded,
                command_id=command_id,
                expected_version=expected_version,
                timeout_seconds=timeout,
            )
    print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    return 0
