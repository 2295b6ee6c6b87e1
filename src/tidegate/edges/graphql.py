"""`/graphql`: queries and mutations over POST, and everything over `graphql-transport-ws`.

Invariant: an answer that is not 200 has the shape of GraphQL's errors too, and what one connection may hold is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Any, cast

import msgspec
from litestar import Request, Response, post, websocket
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler
from msgspec import Struct
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived, WebSocketDisconnected
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UNSET

from tidegate.edges.graphql_schema import SCHEMA, Context
from tidegate.edges.http import ANYBODY, token_of
from tidegate.edges.problems import STATUS
from tidegate.edges.sockets import GONE, MAX_MESSAGE_BYTES, Socket, is_foreign
from tidegate.errors import Code, RefusedError
from tidegate.service import Service

__all__ = ["routes"]

_PROTOCOL = "graphql-transport-ws"
_SECONDS = 30.0
"""For one query or mutation."""
_OPERATIONS = 32
"""Under way on one connection."""
_ALLOWED = (OperationType.QUERY, OperationType.MUTATION)


class _Asked(Struct, frozen=True):
    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = msgspec.field(name="operationName", default=None)


_ASKED = msgspec.json.Decoder(_Asked)


class _Frame(Struct, omit_defaults=True):
    """Of the protocol: https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md"""

    type: str
    id: str = ""
    payload: Any = None


_FRAME = msgspec.json.Decoder(_Frame)


def routes(service: Service) -> list[ControllerRouterHandler]:
    """The routes."""

    # JSON alone, which browsers do not send to another site without asking it.
    # GraphQL describes itself, by introspection; OpenAPI has no words for it.
    @post(
        "/graphql",
        status_code=200,
        opt={"scope": ANYBODY},
        request_max_body_size=MAX_MESSAGE_BYTES,
        include_in_schema=False,
    )
    async def graphql(request: Request[Any, Any, Any]) -> Response[bytes]:
        """A document, its variables and the operation's name: `{"query": "{ counts { count } }"}`."""
        peer = request.client.host if request.client else ""
        context = Context(service, token_of(request), peer)
        try:
            if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise RefusedError(Code.UNSUPPORTED, "send application/json")
            await service.gate.enter(context.token, None, "POST /graphql", peer, requests=0)
            asked = _ASKED.decode(await request.body())
            async with asyncio.timeout(_SECONDS):
                result = await SCHEMA.execute(
                    asked.query or " ",
                    variable_values=asked.variables,
                    context_value=context,
                    operation_name=asked.operation_name,
                    allowed_operation_types=_ALLOWED,
                )
        except RefusedError as error:
            return _refused(error)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            return _refused(RefusedError(Code.INVALID, f"not a request of GraphQL: {error}"))
        except (CannotGetOperationTypeError, InvalidOperationTypeError) as error:
            return _refused(RefusedError(Code.INVALID, f"{error}" or "subscriptions go over a WebSocket"))
        except TimeoutError:
            return _refused(RefusedError(Code.TIMEOUT, f"this has taken more than {_SECONDS:g} seconds"))
        except HTTPException as error:
            code = Code.TOO_LARGE if error.status_code == 413 else Code.INVALID
            return _refused(RefusedError(code, error.detail))
        return _answer({"data": result.data, "errors": [one.formatted for one in result.errors or ()] or UNSET})

    @websocket("/graphql", opt={"scope": ANYBODY})
    async def connected(socket: Socket) -> None:
        if is_foreign(socket, service.gate) or _PROTOCOL not in socket.scope["subprotocols"]:
            await socket.close(1008)
            return
        await socket.accept(subprotocols=_PROTOCOL)
        context = Context(service, token_of(socket), socket.client.host if socket.client else "")
        handler: BaseGraphQLTransportWSHandler[Context, None] = BaseGraphQLTransportWSHandler(
            view=cast("Any", _View()),
            websocket=cast("Any", _Adapter(socket)),
            context=context,
            root_value=None,
            schema=SCHEMA,
            connection_init_wait_timeout=timedelta(seconds=10),
            max_subscriptions_per_connection=_OPERATIONS,
        )
        await handler.handle()

    return [graphql, connected]


def _answer(told: dict[str, Any], status: int = 200) -> Response[bytes]:
    body = msgspec.json.encode({name: value for name, value in told.items() if value is not UNSET}, enc_hook=str)
    return Response(body, status_code=status, media_type="application/json")


def _refused(error: RefusedError) -> Response[bytes]:
    told = {"message": error.problem, "extensions": {"code": error.code.value, **error.details}}
    return _answer({"errors": [told]}, STATUS[error.code][0])


class _View:
    """What strawberry's handler asks of whoever made it."""

    async def on_ws_connect(self, context: Context) -> object:
        """The key is in the header, or in the payload of `connection_init`, as browsers have to send it."""
        if not context.token:
            given = str(context.connection_params.get("Authorization", ""))
            context.token = given.removeprefix("Bearer ").strip()
        try:
            await context.service.gate.enter(context.token, None, "WS /graphql", context.peer, requests=0)
        except RefusedError as error:
            raise ConnectionRejectionError({"code": error.code.value}) from error
        return UNSET


class _Adapter:
    """A connection as strawberry's handler wants it: it gets nothing but whole messages of the protocol."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        while (received := await self._socket.receive())["type"] != "websocket.disconnect":
            text = received.get("text")
            if text is None:
                raise NonTextMessageReceived
            try:
                yield _message(text)  # type: ignore[arg-type]
            except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
                raise NonJsonMessageReceived from error

    async def send_json(self, message: Mapping[str, object]) -> None:
        text = msgspec.json.encode(message, enc_hook=str).decode()
        try:
            await self._socket.send({"type": "websocket.send", "text": text, "bytes": None})
        except GONE as error:
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._socket.close(code, reason[:100])
        except GONE as error:
            raise WebSocketDisconnected from error


def _message(text: str) -> object:
    one = _FRAME.decode(text)
    if one.type == "subscribe":
        msgspec.convert(one.payload, _Asked)
    return {"payload": {}, "id": "", **msgspec.to_builtins(one)}
