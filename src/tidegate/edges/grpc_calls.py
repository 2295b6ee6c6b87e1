"""What all gRPC calls have in common: the gate before the first message is read, messages, refusals as statuses.

Invariant: a call that the gate does not let through has none of its messages read, and every refusal leaves with its
reason as google.rpc.ErrorInfo in `grpc-status-details-bin`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc
import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from tidegate import telemetry
from tidegate.auth import Gate, Principal
from tidegate.entities.access_key import Scope
from tidegate.errors import Code, RefusedError
from tidegate.proto import services_pb2 as pb
from tidegate.service import Published

__all__ = ["STATUS", "Call", "Method", "handler", "published", "safe", "stored_before"]

STATUS = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNSUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_SLOW: grpc.StatusCode.CANCELLED,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_log = logging.getLogger(__name__)
_IDLE_SECONDS = 30.0
_MOST_SECONDS = 86_400.0
_LONGEST_PROBLEM = 400
_MOST_LISTED = 10


class Call:
    """One call under way, of whatever kind: so many messages in, so many out."""

    def __init__(self, context: Any, gate: Gate, principal: Principal, token: str, decode: Any) -> None:
        self.principal = principal
        self._context = context
        self._gate = gate
        self._token = token
        self._decode = decode

    async def receive(self) -> Any:
        """The next message; None: there are no more. Raises RefusedError for bytes that are none."""
        data = await self._context.read()
        if data is grpc.aio.EOF:
            return None
        try:
            return self._decode(data)
        except DecodeError as error:
            raise RefusedError(Code.INVALID, f"not a message of this method: {error}") from error

    async def only(self) -> Any:
        """The first message, or the only one. Raises RefusedError where there is none, or none in time."""
        message = await self.soon()
        if message is None:
            raise RefusedError(Code.INVALID, "the call has ended without a message")
        return message

    async def soon(self) -> Any:
        """As `receive`. Raises RefusedError also when nothing has come for long."""
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                return await self.receive()
        except TimeoutError:
            raise RefusedError(Code.TOO_SLOW, f"nothing more has come for {_IDLE_SECONDS:g} s") from None

    async def begin(self) -> None:
        """Tells the client that the call goes on."""
        await self._context.send_initial_metadata(())

    async def send(self, message: Message) -> None:
        """Returns once there is room on the way for more."""
        await self._context.write(message.SerializeToString())

    async def still(self) -> None:
        """Raises RefusedError once the key or token opens nothing any more."""
        await self._gate.still(self._token)

    def seconds(self) -> float | None:
        """Until shortly before the caller's deadline: an answer has to reach them before it."""
        left = self._context.time_remaining()
        return None if left is None else min(left - min(0.5, left / 5), _MOST_SECONDS)

    def metadata(self, name: str) -> str:
        return _metadata(self._context, name)


class Method(NamedTuple):
    """What a method needs of its caller, and what it does."""

    scope: Scope | None
    work: Callable[[Call], Awaitable[None]]


def handler(described: ServiceDescriptor, gate: Gate, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """What serves all methods of a service.

    On the wire all kinds of methods are streams of messages each way. Taken as such, the gate comes before the message
    of a unary call too, which gRPC would read first.
    """
    made = {}
    for one in described.methods:
        decode = message_factory.GetMessageClass(one.input_type).FromString
        made[one.name] = grpc.stream_stream_rpc_method_handler(_running(one.name, decode, gate, methods[one.name]))
    return grpc.method_handlers_generic_handler(described.full_name, made)


def _running(name: str, decode: Any, gate: Gate, method: Method) -> Any:
    async def run(_: Any, context: Any) -> None:
        token, began, code = _token(context), time.perf_counter(), grpc.StatusCode.OK
        try:
            principal = await gate.enter(token, method.scope, f"grpc {name}", _host(context.peer()))
            await method.work(Call(context, gate, principal, token, decode))
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except RefusedError as error:
            code = STATUS[error.code]
            await _refuse(context, error)
        except Exception:  # noqa: BLE001 - a fault of ours has to be seen; gRPC would tell the client all of it
            code = grpc.StatusCode.INTERNAL
            _log.exception("a call of %s has failed", name)
            await context.abort(code, "an error in the service; its log says more")
        finally:
            seconds = time.perf_counter() - began
            telemetry.emit(telemetry.GrpcServed(method=name, code=code.name, seconds=seconds))

    return run


def _metadata(context: Any, name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def _token(context: Any) -> str:
    scheme, _, token = _metadata(context, "authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else _metadata(context, "x-api-key")


def _host(peer: str) -> str:
    """Of `ipv4:192.0.2.1:40000` or `ipv6:%5B2001:db8::1%5D:40000`, as gRPC has it, the address."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


async def _refuse(context: Any, error: RefusedError) -> None:
    """Ends the call. Trailers are small (8 kB with many clients), so what was stored is told in short."""
    problem = safe(error.problem[:_LONGEST_PROBLEM])
    status = STATUS[error.code]
    rich = status_pb2.Status(code=status.value[0], message=problem)
    rich.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.code.value, domain="tidegate"))
    if error.after:
        again = error_details_pb2.RetryInfo()
        again.retry_delay.FromMilliseconds(round(error.after * 1000))
        rich.details.add().Pack(again)
    if (before := stored_before(error)) is not None:
        del before.positions[:-_MOST_LISTED]
        del before.refused[_MOST_LISTED:]
        rich.details.add().Pack(before)
    await context.abort(status, problem, (("grpc-status-details-bin", rich.SerializeToString()),))


def stored_before(error: RefusedError) -> pb.Published | None:
    """What a call of publishing had stored before it was refused."""
    return published(msgspec.convert(error.details, Published)) if "positions" in error.details else None


def published(found: Published) -> pb.Published:
    """As a message."""
    return pb.Published(
        positions=found.positions,
        records=found.records,
        duplicates=found.duplicates,
        refused=[pb.Refusal(index=one.index, reason=safe(one.reason)) for one in found.refused],
        refused_count=found.refused_count,
    )


def safe(text: str) -> str:
    """Fit for a message: with no lone surrogates, which JSON may have brought in."""
    return text.encode("utf-8", "replace").decode()
