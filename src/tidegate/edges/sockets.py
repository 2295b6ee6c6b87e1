"""What edges over WebSocket (RFC 6455) have in common: closing codes, whose page it is, and peers that are gone.

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

from tidegate import telemetry
from tidegate.auth import Gate
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
    "continued",
    "is_foreign",
]

Socket = WebSocket[Any, Any, Any]
GONE = ClientDisconnected
"""What sending raises once the peer is not there any more."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of a message from a client; a longer one ends the connection with 1009."""
PING_SECONDS = 20.0
"""A peer is pinged so often, and has as long to answer."""
PARTS = "tidegate.parts"
"""In a message to `SocketProtocol`: its beginning (bytes), and its end as `continued` has made it."""
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
    """uvicorn's own waits for ever until a dead peer takes what was written, and its handler with it; and it takes any
    number of connections."""

    config: Config
    _patience: asyncio.TimerHandle | None = None

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
        """A message of two parts, the second of which was made by `continued`, goes out without being copied."""
        parts = message.get(PARTS) if message["type"] == "websocket.send" else None
        if parts is None:
            await super().send(message)
            return
        await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        head, rest = parts
        # RFC 6455, 5.2: a text frame that is not final, of at most 125 bytes or else with its length in 16 bits.
        size = bytes([len(head)]) if len(head) < 126 else b"\x7e" + len(head).to_bytes(2, "big")
        self.transport.writelines([b"\x01" + size + head, rest])

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


def continued(payload: bytes) -> bytes:
    """The second and last frame of a message (RFC 6455, 5.4), the same for all that it is sent to."""
    return b"\x80\x7f" + len(payload).to_bytes(8, "big") + payload if len(payload) > 0xFFFF else _short(payload)


def _short(payload: bytes) -> bytes:
    size = len(payload)
    return b"\x80" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + payload


def is_foreign(socket: Socket, gate: Gate) -> bool:
    """Whether a page of another site opens this connection where no key is asked for: browsers let any page do so."""
    origin = socket.headers.get("origin", "")
    return bool(gate.is_open and origin and urlsplit(origin).netloc != socket.headers.get("host", ""))
