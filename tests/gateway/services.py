"""Services to be called, each a real server on loopback, which misbehave as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection
from litestar import Request, Response, get, post, route
from litestar.response import ServerSentEvent
from litestar.types import ControllerRouterHandler
from websockets.asyncio.server import ServerConnection, serve

from tests.conftest import free_ports


class Rest:
    """HTTP. Behaviour by path; `seen` counts requests by path, `keys` has their idempotency keys."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: Counter[str] = Counter()
        self.keys: list[str] = []
        self.bodies: list[Any] = []
        self.failing = 0
        """So many requests of `/flaky` fail from now on."""
        self.slow = 0
        """So many requests of `/slow` take a second."""
        self.hold = asyncio.Event()
        """`/held` answers once it is set."""
        self.event_ids: list[str] = []
        """`Last-Event-ID` of each connection to `/events`."""

    def _note(self, request: Request[Any, Any, Any]) -> None:
        self.seen[request.url.path] += 1
        self.keys.append(request.headers.get("idempotency-key", ""))

    def routes(self) -> list[ControllerRouterHandler]:
        @route("/echo", http_method=["GET", "POST"])
        async def echo(request: Request[Any, Any, Any]) -> dict[str, Any]:
            self._note(request)
            body = await request.body()
            self.bodies.append(body)
            return {
                "got": json.loads(body) if body else None,
                "query": dict(request.query_params),
                "authorization": request.headers.get("authorization", ""),
            }

        @route("/flaky", http_method=["GET", "POST"], status_code=200)
        async def flaky(request: Request[Any, Any, Any]) -> Response[Any]:
            self._note(request)
            if self.failing > 0:
                self.failing -= 1
                return Response({"problem": "not now"}, status_code=503)
            return Response({"ok": True})

        @get("/slow")
        async def slow(request: Request[Any, Any, Any]) -> dict[str, Any]:
            self._note(request)
            number = self.seen["/slow"]
            if self.slow > 0:
                self.slow -= 1
                await asyncio.sleep(1.0)
            return {"number": number}

        @post("/held", status_code=200)
        async def held(request: Request[Any, Any, Any]) -> dict[str, bool]:
            self._note(request)
            await self.hold.wait()
            return {"done": True}

        @get("/missing")
        async def missing(request: Request[Any, Any, Any]) -> Response[Any]:
            self._note(request)
            return Response({"problem": "no such thing"}, status_code=404)

        @get("/large")
        async def large() -> bytes:
            return b"x" * 100_000

        @get("/squeezed")
        async def squeezed() -> Response[bytes]:
            return Response(gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"})

        @get("/away")
        async def away() -> Response[bytes]:
            return Response(b"", status_code=302, headers={"Location": "/echo"})

        @post("/graphql", status_code=200)
        async def graphql(request: Request[Any, Any, Any]) -> dict[str, Any]:
            self._note(request)
            asked = await request.json()
            if "wrong" in asked["query"]:
                return {"errors": [{"message": "wrong it is"}], "data": None}
            return {"data": {"echo": asked["variables"]}}

        @post("/hook", status_code=204)
        async def hook(request: Request[Any, Any, Any]) -> None:
            self._note(request)
            self.bodies.append((await request.json(), request.headers.get("tidegate-signature", "")))

        @get("/events")
        async def events(request: Request[Any, Any, Any]) -> ServerSentEvent:
            first = request.headers.get("last-event-id", "")
            self.event_ids.append(first)

            async def some() -> AsyncIterator[dict[str, Any]]:
                # Three messages, and the connection ends.
                for number in range(int(first or 0) + 1, int(first or 0) + 4):
                    yield {"data": json.dumps({"number": number}), "id": str(number)}
                    await asyncio.sleep(0)

            return ServerSentEvent(some())

        return [echo, flaky, slow, held, missing, large, squeezed, away, graphql, hook, events]


@contextlib.asynccontextmanager
async def websocket_service(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[ServerConnection]]]:
    """URL and open connections of a server that echoes requests, and sends numbers to who subscribes."""
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        async for text in connection:
            asked = json.loads(text)
            if "subscribe" in asked:
                for number in range(3):
                    await connection.send(json.dumps({"topic": asked["subscribe"], "number": number}))
            elif asked["operation"] == "refuse":
                await connection.send(json.dumps({"id": asked["id"], "error": "no"}))
            elif asked["operation"] == "hang up":
                await connection.close()
            elif asked["operation"] != "silence":
                await connection.send(json.dumps({"id": asked["id"], "result": asked["payload"]}))

    async with serve(handle, "127.0.0.1", 0, ssl=tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", connections


@contextlib.asynccontextmanager
async def grpc_service(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """URL of a server with reflection and the service `demo.Echo`: Say, Refuse, Wait, Large, Count (a stream)."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="demo.proto", package="demo", syntax="proto3", dependency=["google/protobuf/struct.proto"]
    )
    service = file.service.add(name="Echo")
    for name in ("Say", "Refuse", "Wait", "Large", "Count"):
        service.method.add(
            name=name,
            input_type=".google.protobuf.Struct",
            output_type=".google.protobuf.Struct",
            server_streaming=name == "Count",
        )
    pool.Add(file)
    found: FileDescriptor = pool.FindFileByName("demo.proto")
    assert found.services_by_name["Echo"]

    async def say(request: bytes, context: Any) -> bytes:
        return request

    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return b""

    async def wait(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(5)
        return b""

    async def large(request: bytes, context: Any) -> bytes:
        return b"x" * 100_000

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            message = struct_pb2.Struct()
            message.update({"number": number})
            yield message.SerializeToString()

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Large": grpc.unary_unary_rpc_method_handler(large),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Echo", handlers),))
    reflection.enable_server_reflection(["demo.Echo"], server, pool=pool)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{'grpcs' if credentials else 'grpc'}://{address}"
    finally:
        await server.stop(0)
