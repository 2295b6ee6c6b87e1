"""The processes of a local run: one table for the Procfile and `tidegate up`, and the record of those that run.

Invariant: a recorded pid counts only while the process that has it began at the recorded moment; pids are reused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from tidegate.config import SHORT_NAMES, Settings, port_key
from tidegate.local.servers import HOST, NAMES, answers_http, local_servers, server

__all__ = [
    "LINES",
    "OWN",
    "Child",
    "Process",
    "Run",
    "address",
    "alive",
    "birth",
    "end_leftovers",
    "environment",
    "hide_password",
    "own",
    "own_ports",
    "read_run",
    "table",
    "write_run",
]

OWN = ("event-streaming", "transformation-pipeline", "gateway", "entities", "storage-manager")
KAFKA = "kafka"
"""Runs only where brokers are named."""
LINES = {name: f"tidegate serve {name}" for name in NAMES} | {
    name: f"tidegate run {name} --without-keys" for name in (*OWN, KAFKA)
}
"""The Procfile, line by line."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process to start."""

    name: str
    command: list[str]
    ports: dict[str, int]
    """Setting (`http.event_streaming_port`) to port; free before it starts."""
    address: str
    is_ready: Callable[[], Awaitable[bool]]
    own: bool
    """Tidegate's own: started after the servers, and again when it crashes."""


def own(settings: Settings) -> tuple[str, ...]:
    """The names of Tidegate's own processes, with these settings."""
    return (*OWN, KAFKA) if settings.kafka.brokers else OWN


def own_ports(settings: Settings) -> dict[str, int]:
    """The HTTP port of each of Tidegate's own processes."""
    return {name: getattr(settings.http, port_key(name)) for name in own(settings)}


def _grpc_port(name: str, settings: Settings) -> dict[str, int]:
    key = port_key(name)
    port = getattr(settings.grpc, key, None)
    return {} if port is None else {f"grpc.{key}": port}


def address(name: str, settings: Settings) -> str:
    """Where the process is reached, without a password."""
    match name:
        case "nats":
            return hide_password(settings.nats_url)
        case "redis":
            return hide_password(settings.redis_url)
        case "mongo":
            return hide_password(settings.mongodb_uri)
        case "s3":
            return hide_password(settings.s3_endpoint)
        case _:
            return f"http://{HOST}:{own_ports(settings)[name]}"


def table(settings: Settings, *, own: bool = True) -> list[Process]:
    """What a local run starts: the servers that the settings do not point elsewhere for, then Tidegate's own.

    Raises LocalServerError when a server's program is not installed.
    """
    processes = []
    for name in local_servers(settings):
        one = server(name, settings)
        processes.append(
            Process(
                name=name,
                command=_command("serve", name),
                ports=one.ports,
                address=address(name, settings),
                is_ready=one.is_ready,
                own=False,
            )
        )
    for name, port in own_ports(settings).items() if own else ():
        processes.append(
            Process(
                name=name,
                command=_command("run", name),
                ports={f"http.{port_key(name)}": port, **_grpc_port(name, settings)},
                address=address(name, settings),
                is_ready=partial(answers_http, f"http://{HOST}:{port}/readyz"),
                own=True,
            )
        )
    return processes


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tidegate", *words]


def environment(settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """`base` (the environment of this process), changed so that a process started with it has exactly `settings`."""
    base = os.environ if base is None else base
    kept = {name: value for name, value in base.items() if not name.startswith("TIDEGATE_") and name not in SHORT_NAMES}
    kept["TIDEGATE_CONFIG"] = os.devnull
    defaults: dict[str, Any] = msgspec.to_builtins(Settings())
    for table_name, value in msgspec.to_builtins(settings).items():
        keys = value if isinstance(value, dict) else {"": value}
        standard = defaults[table_name] if isinstance(value, dict) else {"": defaults[table_name]}
        for key, one in keys.items():
            if one != standard[key] and one is not None:
                text = msgspec.json.encode(one).decode() if isinstance(one, list) else str(one)
                kept[f"TIDEGATE_{table_name}_{key}".rstrip("_").upper()] = text
    return kept


def hide_password(url: str) -> str:
    """`url` with its password, or token, replaced by `***`."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url
    name, colon, _ = user.partition(":")
    # nats://TOKEN@host: without a colon the user is itself a secret.
    return urlunsplit(parts._replace(netloc=f"{name}:***@{host}" if colon else f"***@{host}"))


class Child(Struct, frozen=True, kw_only=True):
    """One process that was started."""

    name: str
    pid: int
    birth: int
    address: str
    own: bool
    since: float
    """Unix seconds."""
    ready: bool = False
    ready_seconds: float | None = None
    """From its start to readiness."""
    restarts: int = 0


class Run(Struct, frozen=True, kw_only=True):
    """A run of `tidegate up`, in `<data dir>/up.json`."""

    pid: int
    birth: int
    since: float
    ready: bool
    children: list[Child]


def _path(data_dir: Path) -> Path:
    return data_dir / "up.json"


def read_run(data_dir: Path) -> Run | None:
    """The last recorded run, whether or not it is still there; None when there is no readable record."""
    try:
        return msgspec.json.decode(_path(data_dir).read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError):
        return None


def write_run(data_dir: Path, run: Run | None) -> None:
    """Replace the record in one step; None removes it."""
    path = _path(data_dir)
    if run is None:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_suffix(".json.new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    fresh.replace(path)


def birth(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when it is gone. 0 where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return 0
    try:
        # proc(5): the name in brackets may hold anything; after it come state (field 3) ... starttime (field 22).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(one: Run | Child) -> bool:
    """Whether that very process still runs."""
    return birth(one.pid) == one.birth


def end_leftovers(run: Run, timeout_seconds: float = 15.0) -> list[Child]:
    """End what a killed supervisor left behind; returns those that were still there."""
    left = [child for child in run.children if alive(child)]
    for number, wait in ((signal.SIGTERM, timeout_seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + wait
        for child in filter(alive, left):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
        while any(map(alive, left)) and time.monotonic() < deadline:
            time.sleep(0.02)
    return left
