"""HTTP for every process: `/metrics`, `/healthz`, `/readyz`, `/status`, and the routes that a process adds.

Invariant: every error leaves as `application/problem+json` (RFC 9457) with a reason, and a route is served to whom the
gate lets through: one that says no scope in `opt` needs `admin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import httptools
import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.config.compression import CompressionConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.types import ControllerRouterHandler, Guard
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidegate import telemetry
from tidegate.auth import Gate, Principal
from tidegate.config import Http
from tidegate.edges.examples import Exchange, exchanges, showing
from tidegate.edges.problems import problem, problems, refused
from tidegate.edges.sockets import MAX_MESSAGE_BYTES, PING_SECONDS, Config, SocketProtocol
from tidegate.errors import Code, LocalServerError, RefusedError

__all__ = [
    "ANYBODY",
    "STREAMED",
    "Reporting",
    "application",
    "principal_of",
    "serving",
    "token_of",
]

ANYBODY = ""
"""The scope of routes that need no key."""
STREAMED = "streamed"
"""In `opt` of a route: what it answers must not be collected to be compressed."""
_HEADERS_SECONDS = 10.0
"""A connection that has not sent a request's headers by then is closed."""
_HEADERS_BYTES = 64 * 1024
"""Of the address and the headers of one request."""
_FULL_SECONDS = 2.0
"""The same for one beyond `max_connections`, which is only to be told so ..."""
_MOST_TOLD = 64
"""... unless there are so many of these that further ones are ended without a word."""
_PROBED = (b"/healthz", b"/readyz", b"/metrics")
"""Answered all the same: a process under a flood is not dead."""
_TOO_LARGE = problem(431, "Too large", f"address and headers have more than {_HEADERS_BYTES} bytes")
_NO_HTTP = problem(400, "Bad request", "this is no HTTP/1.1 request that can be parsed")
_FULL = problem(
    503, "Unavailable", "as many connections are open as are taken (http.max_connections)", headers={"retry-after": "1"}
)
_DEAD_SECONDS = 60
"""A connection whose other end takes nothing for so long, or is gone, is closed."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEALTHZ = exchanges(alive=Exchange(answer={"status": "ok", "process": "event-streaming"}))
_READYZ = exchanges(ready=Exchange(answer={"status": "ready", "process": "event-streaming"}))

Sections = dict[str, list[dict[str, Any]]]


class Reporting(Protocol):
    """A process, as far as its HTTP side needs to know it."""

    @property
    def name(self) -> str:
        """As in the Procfile."""

    def not_ready(self) -> str | None:
        """Why the process cannot do its work now, or None."""

    async def sections(self) -> Sections:
        """What `tidegate status` shows: title -> rows."""


def token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The key or token that came with a request; never in its address, which ends up in logs."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Whom the gate has let through."""
    principal: Principal = connection.state["principal"]
    return principal


