"""`tidegate up` and `down`: start the processes of a local run, watch them, end them all.

Invariant: no child outlives its supervisor, however that ends; one supervisor a data directory.

Order of a start: 1. lock, 2. end what a killed run left, 3. check every port, 4. servers, 5. their readiness,
6. Tidegate's own processes, 7. their readiness. The end: Tidegate's own processes first, then the servers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
from msgspec.structs import replace

from tidegate.config import Settings
from tidegate.errors import LocalServerError
from tidegate.local.processes import (
    Child,
    Process,
    Run,
    alive,
    birth,
    end_leftovers,
    environment,
    read_run,
    table,
    write_run,
)
from tidegate.local.servers import PARENT, check_ports_free

__all__ = ["Supervisor", "check_ports", "detach", "down", "up"]

SERVER_READY_SECONDS = 30.0
OWN_READY_SECONDS = 60.0
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
RESTARTS, RESTARTS_WITHIN_SECONDS = 3, 60.0
TAIL_LINES = 20
MAX_LINE_BYTES = 64 * 1024
Say = Callable[[str], None]
Log = Callable[[str, bytes], None]
"""Takes a process's name and one line that it printed."""


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            run = read_run(data_dir)
            who = f"pid {run.pid}" if run is not None and alive(run) else "just starting or ending"
            raise LocalServerError(
                f"already running on {data_dir} ({who}); `tidegate status` shows it, `tidegate down` ends it"
            ) from None
        yield


def check_ports(processes: Sequence[Process]) -> None:
    """Raises LocalServerError for a port that is taken, or that two settings share."""
    seen: dict[int, str] = {}
    for process in processes:
        for setting, port in process.ports.items():
            if port in seen:
                raise LocalServerError(f"{setting} and {seen[port]} are both {port}; each needs a port of its own")
            seen[port] = setting
    check_ports_free({setting: port for port, setting in seen.items()})


