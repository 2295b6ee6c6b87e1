"""The servers and processes of a benchmark: its own in a temporary folder, or those of the settings.

Invariant: whatever was started or created here is gone when the block ends, however it ends.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
from msgspec.structs import replace

from tidegate import streams
from tidegate.bus import STREAM_NOT_FOUND, Bus
from tidegate.config import Auth, Grpc, Http, Local, Settings
from tidegate.errors import BusError, ConfigError
from tidegate.local.processes import address, table
from tidegate.local.servers import HOST
from tidegate.local.supervisor import Supervisor
from tidegate.subject import Declarations

__all__ = ["Place", "fresh_streams", "own_streams", "servers", "without_streams"]


class Place(NamedTuple):
    """Where a benchmark runs."""

    settings: Settings
    text: str
    """For people."""
    external: bool


@asynccontextmanager
async def servers(names: Sequence[str], settings: Settings, *, external: bool) -> AsyncIterator[Place]:
    """The servers called `names`, running. `external`: those of the settings, which then have to be there."""
    if external:
        text = ", ".join(f"{name} at {address(name, settings)}" for name in names)
        yield Place(settings, text, True)
        return
    base = _disk(settings)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir=base))
    try:
        own = _on_free_ports(settings, folder)
        processes = [process for process in table(own) if process.name in names]
        async with Supervisor(own, processes, say=lambda line: None, log=lambda name, line: None).running():
            yield Place(own, f"{base} ({_file_system(base)})", False)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _on_free_ports(settings: Settings, folder: Path) -> Settings:
    local, http, grpc = (
        [name for name in one.__struct_fields__ if name.endswith("_port")] for one in (Local, Http, Grpc)
    )
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in local + http + grpc]
        for one in sockets:
            one.bind((HOST, 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
    return replace(
        settings,
        local=Local(data_dir=str(folder), **dict(zip(local, ports, strict=False))),
        http=replace(Http(), **dict(zip(http, ports[len(local) :], strict=False))),
        grpc=replace(Grpc(), **dict(zip(grpc, ports[len(local) + len(http) :], strict=True))),
        auth=Auth(mode="off"),
        nats=replace(settings.nats, url=None, monitor_url=None, credentials_file=None),
        redis=replace(settings.redis, url=None),
        mongodb=replace(settings.mongodb, uri=None),
        s3=replace(settings.s3, endpoint=None),
        catalog=replace(settings.catalog, uri=None),
    )


def _disk(settings: Settings) -> Path:
    """A folder on a real disk: the one for temporary files, unless that is in memory."""
    temporary = Path(tempfile.gettempdir())
    if _file_system(temporary) not in ("tmpfs", "ramfs"):
        return temporary
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return settings.data_dir.absolute()


def _file_system(folder: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown file system"
    entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    real = str(folder.resolve())
    holding = [(point, kind) for point, kind in entries if real == point or real.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda one: len(one[0]))[1]


async def fresh_streams(bus: Bus, declared: Declarations, place: Place, *, first: bool) -> None:
    """Empty streams. Raises ConfigError when servers of the settings have streams that hold something."""
    if first and place.external:
        for name in declared.streams:
            try:
                state = await bus.stream(name)
            except BusError as error:
                if error.code != STREAM_NOT_FOUND:
                    raise
                continue
            if state.last_sequence:
                raise ConfigError(
                    "--external", f"stream {name} holds messages, and a benchmark would delete them; use another server"
                )
    await without_streams(bus, declared)
    await streams.apply(bus, declared)


@asynccontextmanager
async def own_streams(bus: Bus, declared: Declarations, place: Place) -> AsyncIterator[None]:
    """Empty streams until the block ends."""
    await fresh_streams(bus, declared, place, first=True)
    try:
        yield
    finally:
        if bus.connected:
            await without_streams(bus, declared)


async def without_streams(bus: Bus, declared: Declarations) -> None:
    """Delete the streams."""
    for name in declared.streams:
        try:
            await bus.api(f"STREAM.DELETE.{name}")
        except BusError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
