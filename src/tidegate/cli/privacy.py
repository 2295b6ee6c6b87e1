"""The command `tidegate privacy`: budgets of differential privacy, and counts that spend them."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from tidegate.config import Settings

__all__ = ["privacy"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Source = Annotated[str, Parameter(help="The source whose events it is about.")]

privacy = App(name="privacy", help="Counts with differential privacy, and the budgets that they spend.")


@privacy.command
async def grant(
    source: Source, epsilon: float, /, *, by: str, note: str = "", command_id: str = "", settings: Given
) -> int:
    """Add to the budget of a source.

    Parameters
    ----------
    epsilon
        How much may be learned; 1 in all is a usual choice.
    by
        Who grants it.
    note
        Why.
    command_id
        A grant that is given again under the same id takes effect only once.
    """
    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.entities.budget import Grant
    from tidegate.privacy import millionths

    async with opened_log(settings) as (bus, log):
        await System(bus, log).ask("budget", source, Grant(millionths(epsilon), by, note), command_id=command_id)
    return await show(source, settings=settings)


@privacy.command
async def show(source: Source, /, *, json: Json = False, settings: Given) -> int:
    """Show what was granted, spent and refused."""
    import msgspec

    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.entities.budget import Budget

    async with opened_log(settings) as (bus, log):
        answer = await System(bus, log).get("budget", source)
    state = msgspec.json.decode(answer.state, type=Budget | None) or Budget()
    found = {
        "granted": state.granted / 1e6,
        "spent": state.spent / 1e6,
        "left": state.left / 1e6,
        "queries": state.queries,
        "refused": state.refused,
    }
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        print(f"{source}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
    return 0


@privacy.command
async def count(
    source: Source,
    /,
    *,
    epsilon: float,
    by: Literal["class_uid", "severity_id"] | None = None,
    class_uid: int | None = None,
    since: str | None = None,
    until: str | None = None,
    after: str | None = None,
    json: Json = False,
    settings: Given,
) -> int:
    """Count events in the lake, with noise, and spend epsilon of the source's budget.

    Parameters
    ----------
    epsilon
        How much to spend: 0.1 gives counts that are within 30 in 19 cases of 20.
    by
        Count for each value of this; it costs no more.
    class_uid
        Only events of this class.
    since
        Not before: RFC 3339, milliseconds since 1970, or how long ago (15m, 2h, 7d).
    until
        Before; as `--since`.
    after
        Wait until this can be seen: a receipt (INGEST/0/12), or a place in the log (LOG/345).
    json
        Print one JSON object.
    """
    import contextlib

    import msgspec

    from tidegate.actor.system import System
    from tidegate.app import opened_log, serving_models
    from tidegate.privacy import PrivateCounts
    from tidegate.query import Queries, parse_time

    async with contextlib.AsyncExitStack() as stack:
        bus, log = await stack.enter_async_context(opened_log(settings))
        models = await serving_models(settings, log, ["lake"])
        stack.push_async_callback(models["lake"].aclose)
        found = await PrivateCounts(System(bus, log), Queries(models, log)).count(
            source,
            epsilon,
            by=by,
            class_uid=class_uid,
            since_ms=parse_time(since) if since else None,
            until_ms=parse_time(until) if until else None,
            after=after,
        )
    if json:
        print(msgspec.json.encode(found).decode())
        return 0
    for group in found.groups:
        print(f"{group.count}" if by is None else f"{by} {group.value}: {group.count}")
    print(f"each within {found.within} in 19 cases of 20; spent {found.epsilon:g} of the budget of {source}")
    return 0
