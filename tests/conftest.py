"""Real servers for tests: each started once a test process, on free ports, in a temporary folder."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from tidegate.config import Auth, Grpc, Http, Local, Settings
from tidegate.local.servers import Server, server, wait_ready

pytest.register_assert_rewrite("tests.tiers.contract")

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def local_settings(folder: Path) -> Settings:
    """Settings with everything local to `folder` and on free ports."""
    servers = [name for name in Local.__struct_fields__ if name.endswith("_port")]
    own = [name for name in Http.__struct_fields__ if name.endswith("_port")]
    grpc = [name for name in Grpc.__struct_fields__ if name.endswith("_port")]
    ports = dict(zip(servers + own, free_ports(len(servers + own)), strict=True))
    return Settings(
        auth=Auth(mode="off"),
        local=Local(data_dir=str(folder), **{name: ports[name] for name in servers}),
        http=replace(Http(), **{name: ports[name] for name in own}),
        grpc=replace(Grpc(), **dict(zip(grpc, free_ports(len(grpc)), strict=True))),
    )


@contextmanager
def running(one: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The server, started and ready; killed at the end."""
    one.directory.mkdir(parents=True, exist_ok=True)
    with (one.directory.parent / f"{one.name}.log").open("ab") as log:
        process = subprocess.Popen(
            one.command, env={**os.environ, **one.environment}, cwd=one.directory, stdout=log, stderr=log
        )
    try:
        asyncio.run(wait_ready(one))
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings shared by all tests of one test process; no server runs until a fixture below is asked for."""
    return local_settings(tmp_path_factory.mktemp("tidegate"))


@pytest.fixture(scope="session")
def serve(settings: Settings) -> Iterator[Callable[[str], Settings]]:
    """`serve("redis")` starts that server once and returns the settings that point at it."""
    with ExitStack() as stack:
        started: set[str] = set()

        def start(name: str) -> Settings:
            if name not in started:
                stack.enter_context(running(server(name, settings)))
                started.add(name)
            return settings

        yield start


@pytest.fixture(scope="session")
def nats_server(serve: Callable[[str], Settings]) -> Settings:
    return serve("nats")


@pytest.fixture(scope="session")
def redis_server(serve: Callable[[str], Settings]) -> Settings:
    return serve("redis")


@pytest.fixture(scope="session")
def mongo_server(serve: Callable[[str], Settings]) -> Settings:
    return serve("mongo")


@pytest.fixture(scope="session")
def s3_server(serve: Callable[[str], Settings]) -> Settings:
    return serve("s3")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded real events, where they are at hand."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no recorded events at {SHARED_DATA}")
    return SHARED_DATA
