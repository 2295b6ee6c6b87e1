"""The command `tidegate demo`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError

__all__ = ["demo"]

Given = Annotated[Settings, Parameter(parse=False)]


async def demo(
    *,
    events: int = 50_000,
    seed: int = 1,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    source: str | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    settings: Given,
) -> int:
    """Send events through everything, query each tier, and show that the counts add up. Exits with 1 when they do not.

    Uses what `tidegate up` runs; starts it, and ends it again, when it does not run.

    Parameters
    ----------
    events
        How many events to generate.
    seed
        The same seed gives the same events, but for their times.
    from_
        Replay the lines of this file instead; needs --source.
    source
        The source of the file's events: suricata, aws_cloudtrail, windows, zeek, or any other name.
    json
        Print one JSON object and nothing else on standard output.
    """
    import msgspec
    from rich.console import Console

    from tidegate import demo as demonstration

    if (from_ is None) != (source is None):
        raise QueryError("--from PATH and --source NAME go together")
    if events < 1:
        raise QueryError("--events must be at least 1")
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if from_ is not None and source is not None:
        records = demonstration.native_lines(from_, source)
    else:
        notes.print(f"generating {events:,} native events of four sources, seed {seed}")
        records = demonstration.generated(events, seed)
    async with _processes(settings, notes):
        with _bars(notes) as step:
            report = await demonstration.run(settings, records, step)
    if json:
        shown = msgspec.to_builtins(report)
        shown["kpi"] = {one.pop("name"): one for one in shown["kpi"]}
        print(msgspec.json.encode(shown).decode())
    else:
        # Where nobody looks on, as in a log of CI, rich takes 80 columns, which is too narrow for the tables.
        _print(report, Console(highlight=False, width=None if sys.stdout.isatty() else 140))
    return 0 if report.balanced else 1


@contextlib.asynccontextmanager
async def _processes(settings: Settings, notes: Any) -> AsyncIterator[None]:
    from tidegate.config import without_keys
    from tidegate.local.processes import alive, read_run, table
    from tidegate.local.supervisor import Supervisor

    run = read_run(settings.data_dir)
    if run is not None and alive(run):
        notes.print(f"using what `tidegate up` runs (pid {run.pid})")
        yield
        return
    settings = without_keys(settings)
    supervisor = Supervisor(settings, table(settings), say=notes.print, log=lambda name, line: None)
    async with supervisor.running():
        yield


@contextlib.contextmanager
def _bars(notes: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, Any] = {}

        def step(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=max(of, 1))
            progress.update(tasks[what], completed=done, total=max(of, 1))

        yield step


def _print(report: Any, console: Any) -> None:
    import msgspec
    from rich import box
    from rich.table import Table

    from tidegate.cli.show import event_line

    for name, tier in report.tiers.items():
        console.print(f"\n[bold]{name}[/bold]  {tier.query}  [dim]({tier.found} found in {tier.query_ms:.0f} ms)[/dim]")
        for sample in report.samples[name]:
            try:
                console.print("   " + event_line(msgspec.json.decode(sample)), markup=False, soft_wrap=True)
            except msgspec.DecodeError:
                console.print("   " + sample, markup=False)
    kpi = Table(
        "target", "asked for", "measured here", "", "how", title="\nTargets", title_justify="left", box=box.SIMPLE
    )
    for one in report.kpi:
        kpi.add_row(one.name, one.target, one.measured, "[green]met[/]" if one.met else "[red]missed[/]", one.how)
    console.print(kpi)
    tiers = Table("", "events", "digest", "", "caught up after", title="Balance", title_justify="left", box=box.SIMPLE)
    tiers.add_row("log", f"{report.log.count:,}", f"{report.log.digest:016x}", "", "")
    for name, tier in report.tiers.items():
        mark = "[green]equal[/]" if tier.matches else "[red]DIFFERS[/]"
        tiers.add_row(name, f"{tier.count:,}", f"{tier.digest:016x}", mark, f"{tier.seconds:.1f} s")
    console.print(tiers)
    sign = "=" if report.events + report.filtered + report.dead == report.published else "is not"
    console.print(
        f"published {report.published:,} {sign} {report.events:,} events + {report.filtered:,} filtered"
        f" + {report.dead:,} dead letters"
    )
    console.print(
        f"[bold green]Everything adds up[/], in {report.seconds:.1f} s."
        if report.balanced
        else "[bold red]It does not add up.[/] See `tidegate status` and `tidegate doctor`."
    )
