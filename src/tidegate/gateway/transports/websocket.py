"""Request and reply over one WebSocket connection, and messages as a stream.

A request is `{"id", "operation", "payload", "idempotency_key"}`, its reply `{"id", "result"}` or `{"id", "error"}`, in
any order.

Invariant: when the connection ends, everybody who waits for a reply on it hears so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator

import msgspec
from msgspec import Raw, Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from tidegate.gateway.configuration import Target
from tidegate.gateway.transports.base import KEY, CallFailedError, Reply, Request, tls_of, untrusted

__all__ = ["WebSocketTransport"]


class _Answer(Struct):
    id: int | str = ""
    result: Raw = msgspec.field(default_factory=lambda: Raw(b"null"))
    error: Raw = msgspec.field(default_factory=lambda: Raw(b"null"))


_ANSWER = msgspec.json.Decoder(_Answer)


class WebSocketTransport:
    """One connection for all calls, opened with the first."""

    def __init__(self, target: Target, headers: dict[str, str]) -> None:
        self._target = target
        self._headers = headers
        self._open: ClientConnection | None = None
        self._opening = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        self._ids = itertools.count(1)

    def repeatable(self, request: Request) -> bool:
        return False

    async def call(self, request: Request) -> Reply:
        number = str(next(self._ids))
        asked = {
            "id": number,
            "operation": request.operation,
            "payload": Raw(request.body or b"null"),
            "idempotency_key": request.headers.get(KEY, ""),
        }
        if request.body and request.content_type != "application/json":
            raise CallFailedError("invalid", "what is sent over WebSocket must be JSON")
        connection = await self._connected(request.timeout_seconds)
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(request.timeout_seconds):
                await connection.send(msgspec.json.encode(asked).decode())
                answer = await future
        except TimeoutError:
            raise CallFailedError("timeout", f"no reply within {request.timeout_seconds:g} s") from None
        except (WebSocketException, OSError) as error:
            raise CallFailedError("unavailable", f"the connection was lost: {error}") from error
        finally:
            self._waiting.pop(number, None)
        if (text := bytes(answer.error)) != b"null":
            raise CallFailedError("rejected", f"answered {text[:200].decode('utf-8', 'replace')}", body=text)
        return Reply(bytes(answer.result))

    async def _connected(self, timeout_seconds: float) -> ClientConnection:
        async with self._opening:
            if self._open is None:
                self._open = await self._connect(timeout_seconds)
                self._reading = asyncio.create_task(self._read(self._open))
            return self._open

    async def _connect(self, timeout_seconds: float) -> ClientConnection:
        try:
            return await connect(
                self._target.url,
                additional_headers=self._headers,
                open_timeout=timeout_seconds,
                max_size=self._target.max_response_bytes,
                max_queue=16,
                ping_interval=10,
                ping_timeout=10,
                proxy=None,
                ssl=tls_of(self._target) if self._target.url.startswith("wss") else None,
                close_timeout=1,
            )
        except ssl.SSLCertVerificationError as error:
            raise untrusted(str(error)) from error
        except (OSError, InvalidHandshake, WebSocketException, TimeoutError) as error:
            raise CallFailedError("unreachable", f"cannot be reached: {error or type(error).__name__}") from error

    async def _read(self, connection: ClientConnection) -> None:
        problem = "closed by the other side"
        try:
            async for message in connection:
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    answer = _ANSWER.decode(message)
                    future = self._waiting.get(str(answer.id))
                    if future is not None and not future.done():
                        future.set_result(answer)
        except ConnectionClosed as error:
            problem = str(error)
        finally:
            if self._open is connection:
                self._open = None
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(CallFailedError("unavailable", f"the connection was lost: {problem}"))
                    future.exception()  # seen, should nobody wait any more

    async def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """Messages on a connection of its own; `topic`, if given, is sent first, as `{"subscribe": topic}`."""
        connection = await self._connect(self._target.timeout_seconds)
        try:
            if topic:
                await connection.send(msgspec.json.encode({"subscribe": topic}).decode())
            yield "", b""
            async for message in connection:
                yield "", message.encode() if isinstance(message, str) else bytes(message)
        except (WebSocketException, OSError) as error:
            raise CallFailedError("unavailable", f"the connection was lost: {error}") from error
        finally:
            await connection.close()

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._open is not None:
            await self._open.close()
            self._open = None
