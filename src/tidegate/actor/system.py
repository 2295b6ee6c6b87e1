"""Commands to entities, from Python and from any NATS client, with answers that come after the commit.

Invariant: a command is given under one id however often it is sent, so that it takes effect once, and whoever asks
hears what became of it, or that it is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import msgspec
from nats.aio.msg import Msg

from tidegate import subject
from tidegate.actor.entity import Change, Codec, Command, Entity
from tidegate.actor.host import REPLY, Answer, Refusal, answers
from tidegate.bus import Bus as NatsBus
from tidegate.bus import PublishAck
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError
from tidegate.log import Log, lines_of

__all__ = ["Asking", "System", "forwarding"]

_AGAIN_AFTER_SECONDS = 2.0


class Asking(Protocol):
    """What `System` needs of a bus."""

    @property
    def connected(self) -> bool: ...

    def expect(self) -> tuple[str, asyncio.Future[Msg]]: ...

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> PublishAck: ...


class System:
    """The entities, wherever they run."""

    def __init__(self, bus: Asking, log: Log) -> None:
        self._bus = bus
        self.log = log

    async def ask(
        self,
        kind: str,
        entity_id: str,
        command: Any,
        *,
        command_id: str = "",
        expected_version: int | None = None,
        timeout_seconds: float = 10.0,
    ) -> Answer:
        """Give a command to an entity; returns once it is decided on and what it changes is in the log.

        Sent again, under the same id, while no answer comes. Raises CommandRefusedError when the entity refuses it,
        BusUnavailableError when no answer has come in time: then it may take effect or not; asking again with the same
        `command_id` tells.
        """
        return await self._ask(
            kind,
            Command(
                id=entity_id,
                command=msgspec.Raw(msgspec.json.encode(command)),
                command_id=command_id or uuid.uuid4().hex,
                expected_version=expected_version,
            ),
            timeout_seconds,
        )

    async def get(self, kind: str, entity_id: str, *, timeout_seconds: float = 10.0) -> Answer:
        """The entity's version and state (`null` when nothing is known of it), after all commands given before."""
        return await self._ask(kind, Command(id=entity_id), timeout_seconds)

    async def changes(self, entity: Entity[Any, Any, Any]) -> AsyncGenerator[Change, None]:
        """Everything that has happened to entities of a kind, in the order of the log, up to now."""
        codec = Codec(entity)
        _, serving = await self.log.generation(entity.kind)
        name = subject.generation_of(entity.kind, serving.active)
        async with contextlib.aclosing(self.log.read(subject.entity(name, "*"))) as messages:
            async for message in messages:
                for line in lines_of(message):
                    yield codec.change(line)

    async def _ask(self, kind: str, command: Command, timeout_seconds: float) -> Answer:
        to = subject.command(kind, subject.shard_of(command.id, self.log.shards))
        payload = msgspec.json.encode(command)
        deadline = time.monotonic() + timeout_seconds
        reason = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            token, future = self._bus.expect()
            try:
                async with asyncio.timeout(min(left, _AGAIN_AFTER_SECONDS)):
                    await self._bus.publish(to, payload, {REPLY: token})
                    message = await future
            except TimeoutError:
                reason = f"no {kind} cell has answered"
                continue
            except BusUnavailableError as error:
                reason = str(error)
                await asyncio.sleep(0.1)
                continue
            finally:
                future.cancel()
            (answer,) = answers(message.data)
            if answer.refused is not None:
                raise CommandRefusedError(answer.refused.code, answer.refused.problem)
            return answer
        raise BusUnavailableError(
            f"{kind} {command.id!r}: {reason} within {timeout_seconds:g} s; is the process `entities` up?"
        )


@contextlib.asynccontextmanager
async def forwarding(bus: NatsBus, kinds: set[str], shards: int) -> AsyncIterator[None]:
    """Requests on `ask.<kind>`, each a Command as JSON, become commands; the entity's cell answers the requester.

    So `nats request ask.alert '{"id": "...", "command": {...}}'` works from any client, without knowing of shards.
    """

    async def forward(message: Msg) -> None:
        try:
            command = msgspec.json.decode(message.data, type=Command)
            if not command.id:
                raise CommandRefusedError("invalid", "the id of the entity is missing")
            to = subject.command(message.subject.partition(".")[2], subject.shard_of(command.id, shards))
            await bus.publish(to, message.data.replace(b"\n", b" "), {REPLY: message.reply})
        except (msgspec.MsgspecError, RecursionError, UnicodeError, CommandRefusedError) as error:
            await _refuse(message, "invalid", f"not a command: {error}")
        except (BusError, BusUnavailableError) as error:
            await _refuse(message, "unavailable", str(error))

    async def _refuse(message: Msg, code: str, problem: str) -> None:
        if message.reply:
            with contextlib.suppress(BusUnavailableError):
                await bus.send(message.reply, msgspec.json.encode(Answer(refused=Refusal(code, problem))))

    subscriptions = [await bus.subscribe(subject.ask(kind), forward, queue="tidegate") for kind in sorted(kinds)]
    try:
        yield
    finally:
        for one in subscriptions:
            await bus.unsubscribe(one)
