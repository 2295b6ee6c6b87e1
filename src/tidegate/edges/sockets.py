"""What edges over WebSocket (RFC 6455) have in common: closing codes, compression, whose page it is, peers that leave.

Invariant: a peer that neither answers pings nor takes what is sent to it is cut off, and what was kept for it is freed.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from litestar import WebSocket
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate

from tidegate import telemetry
from tidegate.auth import Gate
from tidegate.edges import framing
from tidegate.errors import Code

__all__ = [
    "CLOSE",
    "GONE",
    "MAX_MESSAGE_BYTES",
    "PARTS",
    "PING_SECONDS",
    "Config",
    "Socket",
    "SocketProtocol",
    "is_foreign",
    "window_of",
]

Socket = WebSocket[Any, Any, Any]
GONE = ClientDisconnected
"""What sending raises once the peer is not there any more."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of a message from a client; a longer one ends the connection with 1009."""
PING_SECONDS = 20.0
"""A peer is pinged so often, and has as long to answer."""
PARTS = "tidegate.parts"
"""In a message to `SocketProtocol`: its beginning (bytes), and its `framing.Rest`."""
_DEFLATE = "tidegate.deflate"
"""In `scope["extensions"]` of a connection: a dict with its `window`."""
_MOST_FRAMES = 1000
"""Of one message that are kept apart: empty ones count nothing towards its length, but take room each."""
_STALLED_SECONDS = 30.0
"""So long may a peer take nothing of what waits for it."""

AGAIN = 1013
"""Try again later (the registry of RFC 6455, 11.7)."""
CLOSE = {
    Code.UNAUTHENTICATED: 4401,
    Code.FORBIDDEN: 4403,
    Code.TOO_SLOW: 4408,
    Code.INVALID: 4400,
    Code.RATE_LIMITED: AGAIN,
    Code.UNAVAILABLE: AGAIN,
}
"""Codes from 4000 on are an application's own (RFC 6455, 7.4.2); these are HTTP's with 4000 added."""


class Config(uvicorn.Config):
    """Of a server."""

    most: int
    """Connections at one time."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own waits for ever until a dead peer takes what was written, and its handler with it.

    And it takes any number of connections, and would compress each message for each peer anew, however long that takes.
    """

    config: Config
    _patience: asyncio.TimerHandle | None = None
    _window = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.available_extensions = [framing.OFFERED]

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        for one in self.conn.extensions:
            if isinstance(one, PerMessageDeflate) and self.response.status_code == 101:
                self._window = one.local_max_window_bits
                self.scope["extensions"] = {**(self.scope["extensions"] or {}), _DEFLATE: {"window": self._window}}

    def handle_cont(self, event: Any) -> None:
        super().handle_cont(event)
        if len(self.frames) == _MOST_FRAMES:
            self.frames = [b"".join(self.frames)]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.config.most:
            self.app = _full

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience = self.loop.call_later(_STALLED_SECONDS, lambda: self.transport.abort())

    def resume_writing(self) -> None:
        self._hurry()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry()
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        """Text goes out compressed where that was agreed upon; what has two parts, without being copied."""
        if message["type"] != "websocket.send" or message.get("bytes") is not None:
            await super().send(message)
            return
        if parts := message.get(PARTS):
            head, rest = parts
            frames = [framing.beginning(head, rest.deflated), rest.frame]
        else:
            frames = [await framing.whole(message["text"].encode(), self._window)]
        await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        self.transport.writelines(frames)

    def _hurry(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def _full(scope: Any, receive: Any, send: Any) -> None:
    """Only a connection that was accepted can be told a code."""
    telemetry.emit(telemetry.ConnectionRefused(edge="websocket"))
    await receive()
    subprotocol = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
    reason = "as many connections are open as are taken (http.max_connections)"
    await send({"type": "websocket.close", "code": AGAIN, "reason": reason})


def window_of(socket: Socket) -> int:
    """With a window of how many bits the peer inflates (RFC 7692, 7.1.2); 0 if it does not."""
    agreed: Any = (socket.scope["extensions"] or {}).get(_DEFLATE, {"window": 0})
    return int(agreed["window"])


def is_foreign(socket: Socket, gate: Gate) -> bool:
    """Whether a page of another site opens this connection where no key is asked for: browsers let any page do so."""
    origin = socket.headers.get("origin", "")
    return bool(gate.is_open and origin and urlsplit(origin).netloc != socket.headers.get("host", ""))