class Supervisor:
    """The children of one local run."""

    def __init__(self, settings: Settings, processes: Sequence[Process], *, say: Say, log: Log) -> None:
        """`say` takes one line about the run; `log` takes what a child prints once everything is ready."""
        self._data_dir = settings.data_dir
        self._processes = processes
        self._environment = environment(settings) | {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._say = say
        self._log = log
        self._run = Run(pid=os.getpid(), birth=birth(os.getpid()) or 0, since=time.time(), ready=False, children=[])
        self._children: dict[str, Child] = {}
        self._handles: dict[str, anyio.abc.Process] = {}
        self._tails: dict[str, deque[bytes]] = {}
        self._failure: LocalServerError | None = None
        self._failed = anyio.Event()
        self._ending = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything runs and is ready inside, and is gone after.

        Raises LocalServerError, also into the body, when a process cannot be started or fails for good.
        """
        with _locked(self._data_dir):
            if run := read_run(self._data_dir):
                for child in await anyio.to_thread.run_sync(end_leftovers, run):
                    self._say(f"ended {child.name} (pid {child.pid}), left over from a run that was killed")
            check_ports(self._processes)
            for process in self._processes:
                log = self._log_path(process.name)
                log.parent.mkdir(exist_ok=True)
                if log.exists():
                    log.replace(log.with_suffix(".log.1"))
            self._record()
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch)
                    try:
                        await self._start([one for one in self._processes if not one.own], group, SERVER_READY_SECONDS)
                        await self._start([one for one in self._processes if one.own], group, OWN_READY_SECONDS)
                        self._say("ready")
                        self._record(ready=True)
                        yield
                    finally:
                        with anyio.CancelScope(shield=True):
                            await self._end()
                        group.cancel_scope.cancel()
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
            finally:
                write_run(self._data_dir, None)

    def kill(self) -> None:
        """End every child at once, without grace."""
        self._ending.set()
        for handle in self._handles.values():
            _signal_group(handle, signal.SIGKILL)

    def _log_path(self, name: str) -> Path:
        return self._data_dir / "logs" / f"{name}.log"

    def _record(self, *, ready: bool | None = None) -> None:
        ready = self._run.ready if ready is None else ready
        self._run = replace(self._run, ready=ready, children=list(self._children.values()))
        write_run(self._data_dir, self._run)

    async def _watch(self) -> None:
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def _start(self, processes: Sequence[Process], group: anyio.abc.TaskGroup, timeout_seconds: float) -> None:
        """Start all; returns when all are ready."""
        waiting = {process.name: anyio.Event() for process in processes}
        for process in processes:
            group.start_soon(self._keep, process, waiting[process.name])
        with anyio.move_on_after(timeout_seconds) as scope:
            for ready in waiting.values():
                await ready.wait()
        if scope.cancelled_caught:
            late = [name for name, ready in waiting.items() if not ready.is_set()]
            tails = "".join(map(self._last_lines, late))
            raise LocalServerError(f"not ready within {timeout_seconds:g} s: {', '.join(late)}{tails}")

    async def _keep(self, process: Process, ready: anyio.Event) -> None:
        """Run one process until the end; start one of Tidegate's own again when it crashes after it was ready."""
        crashes: deque[float] = deque(maxlen=RESTARTS + 1)
        # Shielded: what a child prints while it is being ended is read too, else it could block on a full pipe.
        with anyio.CancelScope(shield=True):
            while True:
                status = await self._run_once(process, ready)
                if self._ending.is_set():
                    return
                crashes.append(time.monotonic())
                too_often = len(crashes) > RESTARTS and crashes[-1] - crashes[0] < RESTARTS_WITHIN_SECONDS
                problem = f"{process.name} ended: {_explain(status)}"
                if not process.own or not ready.is_set() or too_often:
                    self._failure = LocalServerError(problem + self._last_lines(process.name))
                    self._failed.set()
                    return
                pause = 0.25 * 2 ** (len(crashes) - 1)
                self._say(f"{problem}; starting it again in {pause:g} s")
                await anyio.sleep(pause)
                if self._ending.is_set():
                    return

    async def _run_once(self, process: Process, ready: anyio.Event) -> int:
        handle = await anyio.open_process(
            process.command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        self._handles[process.name] = handle
        if self._ending.is_set():
            _signal_group(handle, signal.SIGKILL)
        before = self._children.get(process.name)
        self._children[process.name] = Child(
            name=process.name,
            pid=handle.pid,
            birth=birth(handle.pid) or 0,
            address=process.address,
            own=process.own,
            since=time.time(),
            restarts=before.restarts + 1 if before else 0,
        )
        self._record()
        drained = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, process.name, handle, drained)
            group.start_soon(self._report_ready, process, ready)
            status = await handle.wait()
            _signal_group(handle, signal.SIGKILL)  # what it may have started itself
            with anyio.move_on_after(1):
                await drained.wait()
            group.cancel_scope.cancel()
        await handle.aclose()
        return status

    async def _report_ready(self, process: Process, ready: anyio.Event) -> None:
        began = time.monotonic()
        while not await process.is_ready():  # noqa: ASYNC110
            await anyio.sleep(0.03)
        seconds = time.monotonic() - began
        child = replace(self._children[process.name], ready=True, ready_seconds=round(seconds, 3))
        self._children[process.name] = child
        self._record()
        self._say(f"{child.name:<24} pid {child.pid:<8} {child.address:<32} ready in {seconds:.2f} s")
        ready.set()

    async def _read(self, name: str, handle: anyio.abc.Process, drained: anyio.Event) -> None:
        """Copy what the child prints to its log file, and line by line to `log`."""
        tail = self._tails[name] = deque(maxlen=TAIL_LINES)
        rest = b""
        with self._log_path(name).open("ab", buffering=0) as file:
            async for chunk in handle.stdout or ():  # type: ignore[union-attr]
                file.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                tail.extend(lines)
                if self._run.ready:
                    for line in lines:
                        self._log(name, line)
        if rest:
            tail.append(rest)
        drained.set()

    def _last_lines(self, name: str) -> str:
        lines = [line.decode(errors="replace") for line in self._tails.get(name, ())]
        return "\n  ".join([f"\nlast lines of {self._log_path(name)}:", *lines]) if lines else ""

    async def _end(self) -> None:
        """End Tidegate's own processes, then the servers that they need to end well."""
        self._ending.set()
        for own in (True, False):
            names = [process.name for process in self._processes if process.own == own]
            handles = [self._handles[name] for name in names if name in self._handles]
            for number, wait in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
                for handle in handles:
                    if handle.returncode is None:
                        _signal_group(handle, number)
                with anyio.move_on_after(wait):
                    for handle in handles:
                        await handle.wait()


def _signal_group(handle: anyio.abc.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(handle.pid, number)


def _explain(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """A failure of a process rather than what followed from it; a lone error without its wrapping."""
    failures = errors.subgroup(LocalServerError)
    error: BaseException = failures or errors
    while isinstance(error, BaseExceptionGroup) and (failures or len(error.exceptions) == 1):
        error = error.exceptions[0]
    return error


async def up(settings: Settings, processes: Sequence[Process] | None = None, *, say: Say, log: Log) -> None:
    """A local run until SIGINT, SIGTERM or SIGHUP; a second signal ends it without grace.

    Raises LocalServerError when a process cannot be started or fails for good.
    """
    supervisor = Supervisor(settings, table(settings) if processes is None else processes, say=say, log=log)

    async def listen(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                if scope.cancel_called:
                    supervisor.kill()
                else:
                    say(f"{number.name}: ending all")
                    scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(listen, scope)
            async with supervisor.running():
                await anyio.sleep_forever()
        group.cancel_scope.cancel()


def detach(settings: Settings, command: Sequence[str], say: Say) -> None:
    """Run `command` (a `tidegate up`) in the background; returns when everything is ready.

    Raises LocalServerError with what it printed when it ends before.
    """
    output = settings.data_dir / "logs" / "up.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=environment(settings),
        )
    while process.poll() is None:
        run = read_run(settings.data_dir)
        if run is not None and run.pid == process.pid and run.ready:
            say(output.read_text(errors="replace").rstrip())
            # It goes on without us; without this Popen would warn that nobody waits for it.
            process.returncode = 0
            return
        time.sleep(0.02)
    raise LocalServerError(f"ended before everything was ready:\n{output.read_text(errors='replace').rstrip()}")


def down(settings: Settings) -> str:
    """End the run on this data directory and wait until all its processes are gone; returns what was done."""
    run = read_run(settings.data_dir)
    if run is None or not (alive(run) or any(map(alive, run.children))):
        return f"nothing is running on {settings.data_dir}"
    if alive(run):
        os.kill(run.pid, signal.SIGTERM)
        deadline = time.monotonic() + 3 * GRACE_SECONDS
        while alive(run) and time.monotonic() < deadline:
            time.sleep(0.02)
        if alive(run):
            os.kill(run.pid, signal.SIGKILL)
    end_leftovers(run)
    return f"ended {len(run.children)} processes on {settings.data_dir} (supervisor pid {run.pid})"
