"""What a consumer that is pulled from makes of a server that answers and delivers nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tidegate import app, streams, subject
from tidegate.actor.pulling import Delivered, OwnershipLostError, PullConsumer
from tidegate.bus import connect
from tidegate.config import Settings
from tidegate.errors import TidegateError

pytestmark = pytest.mark.anyio
BEAT_SECONDS = 0.2


async def next_of(consumer: PullConsumer) -> Delivered | TidegateError:
    async with asyncio.timeout(10):
        while True:
            consumer.wake.clear()
            if (found := consumer.pop() or consumer.trouble) is not None:
                return found
            await consumer.wake.wait()


async def test_messages_that_are_pending_and_do_not_come_are_noticed_and_read_after_a_new_beginning(
    nats_server: Settings,
) -> None:
    to = subject.command("pulling", 0)
    async with connect(nats_server.nats_url) as bus:
        await streams.apply(bus, app.declarations(nats_server))
        consumer = PullConsumer(bus, subject.COMMAND, "pulling", [to], beat_seconds=BEAT_SECONDS)
        await consumer.reset(0)
        try:
            (name,) = (await bus.api(f"CONSUMER.NAMES.{subject.COMMAND}"))["consumers"]
            # Seen on nats-server 2.15: a paused consumer sends heartbeats and ends requests, but delivers nothing.
            until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
            await bus.api(f"CONSUMER.PAUSE.{subject.COMMAND}.{name}", {"pause_until": until})
            await asyncio.sleep(BEAT_SECONDS * 8)
            assert consumer.trouble is None, "nothing is pending yet, so there is nothing to miss"
            await bus.publish(to, b"here")
            trouble = await next_of(consumer)
            assert isinstance(trouble, OwnershipLostError)
            assert str(trouble) == f"{name}: 1 messages are pending, but none comes"
            await consumer.reset(0)
            found = await next_of(consumer)
            assert isinstance(found, Delivered)
            assert found.payload == b"here"
        finally:
            await consumer.release()
