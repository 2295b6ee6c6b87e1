"""One of Tidegate's own processes for a benchmark, on ports of its own, and open to this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from tidegate.config import Settings, port_key
from tidegate.errors import LocalServerError
from tidegate.local.processes import environment
from tidegate.local.servers import HOST, answers_http

__all__ = ["Running", "free_port", "running"]


class Running(NamedTuple):
    port: int
    pid: int

    def most_memory(self) -> int:
        """Megabytes that it has had in memory at most; 0 where there is no /proc."""
        path = Path(f"/proc/{self.pid}/status")
        lines = path.read_text().splitlines() if path.exists() else []
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:")), 0)


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


@contextlib.asynccontextmanager
async def running(name: str, settings: Settings, *arguments: str) -> AsyncIterator[Running]:
    """The process `tidegate run NAME`, ready; gone when the block ends. Raises LocalServerError."""
    port, key = free_port(), port_key(name)
    grpc = {key: free_port()} if hasattr(settings.grpc, key) else {}
    own = replace(
        settings,
        http=replace(settings.http, host=HOST, **{key: port}),
        grpc=replace(settings.grpc, host=HOST, **grpc),
        # Readers and clients here have no keys.
        auth=replace(settings.auth, mode="off"),
    )
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidegate", "run", name, *arguments, env=environment(own), stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 30
            while not await answers_http(f"http://{HOST}:{port}/readyz"):
                if process.returncode is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise LocalServerError(f"{name} is not ready: {log.read()[-500:].decode(errors='replace')}")
                await asyncio.sleep(0.05)
            yield Running(port, process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    await asyncio.shield(process.wait())
            except TimeoutError:
                process.kill()
                await asyncio.shield(process.wait())
