"""The gRPC server of a process: its services, `grpc.health.v1`, reflection, TLS and limits.

Invariant: connections that are dead, silent or idle end, and none can make the process hold more than so much.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from tidegate.config import Grpc
from tidegate.edges.grpc_events import events
from tidegate.edges.grpc_queries import queries
from tidegate.errors import ConfigError, LocalServerError
from tidegate.proto import services_pb2 as pb
from tidegate.service import Service

__all__ = ["events", "queries", "serving"]

_MOST_KEYLESS = 50
_LOOK_SECONDS = 1.0
_REFLECTION_SECONDS = 60.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICES: dict[str, ServiceDescriptor] = pb.DESCRIPTOR.services_by_name


def serving(
    settings: Grpc, port: int, service: Service, name: str, not_ready: Callable[[], str | None], max_frame_bytes: int
) -> Any:
    """A `grpc.aio.Server` for the service `name` (Events or Queries), bound to the port and not yet started.

    Raises LocalServerError when the port is taken, and ConfigError for certificates that cannot be used.
    """
    full_name = _SERVICES[name].full_name
    server = grpc.aio.server(
        options=_options(settings, max_frame_bytes),
        maximum_concurrent_rpcs=settings.max_calls,
        compression=grpc.Compression.Gzip if settings.compress_answers else None,
    )
    server.add_generic_rpc_handlers([{"Events": events, "Queries": queries}[name](service)])
    keyless = _Few()
    health_pb2_grpc.add_HealthServicer_to_server(_Health(("", full_name), not_ready, keyless), server)
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    described = _Reflection([full_name, health, reflection.SERVICE_NAME], keyless)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, server)
    credentials = _credentials(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        if credentials is None:
            server.add_insecure_port(f"{host}:{port}")
        else:
            server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError as error:
        raise LocalServerError(
            f"port {port} on {settings.host} is taken, or the certificate of [grpc] does not fit its key; end what uses"
            " the port, or set another one in [grpc]"
        ) from error
    return server


def _options(settings: Grpc, max_frame_bytes: int) -> Sequence[tuple[str, int]]:
    return (
        # Else a second process would share the port without a word.
        ("grpc.so_reuseport", 0),
        # Those beyond are closed before anything is read.
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # Also holds for what a compressed message becomes.
        ("grpc.max_receive_message_length", max_frame_bytes + 64 * 1024),
        ("grpc.max_concurrent_streams", 256),
        # A JWT may be long.
        ("grpc.max_metadata_size", 32 * 1024),
        ("grpc.absolute_max_metadata_size", 64 * 1024),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Who does not answer a ping is gone: cables are pulled without a word.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
    )


def _credentials(settings: Grpc) -> grpc.ServerCredentials | None:
    if settings.certificate is None and settings.private_key is None:
        if settings.client_ca is not None:
            raise ConfigError("grpc.client_ca", "needs grpc.certificate and grpc.private_key")
        return None
    if settings.certificate is None or settings.private_key is None:
        raise ConfigError("grpc.certificate", "grpc.certificate and grpc.private_key go together")
    pair = _read("private_key", settings.private_key), _read("certificate", settings.certificate)
    authority = _read("client_ca", settings.client_ca) if settings.client_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _read(name: str, path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"grpc.{name}", f"{path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN" not in content:
        raise ConfigError(f"grpc.{name}", f"{path} is not in PEM format")
    return content


class _Few:
    """Streams that need no key: so few that they leave room for calls that have one."""

    def __init__(self) -> None:
        self._open = 0

    @contextlib.asynccontextmanager
    async def one(self, context: Any) -> AsyncIterator[None]:
        if self._open >= _MOST_KEYLESS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MOST_KEYLESS} such streams are open")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class _Reflection(ReflectionServicer):  # type: ignore[misc]
    """Says what the services look like, to who asks within a while."""

    def __init__(self, names: Sequence[str], few: _Few) -> None:
        super().__init__(names)
        self._few = few

    async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        with contextlib.suppress(TimeoutError):
            async with self._few.one(context), asyncio.timeout(_REFLECTION_SECONDS):
                async for answer in super().ServerReflectionInfo(request_iterator, context):
                    yield answer


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Says what `/readyz` says; needs no key."""

    def __init__(self, names: Sequence[str], not_ready: Callable[[], str | None], few: _Few) -> None:
        self._names = names
        self._not_ready = not_ready
        self._few = few

    def _state(self) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=_NOT_SERVING if self._not_ready() else _SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - its name
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return self._state()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - its name
        unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        told = None
        async with self._few.one(context):
            while True:
                now = self._state() if request.service in self._names else unknown
                if now != told:
                    await context.write(now)
                    told = now
                await asyncio.sleep(_LOOK_SECONDS)
