"""gRPC: unary calls and server streams, with bytes as they are, or JSON where the server has reflection.

Invariant: what server reflection says only shapes messages; the address is the target's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tidegate.gateway.configuration import Target
from tidegate.gateway.transports.base import KEY, CallFailedError, Reply, Request, untrusted

__all__ = ["GrpcTransport"]

_KINDS: dict[grpc.StatusCode, Any] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "unavailable",
    grpc.StatusCode.ABORTED: "unavailable",
    grpc.StatusCode.INTERNAL: "unavailable",
    grpc.StatusCode.UNKNOWN: "unavailable",
}
_MOST_FILES = 200


class GrpcTransport:
    """The operation is `package.Service/Method`."""

    def __init__(self, target: Target, headers: dict[str, str]) -> None:
        self._target = target
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        address = urlsplit(target.url).netloc
        options = [
            ("grpc.max_receive_message_length", target.max_response_bytes),
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        if target.url.startswith("grpcs"):
            roots = Path(target.ca_file).read_bytes() if target.ca_file else None
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options)
        else:
            self._channel = grpc.aio.insecure_channel(address, options)
        self._pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()
        self._learning = asyncio.Lock()

    def repeatable(self, request: Request) -> bool:
        return False

    async def call(self, request: Request) -> Reply:
        path = _path(request.operation)
        try:
            async with asyncio.timeout(request.timeout_seconds):
                method = await self._method(path) if request.content_type != "application/octet-stream" else None
                body = _to_bytes(method, request.body)
                call = self._channel.unary_unary(path)
                answer: bytes = await call(
                    body,
                    timeout=request.timeout_seconds,
                    metadata=[*self._metadata, (KEY.lower(), request.headers.get(KEY, ""))],
                )
        except TimeoutError:
            raise CallFailedError("timeout", f"no answer within {request.timeout_seconds:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        if method is None:
            return Reply(answer, "application/octet-stream")
        return Reply(_to_json(method, answer))

    async def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """The messages of a method that streams, called with an empty request, as JSON by server reflection."""
        path = _path(topic)
        try:
            method = await self._method(path)
            call = self._channel.unary_stream(path)(b"", metadata=self._metadata)
            await call.initial_metadata()
            yield "", b""
            try:
                async for message in call:
                    yield "", _to_json(method, message)
            finally:
                call.cancel()
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error

    async def _method(self, path: str) -> MethodDescriptor:
        """What the server says of the method. Raises CallFailedError where it says nothing."""
        service, _, name = path[1:].rpartition("/")
        async with self._learning:
            if service not in self._known:
                await self._learn(service)
                self._known.add(service)
        try:
            found: MethodDescriptor = self._pool.FindServiceByName(service).FindMethodByName(name)
        except KeyError:
            raise CallFailedError("invalid", f"the server has no method {path[:200]!r}") from None
        return found

    async def _learn(self, service: str) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        asked = reflection_pb2.ServerReflectionRequest
        files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        wanted = [asked(file_containing_symbol=service)]
        while wanted:
            call = stub.ServerReflectionInfo(iter([wanted.pop()]), metadata=self._metadata)
            async for answer in call:
                if answer.HasField("error_response"):
                    raise CallFailedError("invalid", f"the server has no service {service[:100]!r}")
                for data in answer.file_descriptor_response.file_descriptor_proto:
                    one = descriptor_pb2.FileDescriptorProto.FromString(data)
                    files[one.name] = one
                    missing = [name for name in one.dependency if name not in files]
                    wanted += [asked(file_by_filename=name) for name in missing]
            if len(files) > _MOST_FILES or len(wanted) > _MOST_FILES:
                raise CallFailedError("invalid", f"{service[:100]!r} is made of more than {_MOST_FILES} files")
        for one in files.values():
            _add(self._pool, one, files)

    async def aclose(self) -> None:
        await self._channel.close()


def _add(
    pool: descriptor_pool.DescriptorPool,
    one: descriptor_pb2.FileDescriptorProto,
    files: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    """With what it imports first, each once."""
    try:
        pool.FindFileByName(one.name)
    except KeyError:
        for name in one.dependency:
            if name in files:
                _add(pool, files[name], files)
        pool.Add(one)


def _path(operation: str) -> str:
    name = operation.removeprefix("/")
    if name.count("/") != 1 or not name.isascii() or not name.isprintable():
        raise CallFailedError("invalid", f"{operation[:100]!r} is no operation of gRPC, such as `pkg.Service/Method`")
    return f"/{name}"


def _to_bytes(method: MethodDescriptor | None, body: bytes) -> bytes:
    if method is None or not body:
        return body
    message = message_factory.GetMessageClass(method.input_type)()
    try:
        json_format.Parse(body, message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise CallFailedError("invalid", f"the payload is no {method.input_type.full_name}: {error}") from error
    encoded: bytes = message.SerializeToString()
    return encoded


def _to_json(method: MethodDescriptor, answer: bytes) -> bytes:
    message = message_factory.GetMessageClass(method.output_type)()
    message.ParseFromString(answer)
    text: str = json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True)
    return text.encode()


def _failed(error: grpc.aio.AioRpcError) -> CallFailedError:
    code, details = error.code(), error.details() or ""
    kind = _KINDS.get(code, "rejected")
    if "larger than max" in details:
        kind = "too_large"  # CLIENT-side: "Received message larger than max (5 vs. 4)"
    elif code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details:
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return untrusted(details[details.index("CERTIFICATE_VERIFY_FAILED") :][:200])
        kind = "unreachable"
    return CallFailedError(kind, f"answered {code.name}: {details[:200]}", status=code.name)
