"""Commands for local runs: up, down, status, doctor, config, serve, run.

Invariant: what `serve` and `run` need is imported at the top, all else inside its command, for these start often.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tidegate.config import Settings
from tidegate.config import without_keys as allow_without_keys
from tidegate.local.servers import end_with_parent, local_servers, replace_process, server

__all__ = ["config", "doctor", "down", "run", "serve", "status", "table", "up"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
WithoutKeys = Annotated[bool, Parameter(negative="")]
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)


async def up(
    *,
    detach: Annotated[bool, Parameter(negative="")] = False,
    only: Literal["servers"] | None = None,
    logs: bool = True,
    without_keys: WithoutKeys = False,
    settings: Given,
) -> int:
    """Start the local servers and Tidegate's own processes, and stay with them until Ctrl-C.

    Parameters
    ----------
    detach
        Return as soon as everything is ready; `tidegate down` ends it.
    only
        `servers`: leave Tidegate's own processes out.
    logs
        Print what the processes log. It is in `.tidegate/logs/` in any case.
    without_keys
        Where auth.mode is not set: everybody on this machine may do everything.
    """
    from tidegate.auth import Gate
    from tidegate.local import supervisor
    from tidegate.local.processes import table as processes_of

    if without_keys:
        settings = allow_without_keys(settings)
    if only is None:
        Gate(settings.auth)
    if detach:
        command = [sys.executable, "-m", "tidegate", "up", "--no-logs", *(["--only", only] if only else [])]
        supervisor.detach(settings, command, _say)
        return 0
    processes = processes_of(settings, own=only is None)
    for line in _elsewhere(settings):
        _say(line)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max((len(process.name) for process in processes), default=0)
    prefixes = {
        process.name: f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{process.name:<{width}} |\x1b[0m "
        if colour
        else f"{process.name:<{width}} | "
        for number, process in enumerate(processes)
    }

    def log(name: str, line: bytes) -> None:
        _say(prefixes[name] + line.decode(errors="replace"))

    await supervisor.up(settings, processes, say=_say, log=log if logs else lambda name, line: None)
    return 0


def down(*, quiet: Annotated[bool, Parameter(negative="")] = False, settings: Given) -> int:
    """End what `tidegate up` started, and wait until all of it is gone.

    Parameters
    ----------
    quiet
        Print nothing.
    """
    from tidegate.local import supervisor

    done = supervisor.down(settings)
    if not quiet:
        print(done)
    return 0


async def status(*, json: Json = False, settings: Given) -> int:
    """Show the processes, and what they report.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from tidegate.local.status import collect

    found = await collect(settings)
    if json:
        _print_json(found)
        return 0
    from rich.console import Console

    console = Console()
    marks = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "-"}
    rows = [
        {
            "name": one["name"],
            "pid": one["pid"] or "-",
            "up": _age(one["since"]) if one["since"] else "elsewhere" if one["where"] == "elsewhere" else "-",
            "ready": marks[one["ready"]],
            "restarts": one["restarts"] or "",
            "address": one["address"],
        }
        for one in found["processes"]
    ]
    console.print(table("processes", rows))
    if found["up"] is None:
        console.print("`tidegate up` is not running here", style="dim")
    if found["answers"]:
        answers = [
            {
                "process": one["process"],
                "owner": f"{one['pid']}@{one['host']}",
                "ready": marks[not one["waiting_for"]],
                "address": one["address"],
                "waiting for": one["waiting_for"] or ("" if one["reported"] else "its report: it took too long"),
            }
            for one in found["answers"]
        ]
        console.print(table("answering over NATS", answers))
    for title, section in found["sections"].items():
        console.print(table(title, section))
    if found["unreachable"]:
        console.print(f"no status from: {', '.join(found['unreachable'])}", style="red")
    return 0


async def doctor(*, json: Json = False, settings: Given) -> int:
    """Check each server: reachable, set up rightly, and what to do if not. Exits with 1 when a check fails.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from tidegate.local.doctor import examine

    findings = await examine(settings)
    failed = any(one.result == "fail" for one in findings)
    if json:
        import msgspec

        _print_json({"ok": not failed, "checks": msgspec.to_builtins(findings)})
        return int(failed)
    colours = {"ok": 32, "warn": 33, "fail": 31}
    for one in findings:
        mark = f"\x1b[{colours[one.result]}m{one.result:<4}\x1b[0m" if sys.stdout.isatty() else f"{one.result:<4}"
        print(f"{mark}  {one.server:<8} {one.check:<16} {one.seen}")
        if one.advice:
            print(f"{'':<32}-> {one.advice}")
    return int(failed)


def config(*, settings: Given) -> int:
    """Print the settings in force, as TOML; passwords and keys are masked."""
    import msgspec

    from tidegate.local.processes import hide_password

    document: dict[str, Any] = msgspec.to_builtins(settings)
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    for name, value in document.items():
        if name not in tables:
            print(_toml(name, value))
    for name, keys in tables.items():
        print(f"\n[{name}]")
        for key, value in keys.items():
            if key in ("access_key", "secret_key", "password") and value:
                shown: Any = "***"
            else:
                shown = hide_password(value) if isinstance(value, str) and "://" in value else value
            print(_toml(key, shown))
    return 0


def serve(name: Literal["nats", "redis", "mongo", "s3"], /, *, settings: Given) -> int:
    """Run one local server in the foreground: this process becomes it.

    With a setting that points elsewhere there is nothing to run; it then waits to be ended, so that a Procfile goes on.

    Parameters
    ----------
    name
        Which one.
    """
    if name in local_servers(settings):
        replace_process(server(name, settings))
    from tidegate.local.processes import address

    end_with_parent()
    _say(f"{name} is not run here: the settings point at {address(name, settings)}")
    ending = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    signal.sigwait(ending)
    return 0


async def run(
    name: Literal["event-streaming", "transformation-pipeline", "gateway", "entities", "storage-manager", "kafka"],
    /,
    *,
    tiers: str = "hot,warm,cold,lake",
    without_keys: WithoutKeys = False,
    settings: Given,
) -> int:
    """Run one of Tidegate's own processes in the foreground, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    name
        Which one.
    tiers
        The read models that a storage-manager keeps, for one process a tier.
    without_keys
        Where auth.mode is not set: everybody on this machine may do everything.
    """
    end_with_parent()
    if without_keys:
        settings = allow_without_keys(settings)
    from tidegate import app

    await app.run(name, settings, [one.strip() for one in tiers.split(",")])
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _elsewhere(settings: Settings) -> list[str]:
    from tidegate.local.processes import address
    from tidegate.local.servers import NAMES

    here = local_servers(settings)
    return [f"{name:<24} elsewhere    {address(name, settings)}" for name in NAMES if name not in here]


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def table(title: str, rows: list[dict[str, Any]]) -> Any:
    """Rows for a terminal; a column for each key."""
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    return table


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def _toml(key: str, value: object) -> str:
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, bool):
        return f"{key} = {str(value).lower()}"
    if isinstance(value, str):
        import json

        return f"{key} = {json.dumps(value, ensure_ascii=False)}"
    return f"{key} = {value}"
