"""Versions of pipelines: history, define, activate, roll back, optimise, reprocess. Their entities are in the log."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import msgspec

from tidegate.cli.pipeline_input import From, Given, Json, frames_of, lifecycle_of
from tidegate.cli.pipeline_shown import show_report
from tidegate.config import Settings

__all__ = ["activate", "define", "history", "optimise", "reprocess", "rollback"]

_PATIENCE_SECONDS = 30.0
"""For the processes to see that a version is to be watched, and to come to a conclusion, beyond the time itself."""


async def history(name: str = "", /, *, json: Json = False, settings: Given) -> int:
    """Show which versions were defined, and which is in use; without a name, of all pipelines.

    Parameters
    ----------
    name
        Of the pipeline.
    json
        Print one JSON object a pipeline, texts included.
    """
    from tidegate.app import opened_log
    from tidegate.lifecycle import histories

    async with opened_log(settings) as (bus, log):
        found = await histories(bus, log)
    for one, known in sorted(found.items()):
        if name not in ("", one):
            continue
        if json:
            print(msgspec.json.encode({"name": one, **msgspec.to_builtins(known)}).decode())
            continue
        print(one)
        for version in known.versions:
            when = datetime.datetime.fromtimestamp(version.time_ms / 1000, datetime.UTC)
            mark = (
                "in use" if version.version == known.active else "before" if version.version == known.previous else ""
            )
            gain = f"{version.gain:.0%} quicker than {version.optimises}" if version.optimises else ""
            said = "  ".join(part for part in (version.origin, version.by, gain, mark) if part)
            print(f"  {version.version}  {when:%Y-%m-%d %H:%M:%S}  {said}")
    return 0


async def define(path: Path, /, *, activate: bool = False, by: str = "", settings: Given) -> int:
    """Define a version of a pipeline from a file, once it has compiled beside the rules in the settings.

    Parameters
    ----------
    path
        The pipeline, as TOML.
    activate
        Use it at once.
    by
        Who does this.
    """
    from tidegate.app import rules_folder
    from tidegate.entities.pipeline import Define
    from tidegate.pipeline.definition import load_definition
    from tidegate.pipeline.library import load_library

    definition = load_definition(path)
    library = load_library(rules_folder(settings))
    library.pipelines[definition.name] = definition
    library.compile(1)
    command = Define(definition.text, origin=path.name, by=by, activate=activate)
    return await _command(definition.name, command, settings)


async def activate(name: str, version: str, /, *, by: str = "", settings: Given) -> int:
    """Use a version that was defined before; every process does within seconds.

    Parameters
    ----------
    name
        Of the pipeline.
    version
        As `tidegate pipeline history` shows it.
    by
        Who does this.
    """
    from tidegate.entities.pipeline import Activate

    return await _command(name, Activate(version, by=by), settings)


async def rollback(name: str, /, *, by: str = "", reason: str = "", settings: Given) -> int:
    """Go back to the version before.

    Parameters
    ----------
    name
        Of the pipeline.
    by
        Who does this.
    reason
        Why.
    """
    from tidegate.entities.pipeline import RollBack

    return await _command(name, RollBack(by=by, reason=reason), settings)


async def optimise(
    name: str,
    /,
    *,
    source: str = "",
    path: From = "log",
    limit: int = 20_000,
    seconds: float = 5.0,
    activate: bool = False,
    watch: float = 30.0,
    by: str = "",
    json: Json = False,
    settings: Given,
) -> int:
    """Measure a pipeline on recorded events, and build one that does the same in less time, if there is one.

    The candidate is proven equal on all of these records before its gain is measured. Nothing changes without
    `--activate`; then what comes is run through both versions for a while, and the candidate is rolled back if it does
    otherwise, or is clearly slower.

    Parameters
    ----------
    name
        Of the pipeline.
    source
        Where the records come from; with `--from log`, only those of this source.
    path
        A file, `-` for standard input, or `log` (by default).
    limit
        At most so many records; from the log, the newest.
    seconds
        CPU time to compare the two for.
    activate
        Define the candidate, and use it if it is better.
    watch
        How many seconds to watch it then.
    by
        Who does this.
    json
        Print one JSON object.
    """
    from tidegate import optimising
    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.entities.pipeline import Watch
    from tidegate.pipeline.optimiser.optimise import optimise as optimised

    frames = [frame async for frame in frames_of(path, source, limit, settings)]
    lifecycle = await lifecycle_of(settings)
    watched: Watch | None = None
    if not activate and path != "log":
        report = await asyncio.to_thread(optimised, lifecycle.library(), name, frames, seconds)
    else:
        async with opened_log(settings) as (bus, log):
            await lifecycle.look(bus, log)
            library = lifecycle.library()
            report = await asyncio.to_thread(optimised, library, name, frames, seconds)
            system = System(bus, log)
            if activate and await optimising.put_into_use(system, report, by, watch):
                if not json:
                    show_report(report)
                    print(f"in use; watching for {watch:g} s")
                assert report.candidate is not None
                version = report.candidate.version
                watched = await optimising.concluded(system, name, version, watch + _PATIENCE_SECONDS)
                if watched is None and not json:
                    print("it was not watched: no transformation-pipeline runs, or another version is in use by now")
                    return 1
    if json:
        print(msgspec.json.encode({**msgspec.to_builtins(report), "watched": msgspec.to_builtins(watched)}).decode())
    elif watched is None:
        show_report(report)
    elif watched.rolled_back:
        print(f"rolled back: {watched.rolled_back}")
    elif watched.records:
        print(f"{watched.records:,} later records came out alike, in {watched.gain:.0%} less time")
    else:
        print("nothing came while it was watched: it stays in use, and was not judged on later records")
    return 1 if watched is not None and watched.rolled_back else 0


async def reprocess(*, json: Json = False, settings: Given) -> int:
    """Run what INGEST still has through the rules in use: a set of events to rebuild hot, warm or lake with.

    Nothing that serves changes, and the log's own events stay as they are. A run that was interrupted is carried on by
    the next call, as long as the rules are the same.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from tidegate.app import collect_rarely, opened_log
    from tidegate.reprocess import Reprocessing

    collect_rarely()
    async with opened_log(settings) as (bus, log):
        lifecycle = await lifecycle_of(settings)
        await lifecycle.look(bus, log)
        rules = await asyncio.to_thread(lifecycle.library().compile, log.shards)
        work = Reprocessing(bus, log, rules, settings)
        done = await work.run()
    if json:
        print(msgspec.json.encode({"set": work.number, **msgspec.to_builtins(done)}).decode())
        return 0
    print(
        f"set {work.number}: {done.records:,} records, of which the log has {done.events_before:,} events, are"
        f" {done.events:,} events + {done.filtered:,} filtered + {done.dead:,} dead letters by the rules in use"
    )
    print(f"{done.remade:,} of {done.frames:,} frames come out otherwise; {done.kept:,} frames left INGEST and stay")
    print(f"use it: `tidegate rebuild hot --remade {work.number}`, and so for warm and lake")
    return 0


async def _command(name: str, command: Any, settings: Settings) -> int:
    from tidegate.actor.system import System
    from tidegate.app import opened_log
    from tidegate.entities.pipeline import KIND, PipelineHistory

    async with opened_log(settings) as (bus, log):
        system = System(bus, log)
        await system.ask(KIND, name, command)
        answer = await system.get(KIND, name)
    known = msgspec.json.decode(answer.state, type=PipelineHistory)
    print(f"{name}: version {known.active} is in use")
    return 0
