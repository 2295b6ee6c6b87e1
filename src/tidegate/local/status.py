"""What runs locally, and what all processes report wherever they run, gathered for `tidegate status`.

Invariant: looking changes nothing, and an unreachable process is part of the answer, not an error.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.errors import BusUnavailableError
from tidegate.local.processes import LINES, address, alive, own, read_run, table
from tidegate.local.servers import NAMES, local_servers
from tidegate.presence import Presence, gather

__all__ = ["collect"]


async def collect(settings: Settings) -> dict[str, Any]:
    """`processes` (name, pid, since, restarts, ready, address, where), `answers` and `sections`: title to rows.

    `processes` are those of a local run; `pid` and `since` (Unix seconds) are null for what `tidegate up` did not
    start. `answers` (process, host, pid, address, waiting_for, reported) are all of Tidegate's own processes that
    answer over NATS, several of a kind on any hosts included. Their sections of one title are joined; `unreachable`
    names the kinds of which none has reported.
    """
    run = read_run(settings.data_dir)
    children = {child.name: child for child in run.children if alive(child)} if run is not None else {}
    checks = {process.name: process.is_ready for process in table(settings)}
    here = local_servers(settings)
    processes: dict[str, dict[str, Any]] = {}
    for name in (name for name in LINES if name in NAMES or name in own(settings)):
        child = children.get(name)
        processes[name] = {
            "name": name,
            "pid": child.pid if child else None,
            "since": child.since if child else None,
            "restarts": child.restarts if child else None,
            "ready": None,
            "address": address(name, settings),
            "where": "elsewhere" if name in NAMES and name not in here else "local",
        }
    answers: list[Presence] = []

    async def check(name: str) -> None:
        processes[name]["ready"] = await checks[name]()

    async def ask() -> None:
        answers.extend(await _answers(settings))

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(check, name)
        group.start_soon(ask)
    sections: dict[str, list[dict[str, Any]]] = {}
    for one in answers:
        for title, rows in (one.sections or {}).items():
            sections.setdefault(title, []).extend(rows)
    reported = {one.process for one in answers if one.sections is not None}
    return {
        "up": {"pid": run.pid, "since": run.since} if run is not None and alive(run) else None,
        "processes": list(processes.values()),
        "answers": [
            {
                **{name: value for name, value in msgspec.to_builtins(one).items() if name != "sections"},
                "reported": one.sections is not None,
            }
            for one in answers
        ],
        "sections": sections,
        "unreachable": [name for name in own(settings) if name not in reported],
    }


async def _answers(settings: Settings) -> list[Presence]:
    try:
        async with connect(
            settings.nats_url,
            name="tidegate status",
            credentials_file=settings.nats.credentials_file,
            connect_timeout_seconds=min(2.0, settings.nats.connect_timeout_seconds),
        ) as bus:
            return await gather(bus)
    except BusUnavailableError:
        return []
