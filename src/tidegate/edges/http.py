"""HTTP for every process: `/metrics`, `/healthz`, `/readyz`, `/status`, and the routes that a process adds.

Invariant: every error leaves as `application/problem+json` (RFC 9457) with a reason.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.config.compression import CompressionConfig
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from tidegate import telemetry
from tidegate.errors import LocalServerError

__all__ = ["Reporting", "application", "problem", "serving"]

Sections = dict[str, list[dict[str, Any]]]


class Reporting(Protocol):
    """A process, as far as its HTTP side needs to know it."""

    name: str

    def not_ready(self) -> str | None:
        """Why the process cannot do its work now, or None."""

    async def sections(self) -> Sections:
        """What `tidegate status` shows: title -> rows."""


def problem(status: int, title: str, detail: str) -> Response[bytes]:
    """An RFC 9457 answer."""
    body = msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "detail": detail})
    return Response(body, status_code=status, media_type="application/problem+json")


def _http_problem(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    detail = error.detail
    if isinstance(error.extra, list) and error.extra:
        detail += ": " + "; ".join(
            f"{one.get('key', '')} {one.get('message', '')}".strip() for one in error.extra if isinstance(one, dict)
        )
    title = error.__class__.__name__.removesuffix("Exception")
    return problem(error.status_code, title, detail)


def application(process: Reporting, routes: Sequence[ControllerRouterHandler]) -> Litestar:
    """The ASGI application of a process."""

    @get("/metrics", include_in_schema=False, sync_to_thread=False)
    def metrics() -> Response[bytes]:
        body, content_type = telemetry.render_metrics()
        return Response(body, media_type=content_type)

    @get("/healthz", sync_to_thread=False)
    def healthz() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok", "process": process.name}

    @get("/readyz", sync_to_thread=False)
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
        exception_handlers={HTTPException: _http_problem},
        openapi_config=OpenAPIConfig(title=f"Tidegate {process.name}", version="0.1.0"),
        compression_config=CompressionConfig(backend="gzip", minimum_size=2048),
        logging_config=None,
    )


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
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2, timeout_keep_alive=5
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
