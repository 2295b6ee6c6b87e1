"""HTTP for every process: `/metrics`, `/healthz`, `/readyz`, `/status`, and the routes that a process adds.

Invariant: every error leaves as `application/problem+json` (RFC 9457) with a reason, and a route is served to whom the
gate lets through: one that says no scope in `opt` needs `admin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

import httptools
import msgspec
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
from tidegate.config import Auth
from tidegate.edges.sockets import MAX_MESSAGE_BYTES, PING_SECONDS, SocketProtocol
from tidegate.errors import Code, LocalServerError, RefusedError

__all__ = [
    "ANYBODY",
    "STATUS",
    "STREAMED",
    "Reporting",
    "application",
    "principal_of",
    "problem",
    "refused",
    "serving",
    "token_of",
]

ANYBODY = ""
"""The scope of routes that need no key."""
STREAMED = "streamed"
"""In `opt` of a route: what it answers must not be collected to be compressed."""
_HEADERS_SECONDS = 10.0
"""A connection that has not sent a request's headers by then is closed."""
STATUS = {
    Code.INVALID: (400, "Bad request"),
    Code.UNSUPPORTED: (415, "Unsupported"),
    Code.TOO_LARGE: (413, "Too large"),
    Code.TOO_SLOW: (408, "Too slow"),
    Code.UNAUTHENTICATED: (401, "Not authenticated"),
    Code.FORBIDDEN: (403, "Not allowed"),
    Code.NOT_FOUND: (404, "Not found"),
    Code.CONFLICT: (409, "Refused"),
    Code.RATE_LIMITED: (429, "Too many requests"),
    Code.UNAVAILABLE: (503, "Unavailable"),
    Code.TIMEOUT: (504, "Not there yet"),
}

Sections = dict[str, list[dict[str, Any]]]


class Reporting(Protocol):
    """A process, as far as its HTTP side needs to know it."""

    name: str

    def not_ready(self) -> str | None:
        """Why the process cannot do its work now, or None."""

    async def sections(self) -> Sections:
        """What `tidegate status` shows: title -> rows."""


def problem(
    status: int,
    title: str,
    detail: str,
    members: dict[str, object] | None = None,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    """An RFC 9457 answer."""
    told = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(members or {})}
    return Response(
        msgspec.json.encode(told), status_code=status, media_type="application/problem+json", headers=headers
    )


def refused(_: Request[Any, Any, Any], error: RefusedError) -> Response[bytes]:
    """What HTTP says of a refusal."""
    status, title = STATUS[error.code]
    headers = {}
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="tidegate"'
    if error.after:
        headers["Retry-After"] = str(math.ceil(error.after))
    return problem(status, title, error.problem, {"code": error.code.value, **error.details}, headers)


def token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The key or token that came with a request; never in its address, which ends up in logs."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Whom the gate has let through."""
    principal: Principal = connection.state["principal"]
    return principal


def _guard(gate: Gate) -> Guard:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = handler.opt.get("scope", "admin")
        if scope == ANYBODY or connection.url.path.startswith("/schema"):
            return
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


def application(process: Reporting, routes: Sequence[ControllerRouterHandler], gate: Gate | None = None) -> Litestar:
    """The ASGI application of a process; without a gate everybody may do everything."""

    @get("/metrics", include_in_schema=False, sync_to_thread=False, opt={"scope": ANYBODY})
    def metrics() -> Response[bytes]:
        body, content_type = telemetry.render_metrics()
        return Response(body, media_type=content_type)

    @get("/healthz", sync_to_thread=False, opt={"scope": ANYBODY})
    def healthz() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok", "process": process.name}

    @get("/readyz", sync_to_thread=False, opt={"scope": ANYBODY})
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
        guards=[_guard(gate or Gate(Auth()))],
        exception_handlers={HTTPException: _http_problem, RefusedError: refused},
        openapi_config=OpenAPIConfig(title=f"Tidegate {process.name}", version="0.1.0"),
        compression_config=CompressionConfig(backend="gzip", minimum_size=2048, exclude_opt_key=STREAMED),
        logging_config=None,
    )


class _Protocol(HttpToolsProtocol):
    """Closes connections that take their time over a request's headers: uvicorn itself waits for ever."""

    _patience: asyncio.TimerHandle | None = None

    def _wait(self) -> None:
        self._hurry()
        self._patience = self.loop.call_later(_HEADERS_SECONDS, lambda: self.transport.close())

    def _hurry(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._hurry()
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, httptools.HttpParserInvalidURLError) as error:
            # Else the exception ends the connection without an answer.
            raise httptools.HttpParserInvalidURLError(str(error)) from error


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serving(app: Litestar, host: str, port: int) -> tuple[Callable[[], Coroutine[Any, Any, None]], Callable[[], None]]:
    """A coroutine function that serves until stopped, and the function that stops it.

    Raises LocalServerError at once when the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise LocalServerError(
            f"port {port} on {host} is taken ({error.strerror}); end what uses it, or set another port in [http]"
        ) from error
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws=SocketProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        # Compressing anew for each of many readers costs more than sending, and inflating may be made to.
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=5,
    )
    server = _Server(config)

    async def serve() -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            listener.close()

    def stop() -> None:
        server.should_exit = True

    return serve, stop
