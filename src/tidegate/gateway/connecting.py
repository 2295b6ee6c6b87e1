"""Keeping one stream connection: connect, store what comes in INGEST, connect again after a loss, until it is closed.

Invariant: at most `_WAITING` messages are in memory for a connection; a slow log slows its sender down.

After a loss, what was sent meanwhile comes again only where the protocol has ids of messages (Server-Sent Events).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from tidegate import telemetry
from tidegate.actor.system import System
from tidegate.auth import Principal
from tidegate.entities.access_key import Grant
from tidegate.entities.connection import KIND, Connection, Endpoint, Forget, Lose, Open
from tidegate.errors import Code, RefusedError
from tidegate.event import Envelope
from tidegate.gateway.channel import Channel
from tidegate.gateway.configuration import Streams
from tidegate.gateway.policy import pause
from tidegate.gateway.transports.base import CallFailedError
from tidegate.service.publishing import Publishing

__all__ = ["ConnectionRunner"]

_WAITING = 1000
_BATCH = 500
_CONNECTION: msgspec.json.Decoder[Connection | None] = msgspec.json.Decoder(Connection | None)
Item = tuple[str, bytes] | CallFailedError


class ConnectionRunner:
    """Shared by all keepers of connections in a process."""

    def __init__(
        self,
        settings: Streams,
        system: Callable[[], System],
        channel: Callable[[str], Channel],
        publishing: Publishing,
    ) -> None:
        self._settings = settings
        self._system = system
        self._channel = channel
        self._publishing = publishing

    async def run(self, name: str) -> None:
        """Until the connection is closed."""
        losses = 0
        while (state := await self.state(name)) is not None and not state.settled:
            assert state.endpoint is not None
            following = _Following(state.last_id)
            try:
                await self._follow(name, state.endpoint, following)
            except CallFailedError as error:
                reason = f"{error.kind}: {error.problem}"
            losses = 1 if following.opened else losses + 1
            self._tell(name, state.endpoint, "lost", reason)
            await self._system().ask(KIND, name, Lose(reason, following.last_id))
            await asyncio.sleep(pause(losses, self._settings.backoff_seconds, self._settings.max_backoff_seconds))

    async def forget(self, name: str) -> None:
        """Fine for one that is forgotten already."""
        if await self.state(name) is not None:
            await self._system().ask(KIND, name, Forget())

    async def state(self, name: str) -> Connection | None:
        """None: nothing is known of it."""
        return _CONNECTION.decode((await self._system().get(KIND, name)).state)

    async def _follow(self, name: str, endpoint: Endpoint, following: _Following) -> None:
        """Raises CallFailedError, sooner or later."""
        channel = self._channel(endpoint.target)
        queue: asyncio.Queue[Item] = asyncio.Queue(_WAITING)
        reader = asyncio.create_task(_read(channel, endpoint.topic, following.last_id, queue))
        who = Principal(f"gateway {name}", Grant(scopes=("publish",), tenant=endpoint.tenant))
        try:
            while True:
                items = [await queue.get()]
                while len(items) < _BATCH and not queue.empty():
                    items.append(queue.get_nowait())
                messages = [one for one in items if not isinstance(one, CallFailedError)]
                if not following.opened and messages:
                    following.opened = True
                    await self._system().ask(KIND, name, Open())
                    self._tell(name, endpoint, "established", "")
                if lines := [_line(body) for _, body in messages if body]:
                    await self._store(who, endpoint.source, lines)
                    following.last_id = messages[-1][0] or following.last_id
                if isinstance(items[-1], CallFailedError):
                    raise items[-1]
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _store(self, who: Principal, source: str, lines: Sequence[bytes]) -> None:
        """Insists while NATS is away: meanwhile nothing more is read. Raises CallFailedError for what is refused."""
        key, attempt = uuid.uuid4().hex, 0
        while True:
            try:
                await self._publishing.publish(who, source, _body(lines), "application/x-ndjson", key=key)
            except RefusedError as error:
                # Invalid: no record of the batch was any good, and each is counted as refused.
                if error.code is Code.INVALID:
                    return
                if error.code not in {Code.UNAVAILABLE, Code.TIMEOUT}:
                    raise CallFailedError("invalid", error.problem) from error
            else:
                return
            attempt += 1
            await asyncio.sleep(pause(attempt, 0.2, 5.0))

    @staticmethod
    def _tell(name: str, endpoint: Endpoint, state: str, reason: str) -> None:
        telemetry.emit(telemetry.ConnectionChanged(id=name, target=endpoint.target, state=state, reason=reason))


class _Following:
    """How far a connection has come."""

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self.opened = False


async def _read(channel: Channel, topic: str, last_id: str, queue: asyncio.Queue[Item]) -> None:
    try:
        stream = channel.transport.stream(topic, last_id)
        async with contextlib.aclosing(stream) as messages:  # type: ignore[type-var]
            async for one in messages:
                await queue.put(one)
    except CallFailedError as error:
        await queue.put(error)
    except Exception as error:  # noqa: BLE001 - else nobody would hear of it, and the connection stand for ever
        await queue.put(CallFailedError("unavailable", f"{type(error).__name__}: {error}"))
    else:
        await queue.put(CallFailedError("unavailable", "ended by the other side"))


def _line(body: bytes) -> bytes:
    """A message as a line of JSON; what is no JSON becomes the text of an envelope."""
    try:
        return msgspec.json.encode(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(Envelope(data={"message": body.decode("utf-8", "replace")}))


async def _body(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line + b"\n"
