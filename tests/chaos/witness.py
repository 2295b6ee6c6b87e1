"""Who gives commands and who listens while everything goes wrong.

Invariant: a command counts as answered only when an answer has come; it is given under one id however often.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from nats.aio.msg import Msg

from tidegate import subject
from tidegate.actor.system import System as Entities
from tidegate.bus import Bus
from tidegate.entities.alert import Acknowledge, Raise
from tidegate.errors import BusUnavailableError

__all__ = ["Asker", "asking", "listening"]

PAUSE_SECONDS = 0.2


class Asker:
    """Raises an alert and acknowledges it, and the next one, and so on."""

    def __init__(self, entities: Entities) -> None:
        self._entities = entities
        self._stopping = False
        self.answered: set[str] = set()
        """Command ids."""
        self.unanswered = 0
        self.wrong_versions = 0
        """Answers that name another version than the command must have led to."""

    async def run(self) -> None:
        """Until stopped, and the last one is answered."""
        number = 0
        while not self._stopping:
            number += 1
            if await self._ask(number, "raise", Raise(title="asked for", severity=2), 1):
                await self._ask(number, "acknowledge", Acknowledge(by="chaos"), 2)
            await asyncio.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        self._stopping = True

    async def _ask(self, number: int, what: str, command: object, version: int) -> bool:
        command_id = f"{what} {number}"
        try:
            answer = await self._entities.ask(
                "alert", f"asked-{number}", command, command_id=command_id, timeout_seconds=60
            )
        except BusUnavailableError:
            self.unanswered += 1
            return False
        self.answered.add(command_id)
        self.wrong_versions += answer.version != version
        return True


@asynccontextmanager
async def asking(asker: Asker) -> AsyncIterator[None]:
    """It asks until the block ends."""
    task = asyncio.create_task(asker.run())
    try:
        yield
    finally:
        asker.stop()
        await task


@asynccontextmanager
async def listening(bus: Bus, told: Counter[str]) -> AsyncIterator[None]:
    """Until the block ends, `told` gets alert id -> how often it was told."""

    async def hear(message: Msg) -> None:
        told[msgspec.json.decode(message.data)["id"]] += 1

    subscription = await bus.subscribe(subject.ALERT_RAISED, hear)
    try:
        yield
    finally:
        await bus.unsubscribe(subscription)
