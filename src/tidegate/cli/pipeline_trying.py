"""Pipelines tried on records: check, run, test, explain, diff. No server is needed, unless the log is to be read."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from tidegate.cli.pipeline_input import From, Given, Json, Rules, frames_of, loaded, rules_of, runner_of
from tidegate.cli.pipeline_shown import show_changes, show_fate, show_steps
from tidegate.errors import QueryError

__all__ = ["check", "diff", "explain", "run", "run_tests"]

_KINDS = {"event": "events", "filtered": "filtered", "dead_letter": "dead letters"}


def check(rules: Rules = None, *, settings: Given) -> int:
    """Check all rule files: an error names file, line, key and the nearest valid name.

    Parameters
    ----------
    rules
        The folder, instead of the one in the settings (TRANSFORMATION_RULES_PATH).
    """
    from tidegate.pipeline.library import load_library

    library = load_library(rules_of(rules, settings))
    library.compile(1)
    for definition in library.pipelines.values():
        stages = " -> ".join(stage.name for stage in definition.file.stage) or "no stages"
        sources = ", ".join(definition.file.sources)
        print(f"pipeline {definition.name}  version {definition.version}  for {sources}: {stages}")
    print(f"{len(library.pipelines)} pipelines and {len(library.sources)} sources are fine")
    return 0


async def run_tests(rules: Rules = None, *, settings: Given) -> int:
    """Run the tests in the rule files.

    Parameters
    ----------
    rules
        The folder, instead of the one in the settings.
    """
    from tidegate.pipeline.trial import run_case

    library, runner = await loaded(rules_of(rules, settings), settings)
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

    runner = await runner_of(rules_of(rules, settings), settings)
    console = Console(highlight=False)
    counts: dict[str, int] = {}
    shown: dict[str, int] = {}
    async for frame in frames_of(path, source, limit, settings):
        for raw, fate in zip(frame.records, fates(runner, frame), strict=True):
            counts[fate.outcome] = counts.get(fate.outcome, 0) + 1
            if json:
                print(msgspec.json.encode(fate).decode())
                continue
            kind = f"{fate.outcome} {fate.by}"
            shown[kind] = shown.get(kind, 0) + 1
            if shown[kind] <= show:
                show_fate(console, raw, fate)
    if not json:
        total = sum(counts.values())
        said = " + ".join(f"{counts.get(kind, 0)} {text}" for kind, text in _KINDS.items())
        console.print(f"{total} records = {said}", style="bold")
    return 0


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

    runner = await runner_of(rules_of(rules, settings), settings)
    index = number
    async for frame in frames_of(path, source, number, settings):
        if index > len(frame.records):
            index -= len(frame.records)
            continue
        one = msgspec.structs.replace(frame, records=[frame.records[index - 1]])
        steps = trial.explain(runner, one)
        if json:
            for step in steps:
                print(msgspec.json.encode(step).decode())
        else:
            show_steps(Console(highlight=False), one.records[0], steps)
        return 0
    raise QueryError(f"there is no record {number}")


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

    frames = [frame async for frame in frames_of(path, source, limit, settings)]
    found = trial.compare(
        await runner_of(old, settings), await runner_of(new, settings), frames, most_examples=examples
    )
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        console = Console(highlight=False)
        for record, changed in found.examples:
            console.print(Text(record[:300], style="dim"))
            show_changes(console, changed)
        for name, count in found.paths.most_common(30):
            console.print(f"{count:>8}  {name}")
        for name, count in found.fates.most_common():
            console.print(f"{count:>8}  {name}")
        console.print(f"{found.records - found.equal} of {found.records} records differ", style="bold")
    return 0 if found.equal == found.records else 1
