"""What runs locally and what it reports, gathered for `tidegate status`.

Invariant: looking changes nothing, and an unreachable process is part of the answer, not an error.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from tidegate.config import Settings
from tidegate.local.processes import LINES, OWN, address, alive, read_run, table
from tidegate.local.servers import NAMES, fetch, local_servers

__all__ = ["collect"]

Sections = dict[str, list[dict[str, Any]]]


async def collect(settings: Settings) -> dict[str, Any]:
    """`processes` (name, pid, since, restarts, ready, address, where) and `sections`: title to rows.

    Sections come from `/status` of Tidegate's own processes, those of one title joined; `unreachable` names the
    processes that did not answer it. `pid` and `since` (Unix seconds) are null for what `tidegate up` did not start.
    """
    run = read_run(settings.data_dir)
    children = {child.name: child for child in run.children if alive(child)} if run is not None else {}
    checks = {process.name: process.is_ready for process in table(settings)}
    here = local_servers(settings)
    processes: dict[str, dict[str, Any]] = {}
    for name in LINES:
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
    answers: dict[str, Sections | None] = {}

    async def check(name: str) -> None:
        processes[name]["ready"] = await checks[name]()

    async def ask(name: str) -> None:
        answers[name] = await _sections(address(name, settings))

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(check, name)
        for name in OWN:
            group.start_soon(ask, name)
    sections: Sections = {}
    for name in OWN:
        for title, rows in (answers[name] or {}).items():
            sections.setdefault(title, []).extend(rows)
    return {
        "up": {"pid": run.pid, "since": run.since} if run is not None and alive(run) else None,
        "processes": list(processes.values()),
        "sections": sections,
        "unreachable": [name for name in OWN if answers[name] is None],
    }


async def _sections(base: str) -> Sections | None:
    try:
        status, body = await fetch(f"{base}/status")
        return msgspec.json.decode(body, type=Sections) if status == 200 else None
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None