def _from_here(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Where there are no keys: raises RefusedError for what a web page of elsewhere has the user's browser send."""
    for name, prefix in (("host", "//"), ("origin", "")):
        if value := connection.headers.get(name, ""):
            try:
                host = urlsplit(prefix + value).hostname
            except ValueError:
                host = None
            if host not in _LOOPBACK:
                raise RefusedError(
                    Code.FORBIDDEN, f"without keys (auth.mode) there are no requests with {name}: {value[:80]!r}"
                )


def _guard(gate: Gate) -> Guard:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = handler.opt.get("scope", "admin")
        if scope == ANYBODY or connection.url.path.startswith("/schema"):
            return
        if gate.is_open:
            _from_here(connection)
        peer = connection.client.host if connection.client else ""
        what = f"{connection.scope['method']} {handler.paths and min(handler.paths)}"  # type: ignore[typeddict-item]
        connection.state["principal"] = await gate.enter(token_of(connection), scope, what, peer)

    return guard


def _http_problem(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    detail = error.detail
    if isinstance(error.extra, list) and error.extra:
        detail += ": " + "; ".join(
            f"{one.get('key', '')} {one.get('message', '')}".strip() for one in error.extra if isinstance(one, dict)
        )
    title = error.__class__.__name__.removesuffix("Exception")
    return problem(error.status_code, title, detail)


def application(process: Reporting, routes: Sequence[ControllerRouterHandler], gate: Gate) -> Litestar:
    """The ASGI application of a process."""

    @get("/metrics", include_in_schema=False, sync_to_thread=False, opt={"scope": ANYBODY})
    def metrics() -> Response[bytes]:
        body, content_type = telemetry.render_metrics()
        return Response(body, media_type=content_type)

    @get("/healthz", sync_to_thread=False, opt={"scope": ANYBODY}, operation_class=showing(_HEALTHZ))
    def healthz() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok", "process": process.name}

    @get(
        "/readyz",
        sync_to_thread=False,
        opt={"scope": ANYBODY},
        operation_class=showing(_READYZ),
        responses=problems(503),
    )
    def readyz() -> Response[Any]:
        """200 while the process can do its work, else 503 with the reason."""
        reason = process.not_ready()
        if reason is None:
            return Response({"status": "ready", "process": process.name})
        return problem(503, "Not ready", reason)

    @get("/status", include_in_schema=False)
    async def status() -> Sections:
        return await process.sections()

    return Litestar(
        route_handlers=[metrics, healthz, readyz, status, *routes],
        guards=[_guard(gate)],
        exception_handlers={HTTPException: _http_problem, RefusedError: refused},
        openapi_config=OpenAPIConfig(title=f"Tidegate {process.name}", version="0.1.0"),
        compression_config=CompressionConfig(backend="gzip", minimum_size=2048, exclude_opt_key=STREAMED),
        logging_config=None,
    )


class _Protocol(HttpToolsProtocol):
    """Bounds how many connections there are, and the time and the room that a request's headers may take: uvicorn
    itself takes all, waits for ever, and keeps everything."""

    config: Config
    _full = False
    """Whether there were enough connections without this one."""
    _patience: asyncio.TimerHandle | None = None
    """There while headers are awaited."""
    _began = False
    """Whether a request began in the bytes that came last."""
    _taken = 0
    """Bytes of headers that have not ended."""
    _refusal: Response[bytes] | None = None

    def _wait(self) -> None:
        self._hurry()
        seconds = _FULL_SECONDS if self._full else _HEADERS_SECONDS
        self._patience = self.loop.call_later(seconds, lambda: self.transport.close())

    def _hurry(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        beyond = len(self.connections) - self.config.most
        if beyond > _MOST_TOLD:
            transport.abort()
            return
        self._full = beyond > 0
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began = False
        super().data_received(data)
        if self._patience is not None and not self._began and not self.transport.is_closing():
            self._taken += len(data)
            if self._taken > _HEADERS_BYTES:
                self._refusal = _TOO_LARGE
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._began, self._taken = True, 0
        self._wait()

    def on_headers_complete(self) -> None:
        self._hurry()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _HEADERS_BYTES:
            self._refusal = _TOO_LARGE
            raise httptools.HttpParserError("headers too large")
        if self._full and not self._should_upgrade() and self.url.partition(b"?")[0] not in _PROBED:
            telemetry.emit(telemetry.ConnectionRefused(edge="http"))
            self._refusal = _FULL
            raise httptools.HttpParserError("too many connections")
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, httptools.HttpParserInvalidURLError) as error:
            # Else the exception ends the connection without an answer.
            raise httptools.HttpParserInvalidURLError(str(error)) from error

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is answered as a problem, too, and ends the connection."""
        found = self._refusal or _NO_HTTP
        more = "".join(f"{name}: {value}\r\n" for name, value in found.headers.items())
        head = (
            f"HTTP/1.1 {found.status_code} \r\ncontent-type: application/problem+json\r\n{more}"
            f"content-length: {len(found.content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + found.content)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serving(
    app: Litestar, host: str, port: int, max_connections: int = Http().max_connections
) -> tuple[Callable[[], Coroutine[Any, Any, None]], Callable[[], None]]:
    """A coroutine function that serves until stopped, and the function that stops it.

    Raises LocalServerError at once when the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux hands these on to the connections that are accepted; elsewhere the system's own times hold.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_SECONDS * 1000)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise LocalServerError(
            f"port {port} on {host} is taken ({error.strerror}); end what uses it, or set another port in [http]"
        ) from error
    config = Config(
        app,
        http=_Protocol,
        ws=SocketProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,  # `SocketProtocol` offers its own
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=5,
    )
    config.most = max_connections
    server = _Server(config)

    async def serve() -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            listener.close()

    def stop() -> None:
        server.should_exit = True

    return serve, stop
