"""The connection to a real NATS server: its refusals, reading long ranges, and what comes of lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from tests.conftest import free_ports
from tests.system.harness import System, system, until
from tidegate import reader
from tidegate.bus import STREAM_NOT_FOUND, Bus, Outgoing, connect, connect_patiently
from tidegate.config import Settings
from tidegate.errors import BusError, BusUnavailableError
from tidegate.reader import read

pytestmark = pytest.mark.anyio
_numbers = itertools.count(1)


@pytest.fixture
async def bus(nats_server: Settings) -> AsyncIterator[Bus]:
    async with connect(nats_server.nats_url) as bus:
        yield bus


async def make(bus: Bus, **changes: object) -> str:
    """A stream of its own; its subjects are `<name>.>`."""
    name = f"S{next(_numbers)}"
    config = {"name": name, "subjects": [f"{name}.>"], "storage": "file", "allow_direct": True, **changes}
    await bus.api(f"STREAM.CREATE.{name}", config)
    return name


async def silent(_: Msg) -> None:
    pass


def test_a_connection_that_was_reset_is_unavailable_and_comes_back_with_uvloop_too(nats_server: Settings) -> None:
    async def reset_and_send() -> None:
        async with connect(nats_server.nats_url) as bus:
            for _ in range(3):
                bus._client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
                # The client finds out at one of these, before the event loop tells it.
                with contextlib.suppress(BusUnavailableError):
                    for _ in range(10):
                        await bus.send("reset", b"x")
                        await asyncio.sleep(0)
                async with asyncio.timeout(10):
                    while not bus.connected:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                await bus.stream(await make(bus))

    anyio.run(reset_and_send, backend_options={"use_uvloop": True})


async def test_errors_of_jetstream_carry_its_code(bus: Bus) -> None:
    with pytest.raises(BusError) as caught:
        await bus.stream("NOSUCH")
    assert caught.value.code == STREAM_NOT_FOUND
    name = await make(bus, max_msg_size=100)
    with pytest.raises(BusError) as caught:
        await bus.publish(f"{name}.a", bytes(200))
    assert caught.value.code == 10054  # JSStreamMessageExceedsMaximumErr
    assert (await bus.publish(f"{name}.a", bytes(20))).seq == 1


async def test_a_full_stream_that_discards_new_messages_counts_as_not_available_now(bus: Bus) -> None:
    name = await make(bus, discard="new", max_msgs=1)
    await bus.publish(f"{name}.a", b"first")
    with pytest.raises(BusUnavailableError, match="maximum messages"):
        await bus.publish(f"{name}.a", b"second")


async def test_a_range_is_read_once_and_in_order(bus: Bus) -> None:
    name = await make(bus)
    futures = [await bus.submit(Outgoing(f"{name}.{'ab'[n % 2]}", b"%d" % n, {})) for n in range(2100)]
    assert [(await bus.acknowledged(one)).seq for one in futures] == list(range(1, 2101))
    found = [(one.sequence, one.payload) async for one in read(bus, name, f"{name}.>", 1, 2100)]
    assert found == [(n + 1, b"%d" % n) for n in range(2100)]
    assert [one.sequence async for one in read(bus, name, f"{name}.b", 11, 20)] == [12, 14, 16, 18, 20]
    assert [one.sequence async for one in read(bus, name, f"{name}.c", 1, 2100)] == []
    assert [one.sequence async for one in read(bus, name, f"{name}.a", 2100, 2100)] == []


async def test_a_range_of_large_messages_is_read_in_bounded_batches(bus: Bus) -> None:
    name = await make(bus)
    for number in range(12):
        await bus.publish(f"{name}.a", bytes([number]) * 3_000_000)
    found = [(one.sequence, one.payload[:1]) async for one in read(bus, name, f"{name}.>", 1, 12)]
    assert found == [(n + 1, bytes([n])) for n in range(12)]


async def test_reading_ends_when_the_last_messages_of_the_range_have_been_removed(bus: Bus) -> None:
    name = await make(bus, allow_rollup_hdrs=True)
    for number in range(600):
        await bus.publish(f"{name}.{'keep' if number < 510 else 'rolled'}", b"x")
    async with asyncio.timeout(15):
        found = []
        async for one in read(bus, name, f"{name}.>", 1, 600):
            found.append(one.sequence)
            if len(found) == 100:
                await bus.publish(f"{name}.rolled", b"y", {"Nats-Rollup": "sub"})
    assert found == list(range(1, 511))


async def test_reading_goes_on_after_the_server_has_forgotten_an_idle_consumer(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_BATCH", 20)
    name = await make(bus)
    for _ in range(50):
        await bus.publish(f"{name}.a", b"x")
    found = []
    async for one in read(bus, name, f"{name}.>", 1, 50):
        found.append(one.sequence)
        if len(found) in (10, 30):  # in the midst of a batch, as a read model that is slow to write does
            names = (await bus.api(f"CONSUMER.NAMES.{name}"))["consumers"]
            for consumer in names:
                await bus.api(f"CONSUMER.DELETE.{name}.{consumer}")
    assert found == list(range(1, 51))


async def test_a_connection_that_cannot_be_made_names_the_address(nats_server: Settings) -> None:
    url = f"nats://127.0.0.1:{free_ports(1)[0]}"
    started = time.monotonic()
    with pytest.raises(BusUnavailableError, match=url):
        async with connect(url, connect_timeout_seconds=0.5):
            pass
    assert time.monotonic() - started < 2


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[System]:
    """A server that a test may kill."""
    with system(tmp_path) as one:
        await one.serve("nats").ready()
        yield one


async def test_whoever_waits_for_an_answer_learns_at_once_that_the_server_was_killed(own: System) -> None:
    async with connect(own.settings.nats_url) as bus:
        lost: list[str] = []
        bus.on_disconnect(lost.append)
        await bus.subscribe("silence", silent)
        asking = asyncio.create_task(bus.request("silence", b"", 30))
        submitted = await bus.submit(Outgoing("silence", b"", {}))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        own.programs["nats"].kill()
        with pytest.raises(BusUnavailableError):
            await asking
        with pytest.raises(BusUnavailableError):
            await bus.acknowledged(submitted)
        with pytest.raises(BusUnavailableError):
            await bus.publish("silence", b"")
        assert time.monotonic() - started < 1
        assert not bus.connected
        assert len(lost) == 1


async def test_after_a_restart_of_the_server_subscriptions_and_readers_go_on(own: System) -> None:
    nats = own.programs["nats"]
    async with connect(own.settings.nats_url) as bus:
        name = await make(bus)
        for number in range(1500):
            await bus.publish(f"{name}.a", b"%d" % number)
        heard: list[bytes] = []

        async def hear(message: Msg) -> None:
            heard.append(message.data)

        await bus.subscribe("talk", hear)
        back = asyncio.Event()
        undo = bus.on_reconnect(back.set)
        found = []
        async for one in read(bus, name, f"{name}.>", 1, 1500):
            found.append(one.payload)
            if len(found) == 700:
                nats.kill()
                nats.start()
        assert found == [b"%d" % number for number in range(1500)]
        await asyncio.wait_for(back.wait(), 5)
        undo()
        await bus.send("talk", b"again")

        async def was_heard() -> bool:
            return heard == [b"again"]

        await until(was_heard, 5, "the subscription has been renewed")


async def test_a_patient_connection_waits_for_the_server(own: System) -> None:
    nats = own.programs["nats"]
    nats.kill()
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, nats.start)
    async with connect_patiently(
        own.settings.nats_url, on_wait=lambda _, pause: waits.append(pause), connect_timeout_seconds=0.3
    ) as bus:
        assert msgspec.json.decode((await bus.request("$JS.API.INFO")).data)["type"].endswith("account_info_response")
    assert waits == sorted(waits) != []
