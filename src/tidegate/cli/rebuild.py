"""Commands that build read models anew, and compare them with the log.

Invariant: what a read model holds and which generation serves are left as they are by every command that fails.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, cast

import anyio
import msgspec
from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError, TierUnavailableError
from tidegate.projection import Generation, Rebuildable

if TYPE_CHECKING:
    from tidegate.log import Log
    from tidegate.rebuild import Make, Outcome, Rebuild
    from tidegate.rederive import Rederivation, Rederived
    from tidegate.tiers.cold import ColdTier
    from tidegate.verify import Compared

__all__ = ["rebuild", "verify"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Tier = Literal["hot", "warm", "lake", "correlations"]
TIERS: tuple[Tier, ...] = ("hot", "warm", "lake", "correlations")
CORRELATION = "correlation"
"""The kind of entity that is rebuilt as `correlations`."""

rebuild = App(name="rebuild", help="Build a read model anew beside the one that serves, and swap it in.")


def _maker(settings: Settings, tier: str) -> Make:
    from tidegate.app import read_models

    def make(generation: int) -> Rebuildable:
        return cast("Rebuildable", read_models(settings, [tier], {tier: generation})[tier])

    return make


@contextlib.asynccontextmanager
async def _archive(settings: Settings, log: Log, wanted: bool) -> AsyncIterator[ColdTier | None]:
    if not wanted:
        yield None
        return
    from tidegate.app import serving_models

    cold = cast("ColdTier", (await serving_models(settings, log, ["cold"]))["cold"])
    try:
        await cold.open()
        yield cold
    finally:
        await cold.aclose()


@rebuild.default
async def rebuild_tier(
    tier: Tier,
    /,
    *,
    from_archive: Flag = False,
    restart: Flag = False,
    json: Json = False,
    settings: Given,
) -> int:
    """Fill a new generation from the log, compare it with the log, and let it serve.

    The present one serves meanwhile, live events keep flowing, and nothing is sent to anybody a second time. A rebuild
    that was interrupted is carried on by the next call.

    Correlations are derived from the events by the rules of the settings as they are now, as if these had always held,
    and compared with the present ones; what people have commanded is decided on anew, and no alert is raised.

    Parameters
    ----------
    from_archive
        Take what the log no longer has from the cold archive.
    restart
        Drop what an interrupted rebuild has done, and begin anew.
    json
        Print one JSON object, and no progress bar.
    """
    from tidegate.app import batching, collect_rarely, opened_log
    from tidegate.entities.correlation import Correlations
    from tidegate.rebuild import Rebuild
    from tidegate.rederive import Rederivation

    collect_rarely()
    async with opened_log(settings) as (bus, log), _archive(settings, log, from_archive) as archive:
        one: Rebuild | Rederivation
        if tier == "correlations":
            one = Rederivation(bus, log, Correlations(settings.correlation), archive=archive)
        else:
            one = Rebuild(log, tier, _maker(settings, tier), limit=batching(settings, tier)[0], archive=archive)
        outcome = await (one.run(restart=restart) if json else _shown(one, tier, restart))
    if json:
        print(msgspec.json.encode({**msgspec.to_builtins(outcome), "events_per_second": round(outcome.rate)}).decode())
        return 0
    print(
        f"{tier}: generation {outcome.generation} serves now, {outcome.events:,} events {outcome.compared};"
        f" {outcome.applied:,} applied in {outcome.fill_seconds:.1f} s ({outcome.rate:,.0f}/s)"
        f"{', carried on from an earlier attempt' if outcome.resumed else ''}."
    )
    print(f"generation {outcome.previous} is kept: `tidegate rebuild rollback {tier}` goes back to it.")
    return 0


async def _shown(one: Rebuild | Rederivation, tier: str, restart: bool) -> Outcome | Rederived:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(f"rebuild {tier}", total=1, rate="")

        async def follow() -> None:
            while True:
                now = one.progress
                rate = f"{bar.tasks[0].speed or 0:,.0f}/s" if now.phase == "fill" else "comparing"
                bar.update(task, total=max(now.total, now.events, 1), completed=now.events, rate=rate)
                await anyio.sleep(0.2)

        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            outcome = await one.run(restart=restart)
            group.cancel_scope.cancel()
    return outcome


@rebuild.command
async def rollback(tier: Tier, /, *, settings: Given) -> int:
    """Let the previous generation serve again; a second call goes forth again."""
    from tidegate import rederive
    from tidegate.app import opened_log
    from tidegate.rebuild import rollback as go_back

    async with opened_log(settings) as (_, log):
        if tier == "correlations":
            number = await rederive.rollback(log, CORRELATION)
            print(f"{tier}: generation {number} serves again, once the process `entities` has caught it up")
            return 0
        now = await go_back(log, tier)
    print(f"{tier}: generation {now.active} serves again, and is caught up by the storage-manager")
    return 0


@rebuild.command
async def gc(tier: Tier | None = None, /, *, settings: Given) -> int:
    """Drop all generations but the one that serves, the previous one, and one being built."""
    from tidegate import rederive
    from tidegate.app import opened_log
    from tidegate.rebuild import collect

    async with opened_log(settings) as (bus, log):
        for name in (tier,) if tier else TIERS:
            if name == "correlations":
                dropped = await rederive.collect(bus, log, CORRELATION)
            else:
                dropped = await collect(log, name, _maker(settings, name))
            print(f"{name}: {'dropped ' + ', '.join(map(str, dropped)) if dropped else 'nothing to drop'}")
    return 0


@rebuild.command
async def status(*, json: Json = False, settings: Given) -> int:
    """Which generations serve, are kept, and are being built."""
    from tidegate.app import opened_log

    async with opened_log(settings) as (_, log):
        found = {tier: (await log.generation(CORRELATION if tier == "correlations" else tier))[1] for tier in TIERS}
    if json:
        print(msgspec.json.encode(found).decode())
        return 0
    for tier, one in found.items():
        print(f"{tier:<12} {_described(one)}")
    return 0


def _described(one: Generation) -> str:
    parts = [f"generation {one.active} serves"]
    if one.previous is not None:
        parts.append(f"{one.previous} is kept for rollback")
    if one.building is not None:
        parts.append(f"{one.building} is being built, or was left unfinished")
    when = f"{datetime.fromtimestamp(one.time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if one.time_ms else ""
    return ", ".join(parts) + (f" ({one.what} {when} by {one.by})" if when else "")


async def verify(
    *,
    tier: Literal["hot", "warm", "cold", "lake"] | None = None,
    since: str | None = None,
    repair: Flag = False,
    from_archive: Flag = False,
    json: Json = False,
    settings: Given,
) -> int:
    """Compare the read models with the log, frame by frame, and name the events that are missing, extra or different.

    Exits with 1 when something differs. Hot and warm forget: what is past its time there is never missing. What a
    read model has not come to yet is not missing either.

    Parameters
    ----------
    tier
        Only this one.
    since
        Only what was logged since: RFC 3339, milliseconds since 1970, or how long ago (15m, 2h, 7d).
    repair
        Replay just the frames that differ, then compare again.
    from_archive
        Compare with the cold archive too, where the log was trimmed.
    json
        Print one JSON object for each read model.
    """
    from tidegate.app import TIERS as ALL
    from tidegate.app import opened_log, serving_models
    from tidegate.query import parse_time
    from tidegate.verify import compare
    from tidegate.verify import repair as replay

    since_ms = parse_time(since) if since else None
    if tier == "cold" and from_archive:
        raise QueryError("cold is the archive: it cannot be compared with itself; leave out --from-archive")
    code = 0
    async with opened_log(settings) as (_, log), _archive(settings, log, from_archive) as archive:
        models = await serving_models(settings, log, [tier] if tier else ALL)
        for name, one in models.items():
            model = cast("Rebuildable", one)
            source = None if name == "cold" else archive
            try:
                await model.open()
                compared = await compare(log, model, since_ms=since_ms, archive=source)
                _report(compared, json)
                if repair and compared.differences:
                    events = await replay(log, model, compared.differences, source)
                    print(f"{name}: {len(compared.differences)} frames with {events} events replayed", file=sys.stderr)
                    compared = await compare(log, model, since_ms=since_ms, archive=source)
                    _report(compared, json)
                code = 1 if compared.differences else code
            except TierUnavailableError as error:
                print(f"error: {error}", file=sys.stderr)
                code = 1
            finally:
                await model.aclose()
    return code


def _report(compared: Compared, json: bool) -> None:
    if json:
        print(msgspec.json.encode({**msgspec.to_builtins(compared), "equal": not compared.differences}).decode())
        return
    verdict = f"{len(compared.differences)} frames differ" if compared.differences else "equal"
    print(f"{compared.tier}: {verdict}, {compared.events:,} events from LOG/{compared.first} on")
    for shard in compared.shards:
        print(
            f"  shard {shard.shard} to LOG/{shard.last}: {shard.frames:,} frames,"
            f" log {shard.expected.count:,} events digest {shard.expected.digest:016x},"
            f" here {shard.found.count:,} digest {shard.found.digest:016x}"
        )
    for one in compared.differences:
        print(f"  {one.text()}")
