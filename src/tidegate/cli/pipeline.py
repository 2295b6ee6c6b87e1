"""Commands around pipelines.

Of these, check, run, test, explain and diff need no server (unless records come from the log); the others ask the
pipelines' entities.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError

if TYPE_CHECKING:
    from tidegate.pipeline.runner import Pipeline, RawFrame
    from tidegate.pipeline.trial import Fate, Step

__all__ = ["pipeline"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Rules = Annotated[Path | None, Parameter(name="--rules")]
From = Annotated[str, Parameter(name="--from")]

_FRAME = 1000

pipeline = App(name="pipeline", help="Try pipelines: check the rules, run them, test, explain one event, compare.")


async def _runner(rules: Path | None, settings: Settings) -> Pipeline:
    from tidegate.pipeline.library import load_with_tables

    place = settings.mongodb_uri, settings.mongodb.database
    return (await load_with_tables(1, rules, place))[1]


def _rules(rules: Path | None, settings: Settings) -> Path | None:
    from tidegate.app import rules_folder

    return rules or rules_folder(settings)


@pipeline.command
def check(rules: Rules = None, *, settings: Given) -> int:
    """Check all rule files: an error names file, line, key and the nearest valid name.

    Parameters
    ----------
    rules
        The folder, instead of the one in the settings (TRANSFORMATION_RULES_PATH).
    """
    from tidegate.pipeline.library import load_library

    library = load_library(_rules(rules, settings))
    library.compile(1)
    for definition in library.pipelines.values():
        stages = " -> ".join(stage.name for stage in definition.file.stage) or "no stages"
        sources = ", ".join(definition.file.sources)
        print(f"pipeline {definition.name}  version {definition.version}  for {sources}: {stages}")
    print(f"{len(library.pipelines)} pipelines and {len(library.sources)} sources are fine")
    return 0


@pipeline.command(name="test")
async def run_tests(rules: Rules = None, *, settings: Given) -> int:
    """Run the tests in the rule files.

    Parameters
    ----------
    rules
        The folder, instead of the one in the settings.
    """
    from tidegate.pipeline.library import load_with_tables
    from tidegate.pipeline.trial import run_case

    place = settings.mongodb_uri, settings.mongodb.database
    library, runner = await load_with_tables(1, _rules(rules, settings), place)
    failed = total = 0
    for definition in library.pipelines.values():
        for case in definition.file.test:
            result = run_case(runner, case, int(time.time() * 1000))
            total += 1
            failed += bool(result.problems)
            print(f"{'FAILED' if result.problems else 'passed'}  {definition.name}  {result.name}")
            for problem in result.problems:
                print(f"        {problem}")
    print(f"{total - failed} of {total} tests passed")
    return 1 if failed else 0


@pipeline.command
async def run(
    *,
    source: str = "",
    path: From = "-",
    rules: Rules = None,
    limit: int = 1000,
    show: int = 5,
    json: Json = False,
    settings: Given,
) -> int:
    """Run records through the rules, and show what becomes of them: all counts, and some of each kind.

    Parameters
    ----------
    source
        Where the records come from; with `--from log`, only those of this source.
    path
        A file with one record a line, `-` for standard input, or `log` for what was published (INGEST).
    rules
        The folder, instead of the one in the settings.
    limit
        At most so many records; from the log, the newest.
    show
        How many to show of each kind.
    json
        Print every outcome as one JSON object a line.
    """
    from rich.console import Console

    from tidegate.pipeline.trial import fates

    runner = await _runner(_rules(rules, settings), settings)
    console = Console(highlight=False)
    counts: dict[str, int] = {}
    shown: dict[str, int] = {}
    async for frame in _frames(path, source, limit, settings):
        for raw, fate in zip(frame.records, fates(runner, frame), strict=True):
            counts[fate.outcome] = counts.get(fate.outcome, 0) + 1
            if json:
                print(msgspec.json.encode(fate).decode())
                continue
            kind = f"{fate.outcome} {fate.by}"
            shown[kind] = shown.get(kind, 0) + 1
            if shown[kind] <= show:
                _show_fate(console, raw, fate)
    if not json:
        total = sum(counts.values())
        said = " + ".join(f"{counts.get(kind, 0)} {text}" for kind, text in _KINDS.items())
        console.print(f"{total} records = {said}", style="bold")
    return 0


_KINDS = {"event": "events", "filtered": "filtered", "dead_letter": "dead letters"}
_COLOURS = {
    "event": "green",
    "passed": "green",
    "unchanged": "dim",
    "filtered": "yellow",
    "continued": "magenta",
    "dead_letter": "red",
}


def _show_fate(console: Any, raw: bytes, fate: Fate) -> None:
    from rich.text import Text

    console.print(Text(raw[:300].decode(errors="replace"), style="dim"))
    said = f"{fate.outcome} {fate.by} {fate.problem}".strip()
    console.print(Text(f"  {said}", style=_COLOURS[fate.outcome]))
    if fate.event is not None:
        console.print(Text(f"  {msgspec.json.encode(fate.event).decode()}"))


@pipeline.command
async def explain(
    *,
    source: str = "",
    path: From = "-",
    rules: Rules = None,
    number: int = 1,
    json: Json = False,
    settings: Given,
) -> int:
    """Show what each stage does to one record: time, size, and every change.

    Parameters
    ----------
    source
        Where the record comes from.
    path
        A file, `-` for standard input, or `log`.
    rules
        The folder, instead of the one in the settings.
    number
        Which line, from 1.
    json
        Print one JSON object a stage.
    """
    from rich.console import Console

    from tidegate.pipeline import trial

    runner = await _runner(_rules(rules, settings), settings)
    index = number
    async for frame in _frames(path, source, number, settings):
        if index > len(frame.records):
            index -= len(frame.records)
            continue
        one = msgspec.structs.replace(frame, records=[frame.records[index - 1]])
        steps = trial.explain(runner, one)
        if json:
            for step in steps:
                print(msgspec.json.encode(step).decode())
        else:
            _show_steps(Console(highlight=False), one.records[0], steps)
        return 0
    raise QueryError(f"there is no record {number}")


def _show_steps(console: Any, raw: bytes, steps: list[Step]) -> None:
    from rich.text import Text

    console.print(Text(raw[:2000].decode(errors="replace"), style="dim"))
    for step in steps:
        console.print(
            Text(
                f"{step.stage} ({step.type})  {step.outcome}  {step.microseconds:.1f} us"
                f"  {step.bytes_in} -> {step.bytes_out} bytes",
                style=f"bold {_COLOURS[step.outcome]}",
            )
        )
        if step.problem:
            console.print(Text(f"  {step.problem}", style="red"))
        _show_changes(console, step.changes)


def _show_changes(console: Any, changes: dict[str, tuple[Any, Any]]) -> None:
    from rich.text import Text

    for name, (before, after) in changes.items():
        line = Text(f"  {name}: ")
        if before is not None:
            line.append(_short(before), style="red")
        if before is not None and after is not None:
            line.append(" -> ")
        line.append(
            _short(after) if after is not None else "  (removed)", style="green" if after is not None else "dim"
        )
        console.print(line)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."


@pipeline.command
async def diff(
    old: Path,
    new: Path,
    /,
    *,
    source: str = "",
    path: From = "log",
    limit: int = 10_000,
    examples: int = 3,
    json: Json = False,
    settings: Given,
) -> int:
    """Run the same records through two versions of the rules: what changes, how many, and examples.

    The exit code is 0 when nothing differs, else 1.

    Parameters
    ----------
    old
        Folder with one version of the rule files.
    new
        Folder with the other.
    source
        Where the records come from; with `--from log`, only those of this source.
    path
        A file, `-` for standard input, or `log` (by default).
    limit
        At most so many records; from the log, the newest.
    examples
        How many to show.
    json
        Print one JSON object.
    """
    from rich.console import Console
    from rich.text import Text

    from tidegate.pipeline import trial

    frames = [frame async for frame in _frames(path, source, limit, settings)]
    found = trial.compare(await _runner(old, settings), await _runner(new, settings), frames, most_examples=examples)
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        console = Console(highlight=False)
        for record, changed in found.examples:
            console.print(Text(record[:300], style="dim"))
            _show_changes(console, changed)
        for name, count in found.paths.most_common(30):
            console.print(f"{count:>8}  {name}")
        for name, count in found.fates.most_common():
            console.print(f"{count:>8}  {name}")
        console.print(f"{found.records - found.equal} of {found.records} records differ", style="bold")
    return 0 if found.equal == found.records else 1


@pipeline.command
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


@pipeline.command
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


@pipeline.command
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


@pipeline.command
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


async def _frames(path: str, source: str, limit: int, settings: Settings) -> AsyncIterator[RawFrame]:
    """Raw records as frames of up to 1,000, at most `limit` records in all."""
    from tidegate.pipeline.runner import RawFrame

    if path == "log":
        async for frame in _frames_of_log(source, limit, settings):
            yield frame
        return
    if not source:
        raise QueryError("say where the records come from: --source NAME")
    now = int(time.time() * 1000)
    lines = await asyncio.to_thread(_lines, path, limit)
    for start in range(0, len(lines), _FRAME):
        records = lines[start : start + _FRAME]
        yield RawFrame(source=source, codec="json", records=records, received_ms=now, origin=f"{path}/{start}")


def _lines(path: str, limit: int) -> list[bytes]:
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as stream:
        return list(islice((line.strip() for line in stream if not line.isspace()), limit))


async def _frames_of_log(source: str, limit: int, settings: Settings) -> AsyncIterator[RawFrame]:
    from tidegate import frame, subject
    from tidegate.app import opened_log
    from tidegate.pipeline.runner import RawFrame
    from tidegate.reader import read

    async with opened_log(settings) as (bus, _):
        state = await bus.stream(subject.INGEST)
        subjects = f"ingest.{source}.*" if source else "ingest.*.*"
        # Counts are in headers only; so the newest records are found from the end, by how many messages hold them.
        counts: list[tuple[int, int]] = []
        async for message in read(
            bus, subject.INGEST, subjects, state.first_sequence, state.last_sequence, headers_only=True
        ):
            count = message.headers.get(frame.COUNT, "1")
            counts.append((message.sequence, int(count) if count.isdigit() else 1))
        total, first = 0, state.last_sequence + 1
        for sequence, records_there in reversed(counts):
            if total >= limit:
                break
            total, first = total + records_there, sequence
        left = limit
        async for message in read(bus, subject.INGEST, subjects, first, state.last_sequence):
            headers = message.headers
            codec, records = frame.open_frame(
                message.payload,
                headers.get(frame.CONTENT_TYPE, ""),
                headers.get(frame.CONTENT_ENCODING, ""),
                settings.ingest.max_inflated_bytes,
            )
            yield RawFrame(
                source=subject.source_from(message.subject),
                codec=codec,
                records=records[:left],
                received_ms=message.time_ms,
                origin=f"{subject.INGEST}/{state.created}/{message.sequence}",
            )
            left -= len(records)
            if left <= 0:
                return
