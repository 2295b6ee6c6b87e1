"""`/v1/ws`: everything that a process offers, over one WebSocket connection; `ws_messages` has the messages.

Invariant: a message that makes no sense is answered and changes nothing; what one connection may hold is bounded (its
requests under way, its subscriptions, and the events kept for each); and when it ends, all that it began ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
from litestar import websocket
from litestar.types import ControllerRouterHandler

from tidegate.auth import Principal
from tidegate.edges import ws_messages as messages
from tidegate.edges.framing import Rest
from tidegate.edges.http import ANYBODY, token_of
from tidegate.edges.shapes import in_parts, start_of
from tidegate.edges.sockets import CLOSE, GONE, MAX_MESSAGE_BYTES, PARTS, Socket, is_foreign, window_of
from tidegate.entities.access_key import Scope
from tidegate.entities.selection import EventFilter
from tidegate.errors import Code, QueryError, RefusedError
from tidegate.service import Feed, Published, Service, Sharing, refusal

__all__ = ["routes"]

_SUBSCRIPTIONS = 32
_REQUESTS = 16
"""Under way at one time; while there are as many, nothing further is read."""
_BATCH = 500
_BEAT_SECONDS = 10.0
_PATIENCE_SECONDS = 10.0
"""For the first message of who has sent no key in the headers."""
_MOST_MISTAKES = 100
"""In a row: then it is not worth to go on."""

_SCOPES: dict[type[Any], Scope | None] = {
    messages.Subscribe: "subscribe",
    messages.Unsubscribe: "subscribe",
    messages.Ack: "subscribe",
    messages.Publish: "publish",
    messages.Command: "command",
    messages.Status: None,
}


def routes(service: Service) -> list[ControllerRouterHandler]:
    """The route."""

    # What is sent depends on the window that the peer inflates with, too (`framing.rest`); there are nine of these.
    sharings: dict[int, Sharing[Rest]] = {}

    # No scope: browsers cannot send headers, so who it is may come with the first message.
    @websocket("/v1/ws", opt={"scope": ANYBODY})
    async def connected(socket: Socket) -> None:
        if is_foreign(socket, service.gate):
            await socket.close(1008)
            return
        await socket.accept()
        window = window_of(socket)
        sharing = sharings.setdefault(window, Sharing(functools.partial(messages.events, window=window)))
        await _Session(service, socket, sharing).run()

    return [connected]


class _Session:
    """One connection."""

    def __init__(self, service: Service, socket: Socket, sharing: Sharing[Rest]) -> None:
        self._sharing = sharing
        self._service = service
        self._gate = service.gate
        self._socket = socket
        self._token = token_of(socket)
        self._peer = socket.client.host if socket.client else ""
        self._feeds: dict[str, tuple[asyncio.Task[None], Feed | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_REQUESTS)
        self._sent = 0.0

    async def run(self) -> None:
        """Until either side ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._converse(group)
                finally:
                    for task in [*self._tasks]:
                        task.cancel()
        except* GONE:
            pass

    async def _converse(self, group: asyncio.TaskGroup) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                if not await self._welcomed():
                    return None
        except TimeoutError:
            return await self._end(RefusedError(Code.TOO_SLOW, "no message with a key has come in time"))
        except RefusedError as error:
            return await self._end(error)
        self._spawn(group, self._beat())
        mistakes = 0
        while (received := await self._socket.receive())["type"] != "websocket.disconnect":
            ident = ""
            try:
                one = _understood(received)
                ident = one.id
                await self._taken(group, one)
                mistakes = 0
            except RefusedError as error:
                text = received.get("text") or ""
                await self._send(messages.error(ident or messages.ident_of(text), error))  # type: ignore[arg-type]
                mistakes += 1
                if mistakes == _MOST_MISTAKES:
                    return await self._end(RefusedError(Code.INVALID, f"{mistakes} bad messages in a row"))
        return None

    async def _welcomed(self) -> bool:
        ident = ""
        if not self._token and not self._gate.is_open:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return False
            one = _understood(received)
            if not isinstance(one, messages.Auth):
                raise RefusedError(Code.UNAUTHENTICATED, 'say first who you are: {"type":"auth","token":"tg_..."}')
            self._token, ident = one.token, one.id
        who = await self._gate.enter(self._token, None, "WS /v1/ws", self._peer, requests=0)
        told = {
            "type": "welcome",
            "id": ident,
            "principal": who.id,
            "idle_seconds": _BEAT_SECONDS,
            "max_message_bytes": MAX_MESSAGE_BYTES,
        }
        await self._send(msgspec.json.encode(told).decode())
        return True

    async def _end(self, error: RefusedError) -> None:
        await self._send(messages.error("", error))
        await self._socket.close(CLOSE.get(error.code, 1008), error.problem[:100])

    async def _send(self, text: str) -> None:
        self._sent = time.monotonic()
        # Waits while the peer has not taken what was sent before; `SocketProtocol` ends that.
        await self._socket.send({"type": "websocket.send", "text": text, "bytes": None})

    async def _beat(self) -> None:
        """Shows a quiet connection to be alive, and ends one whose key opens nothing any more."""
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            try:
                await self._gate.still(self._token)
            except RefusedError as error:
                return await self._end(error)
            if time.monotonic() - self._sent >= _BEAT_SECONDS * 0.9:
                await self._send('{"type":"idle"}')

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = group.create_task(_while_there(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _taken(self, group: asyncio.TaskGroup, one: messages.Message) -> None:
        """Begin what a message asks for. Raises RefusedError."""
        if isinstance(one, messages.Auth):
            raise RefusedError(Code.INVALID, "who you are is known; open another connection for another key")
        what = f"WS {type(one).__name__.lower()}"
        if isinstance(one, messages.Ack):  # part of a subscription that was let in
            return await self._acknowledge(one)
        who = await self._gate.enter(self._token, _SCOPES.get(type(one), "query"), what, self._peer)
        match one:
            case messages.Unsubscribe():
                task, _ = self._feeds.get(one.subscription) or _unknown(one.subscription)
                task.cancel()
                await asyncio.wait([task])
                await self._send(messages.reply(one.id, {}))
            case messages.Subscribe():
                if one.id in self._feeds:
                    raise RefusedError(Code.CONFLICT, f"there is a subscription {one.id!r} already")
                if len(self._feeds) >= _SUBSCRIPTIONS:
                    raise RefusedError(Code.CONFLICT, f"a connection has at most {_SUBSCRIPTIONS} subscriptions")
                self._feeds[one.id] = self._spawn(group, self._follow(who, one)), None
                self._feeds[one.id][0].add_done_callback(lambda _: self._feeds.pop(one.id, None))
            case _:
                await self._room.acquire()
                self._spawn(group, self._answer(who, one)).add_done_callback(lambda _: self._room.release())
        return None

    async def _acknowledge(self, one: messages.Ack) -> None:
        _, feed = self._feeds.get(one.subscription) or _unknown(one.subscription)
        if feed is None:
            _unknown(one.subscription)
        else:
            await feed.ack(one.position)
        if one.id:
            await self._send(messages.reply(one.id, {}))

    async def _follow(self, who: Principal, one: messages.Subscribe) -> None:
        begun = False
        try:
            where = EventFilter(
                source=one.source,
                correlation_id=one.correlation_id,
                min_severity=one.min_severity,
                fields=one.fields,
            )
            how: dict[str, Any] = {"types": one.types, "where": where, "most": one.buffer, "slow": one.slow}
            async with contextlib.AsyncExitStack() as stack:
                live = feed = None
                if one.start == "now" and not one.acks:
                    live = await stack.enter_async_context(self._service.live(who, self._sharing, **how))
                else:
                    feed = await stack.enter_async_context(
                        self._service.subscribe(who, start=start_of(one.start), acks=one.acks, **how)
                    )
                    self._feeds[one.id] = self._feeds[one.id][0], feed
                begun = True
                await self._send(messages.reply(one.id, {"subscription": one.id}))
                while True:
                    if live is not None:
                        left_out, piece = await live.next()
                        await self._send_events(one.id, left_out, piece)
                        continue
                    assert feed is not None
                    batch = await feed.next(_BATCH)
                    left_out = batch.left_out
                    for _, piece in await messages.events(batch.items, window_of(self._socket)):
                        await self._send_events(one.id, left_out, piece)
                        left_out = 0
        except RefusedError as error:
            await self._send(messages.error(one.id, error, "ended" if begun else "error"))

    async def _send_events(self, ident: str, left_out: int, piece: Rest) -> None:
        self._sent = time.monotonic()
        parts = messages.events_head(ident, left_out), piece
        await self._socket.send({"type": "websocket.send", PARTS: parts})  # type: ignore[arg-type]

    async def _answer(self, who: Principal, one: messages.Message) -> None:
        try:
            result = await self._result(who, one)
        except RefusedError as error:
            await self._send(messages.error(one.id, error))
        except QueryError as error:
            await self._send(messages.error(one.id, refusal(error)))
        else:
            await self._send(messages.reply(one.id, result))

    async def _result(self, who: Principal, one: messages.Message) -> Any:
        service = self._service
        match one:
            case messages.Publish():
                return await _published(service, who, one)
            case messages.Event():
                tier, line = await service.event(who, one.event_id, one.tier, one.after)
                return {"tier": tier, "event": msgspec.Raw(line)}
            case messages.Events():
                page = await service.find(
                    who, one.correlation_id, one.observable, one.since, one.until, one.limit, one.tier,
                    cursor=one.cursor, after=one.after,
                )  # fmt: skip
                found = [msgspec.Raw(line) for line in page.events]
                return {"tier": page.tier, "complete": page.complete, "events": found, "next": page.cursor}
            case messages.Counts():
                return await service.counts(who, one.since, one.until, one.after)
            case messages.Sql():
                return await service.sql(who, one.sql, one.max_rows, one.timeout_seconds, one.after)
            case messages.Command():
                return await service.command(
                    who,
                    one.kind,
                    one.entity_id,
                    one.command,
                    command_id=one.command_id,
                    expected_version=one.expected_version,
                )
            case messages.Entity():
                return await service.entity(who, one.kind, one.entity_id)
            case _:
                return await service.status(who)


def _understood(received: Any) -> messages.Message:
    text = received.get("text")
    if text is None:
        raise RefusedError(Code.INVALID, "messages are JSON in text frames, and this frame is binary")
    try:
        one: messages.Message = messages.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RefusedError(Code.INVALID, f"no message that is known: {error}"[:300]) from error
    return one


def _unknown(name: str) -> Any:
    raise RefusedError(Code.NOT_FOUND, f"there is no subscription {name!r} on this connection")


async def _while_there(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(GONE):  # whoever receives learns of it too
        await work


async def _published(service: Service, who: Principal, one: messages.Publish) -> Published:
    given = [value for value in (one.records, one.text, one.body) if value is not None]
    if len(given) != 1:
        raise RefusedError(Code.INVALID, "give exactly one of records, text and body")
    content_type, (value,) = one.content_type, given
    if isinstance(value, list):
        # JSON may hold line breaks outside of strings, never inside.
        value, content_type = b"\n".join(bytes(raw).replace(b"\n", b" ") for raw in value), "application/x-ndjson"
    elif isinstance(value, str):
        value, content_type = value.encode(), content_type or "text/plain"
    return await service.publish(who, one.source, in_parts(value), content_type, one.content_encoding, key=one.key)
