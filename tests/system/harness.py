"""Local servers and Tidegate's own processes as real subprocesses, to be killed, paused and started again.

Invariant: nothing that a System has started is left when its context ends, however a test ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests.conftest import free_ports, local_settings
from tidegate import app, streams
from tidegate.bus import Bus, connect
from tidegate.config import Settings, port_key
from tidegate.local.processes import environment, own_ports
from tidegate.local.servers import answers_http, fetch, server

__all__ = ["Program", "System", "system", "until"]

ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], Awaitable[Any]], timeout_seconds: float, what: str) -> float:
    """Returns after how many seconds `condition` held. Fails, naming `what`, when it does not in time."""
    started = time.monotonic()
    while not await condition():
        waited = time.monotonic() - started
        assert waited < timeout_seconds, f"not within {timeout_seconds:g} s: {what}"
        await asyncio.sleep(min(0.05, 0.005 + waited / 20))
    return time.monotonic() - started


class Program:
    """One command that runs in a process group of its own; `start` runs it again."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        variables: dict[str, str],
        logs: Path,
        is_ready: Callable[[], Awaitable[bool]],
        url: str = "",
    ) -> None:
        self.name = name
        self.url = url
        self._command = [sys.executable, "-m", "tidegate", *arguments]
        self._variables = variables
        self._log = logs / f"{name}.log"
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._variables, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def ready(self, timeout_seconds: float = 60.0) -> float:
        """Returns after how many seconds it was ready."""

        async def done() -> bool:
            assert self.running, f"{self.name} has ended by itself:\n{self.log_tail()}"
            return await self._is_ready()

        return await until(done, timeout_seconds, f"{self.name} is ready:\n{self.log_tail()}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    async def ended(self, timeout_seconds: float = 10.0) -> int:
        """Returns its exit code once it has ended."""

        async def done() -> bool:
            return not self.running

        await until(done, timeout_seconds, f"{self.name} has ended")
        assert self._process is not None
        return self._process.wait()

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    def logged(self, *types: str) -> list[dict[str, Any]]:
        """The telemetry events of these types in its log, in order; the last line may be cut short by a kill."""
        quoted = [f'"type": "{one}"'.encode() for one in types]
        found: list[dict[str, Any]] = []
        for line in self._log.read_bytes().splitlines():
            if any(one in line for one in quoted):
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    async def status(self) -> dict[str, list[dict[str, Any]]]:
        """What `/status` shows; {} while it does not answer."""
        try:
            code, body = await fetch(f"{self.url}/status", 5.0)
        except (OSError, TimeoutError):
            return {}
        found: dict[str, list[dict[str, Any]]] = json.loads(body) if code == 200 else {}
        return found

    async def cells(self) -> dict[str, str]:
        """Cell -> state."""
        return {row["cell"]: row["state"] for row in (await self.status()).get("cells", [])}


class System:
    """What runs in one folder with one set of settings."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.declared = app.declarations(settings)
        self._logs = folder / "logs"
        self._variables = environment(settings)
        self._ports: set[int] = set()
        self.programs: dict[str, Program] = {}

    def change(self, **changes: Any) -> None:
        """Replace whole tables of the settings, for what is started from here on."""
        self.settings = replace(self.settings, **changes)
        self._variables = environment(self.settings)

    def serve(self, name: str) -> Program:
        """Start the local server called `name`."""
        one = server(name, self.settings)
        return self._add(Program(name, ["serve", name], self._variables, self._logs, one.is_ready))

    def run(self, process: str, *options: str, name: str = "", nats_url: str = "") -> Program:
        """Start one of Tidegate's own processes; a second one of a kind gets ports of its own.

        With `nats_url`, it connects there.
        """
        port, variables = own_ports(self.settings)[process], self._variables
        if port in self._ports:
            port, other = free_ports(2)
            key = port_key(process)
            variables = variables | {f"TIDEGATE_HTTP_{key}".upper(): str(port)}
            if hasattr(self.settings.grpc, key):
                variables[f"TIDEGATE_GRPC_{key}".upper()] = str(other)
        self._ports.add(port)
        url = f"http://127.0.0.1:{port}"
        if nats_url:
            variables = variables | {"NATS_URL": nats_url}
        is_ready = partial(answers_http, f"{url}/readyz")
        return self._add(Program(name or process, ["run", process, *options], variables, self._logs, is_ready, url))

    def _add(self, program: Program) -> Program:
        assert program.name not in self.programs
        self.programs[program.name] = program
        program.start()
        return program

    async def ready(self) -> None:
        """Returns when all that was started is ready."""
        await asyncio.gather(*(program.ready() for program in self.programs.values()))

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A connection, with the declared streams there."""
        async with connect(self.settings.nats_url) as bus:
            await streams.apply(bus, self.declared)
            yield bus


@contextmanager
def system(folder: Path, **changes: Any) -> Iterator[System]:
    """A System in `folder`, with free ports; `changes` replaces whole tables of its settings."""
    one = System(folder, replace(local_settings(folder), **changes))
    try:
        yield one
    finally:
        for program in reversed(one.programs.values()):
            program.kill()


def _run(one: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *arguments]
    return subprocess.run(command, env=environment(one.settings), cwd=ROOT, capture_output=True, text=True, timeout=150)


async def tidegate(one: System, *arguments: str) -> str:
    """Run a command, which has to succeed; returns what it printed."""
    done = await asyncio.to_thread(_run, one, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
