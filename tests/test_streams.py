"""Declared streams against a real server's: the plan shows each difference, applying removes it and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.system.harness import system
from tidegate import streams
from tidegate.bus import Bus, connect
from tidegate.errors import BusError
from tidegate.streams import Change
from tidegate.subject import Declarations, load_declarations

pytestmark = pytest.mark.anyio
DECLARED = load_declarations(Path(__file__).parents[1] / "subjects")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    with system(tmp_path) as one:
        await one.serve("nats").ready()
        async with connect(one.settings.nats_url) as bus:
            yield bus


async def config(bus: Bus, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bus.api(f"STREAM.INFO.{name}"))["config"]
    return found


async def test_a_fresh_server_gets_all_streams_and_then_nothing_more_is_to_do(bus: Bus) -> None:
    missing = await streams.plan(bus, DECLARED)
    assert {(change.stream, change.setting, change.server) for change in missing} == {
        ("COMMAND", "", None),
        ("INGEST", "", None),
        ("LOG", "", None),
    }
    assert await streams.apply(bus, DECLARED) == missing
    assert await streams.plan(bus, DECLARED) == []
    before = [await config(bus, name) for name in DECLARED.streams]
    assert await streams.apply(bus, DECLARED) == []
    assert [await config(bus, name) for name in DECLARED.streams] == before
    assert (await config(bus, "LOG"))["allow_atomic"] is True


async def test_what_was_changed_by_hand_is_shown_and_put_right_and_no_message_is_lost(bus: Bus) -> None:
    await streams.apply(bus, DECLARED)
    for number in range(5):
        await bus.publish("ingest.test.0", b"%d" % number)
    changed = await config(bus, "INGEST") | {"max_age": 600 * 10**9, "max_msg_size": 1000, "description": "by hand"}
    await bus.api("STREAM.UPDATE.INGEST", changed)
    expected = [
        Change(stream="INGEST", setting=setting, server=server, declared=declared)
        for setting, server, declared in (
            ("description", "by hand", DECLARED.streams["INGEST"].description),
            ("max_age", 600 * 10**9, DECLARED.streams["INGEST"].max_age_seconds * 10**9),
            ("max_msg_size", 1000, DECLARED.streams["INGEST"].max_message_bytes),
        )
    ]
    assert await streams.plan(bus, DECLARED) == expected
    assert await streams.apply(bus, DECLARED) == expected
    assert await streams.plan(bus, DECLARED) == []
    assert (await bus.stream("INGEST")).messages == 5


async def test_what_the_server_cannot_change_in_place_is_reported_and_left_as_it_is(bus: Bus) -> None:
    await streams.apply(bus, DECLARED)
    other = Declarations(streams=DECLARED.streams | {"LOG": replace(DECLARED.streams["LOG"], storage="memory")})
    before = await config(bus, "LOG")
    with pytest.raises(BusError) as caught:
        await streams.apply(bus, other)
    assert caught.value.code
    assert await config(bus, "LOG") == before


async def test_a_missing_stream_is_made_while_others_are_left_alone(bus: Bus) -> None:
    await streams.apply(bus, DECLARED)
    await bus.publish("ingest.test.0", b"kept")
    await bus.api("STREAM.DELETE.LOG")
    assert [(change.stream, change.setting) for change in await streams.apply(bus, DECLARED)] == [("LOG", "")]
    assert (await bus.stream("INGEST")).messages == 1


async def test_a_plain_publish_gets_a_partition_from_a_server_without_mappings_too(bus: Bus) -> None:
    # The shipped nats.conf maps `ingest.*`; the stream's own transform is what other servers have.
    transform = (await streams.apply(bus, DECLARED)) and (await config(bus, "INGEST"))["subject_transform"]
    assert transform == {"src": "ingest.*", "dest": "ingest.{{wildcard(1)}}.{{partition(4,1)}}"}
    await bus.send("ingest.plain", b"{}")
    await bus.publish("ingest.plain.3", b"{}")
    stored = [await bus.message_at("INGEST", sequence) for sequence in (1, 2)]
    assert all(one is not None and one.subject in {f"ingest.plain.{n}" for n in range(4)} for one in stored)
    assert stored[1] is not None
    assert stored[1].subject == "ingest.plain.3"
