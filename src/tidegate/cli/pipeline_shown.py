"""What the commands around pipelines show to people, in colour where the terminal has any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tidegate.pipeline.optimiser.optimise import Report
    from tidegate.pipeline.trial import Fate, Step

__all__ = ["show_changes", "show_fate", "show_report", "show_steps"]

_COLOURS = {
    "event": "green",
    "passed": "green",
    "unchanged": "dim",
    "filtered": "yellow",
    "continued": "magenta",
    "dead_letter": "red",
}


def show_fate(console: Any, raw: bytes, fate: Fate) -> None:
    from rich.text import Text

    console.print(Text(raw[:300].decode(errors="replace"), style="dim"))
    said = f"{fate.outcome} {fate.by} {fate.problem}".strip()
    console.print(Text(f"  {said}", style=_COLOURS[fate.outcome]))
    if fate.event is not None:
        console.print(Text(f"  {msgspec.json.encode(fate.event).decode()}"))


def show_steps(console: Any, raw: bytes, steps: list[Step]) -> None:
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
        show_changes(console, step.changes)


def show_changes(console: Any, changes: dict[str, tuple[Any, Any]]) -> None:
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


def show_report(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    candidate = report.candidate
    after = {one.name: one for one in candidate.parts} if candidate else {}
    title = f"pipeline {report.pipeline}, version {report.version}, on {report.records:,} records"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column, right in (("part", False), ("type", False), ("events", True), ("dropped", True), ("us", True)):
        table.add_column(column, justify="right" if right else "left")
    if candidate:
        table.add_column("events then", justify="right")
        table.add_column("us then", justify="right")
    for one in report.parts:
        style = "bold" if one.name == report.bottleneck else ""
        dropped = f"{one.rejected:.1%}" if one.filtered else ""
        row = [one.name, one.type, f"{one.taken:,}", dropped, f"{one.microseconds:.2f}"]
        if candidate:
            then = after.get(one.name)
            row += [f"{then.taken:,}", f"{then.microseconds:.2f}"] if then else ["", ""]
        table.add_row(*row, style=style)
    console.print(table)
    console.print(f"{report.bottleneck} takes {report.share:.0%} of the time")
    for advice in report.recommendations:
        console.print(
            f"{'[green]done[/green]  ' if advice.done else '[yellow]advice[/yellow]'}  {advice.kind}: {advice.text}"
        )
    if candidate is None:
        console.print("There is nothing to change that would surely do the same.")
        return
    console.print(
        f"candidate {candidate.version}: {candidate.proof.equal:,} of {candidate.proof.records:,} records alike"
    )
    for test in candidate.tests:
        console.print(f"[red]the test {test!r} comes out otherwise[/red]")
    if candidate.gain is not None:
        gain = candidate.gain
        console.print(
            f"{gain.before:.2f} -> {gain.after:.2f} us a record: {gain.gain:.1%} less time"
            f" (at least {gain.least:.1%}, {gain.rounds} rounds)"
        )
    verdict = "It is better." if candidate.better else "It is not clearly better, and is not to be used."
    console.print(verdict, style="bold")
