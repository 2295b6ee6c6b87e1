"""Calls to services, events and stream connections over HTTP, by way of the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from tidegate.edges.examples import gateway as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import principal_of
from tidegate.edges.problems import problems
from tidegate.edges.shapes import answers
from tidegate.entities.call import Callback
from tidegate.errors import Code, RefusedError, TidegateError
from tidegate.gateway import CallFailedError, Gateway
from tidegate.gateway.calling import shown
from tidegate.gateway.channel import readable
from tidegate.gateway.transports.base import Failure
from tidegate.service import refusal

__all__ = ["routes"]

_CODES: dict[Failure, Code] = {
    "unreachable": Code.UNAVAILABLE,
    "timeout": Code.TIMEOUT,
    "unavailable": Code.UNAVAILABLE,
    "rejected": Code.CONFLICT,
    "invalid": Code.INVALID,
    "too_large": Code.UNAVAILABLE,
    "overloaded": Code.RATE_LIMITED,
    "open": Code.UNAVAILABLE,
}
_TOLD = (400, 401, 403, 404, 409, 413, 429, 503, 504)
_KEY = {"Idempotency-Key": "What is asked for under the same one is done once."}
_BODY_BYTES = 2 * 1024 * 1024


class _Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call of a target."""

    target: str
    operation: str
    """REST: `GET /path`; gRPC: `pkg.Service/Method`; GraphQL: the document; WebSocket: a name; NATS: the endpoint."""
    payload: Any = None
    mode: Annotated[str, Meta(pattern="^(sync|async)$")] = "sync"
    """`sync` waits for the answer; `async` is accepted, and looked up or told of later."""
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    idempotent: bool = False
    """It may be made twice."""
    callback: Callback = Callback()


class _Happened(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event."""

    event_type: str
    data: Any
    correlation_id: str | None = None


class _Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream connection."""

    target: str
    topic: str = ""
    name: str = ""
    source: str = "gateway"


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except CallFailedError as error:
        details: dict[str, object] = {"failure": error.kind, "attempts": error.attempts}
        if error.status:
            details["target_status"] = error.status
        if error.body:
            details["target_body"] = readable(error.body)
        raise RefusedError(_CODES[error.kind], error.problem, after=error.after, details=details) from error
    except TidegateError as error:
        raise refusal(error) from error


_ACCEPTED = answers(dict[str, str], "Accepted; `Location` is where to look.", 202)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response[Any]:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers)


def routes(gateway: Gateway) -> list[ControllerRouterHandler]:
    """The routes."""

    @post(
        "/v1/calls",
        status_code=200,
        operation_class=showing(examples.CALL, headers=_KEY),
        opt={"scope": "command"},
        request_max_body_size=_BODY_BYTES,
        responses={**_ACCEPTED, **problems(*_TOLD)},
        tags=["gateway"],
    )
    async def call(data: JSONBody[_Asked], request: Request[Any, Any, Any]) -> Response[Any]:
        """Call a service: 200 with its answer, or, in the mode `async`, 202 with the call's id.

        `Idempotency-Key` is passed on to the service; in the mode `async` it is the call's id.
        """
        who, key = principal_of(request), request.headers.get("idempotency-key", "")
        with _told():
            if data.mode == "sync":
                if data.callback != Callback():
                    raise RefusedError(Code.INVALID, "a callback is for the mode `async`")
                found = await gateway.execute_synchronous_call(
                    data.target,
                    data.operation,
                    data.payload,
                    principal=who,
                    timeout_seconds=data.timeout_seconds,
                    idempotent=data.idempotent,
                    key=key,
                )
                told = {"result": found.value, "status": found.status, "attempts": found.attempts}
                told |= {"hedged": found.hedged, "fallback": found.fallback, "seconds": round(found.seconds, 6)}
                return _json(told)
            call_id = await gateway.execute_asynchronous_call(
                data.target,
                data.operation,
                data.payload,
                principal=who,
                callback_subject=data.callback.subject,
                callback_webhook=data.callback.webhook,
                timeout_seconds=data.timeout_seconds,
                idempotent=data.idempotent,
                call_id=key,
            )
        return _json({"id": call_id, "status": "accepted"}, 202, {"Location": f"/v1/calls/{call_id}"})

    @get(
        "/v1/calls/{call_id:str}",
        opt={"scope": "query"},
        operation_class=showing(examples.LOOK),
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def look(call_id: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        """How an asynchronous call goes, and its result."""
        with _told():
            return _json(shown(call_id, await gateway.call(call_id, principal=principal_of(request))))

    @delete(
        "/v1/calls/{call_id:str}",
        status_code=200,
        operation_class=showing(examples.CANCEL),
        opt={"scope": "command"},
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def cancel(call_id: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        """Cancel an asynchronous call: 409 when it has ended."""
        with _told():
            await gateway.cancel_call(call_id, principal=principal_of(request))
        return _json({"id": call_id, "status": "cancelled"})

    @post(
        "/v1/events",
        status_code=202,
        operation_class=showing(examples.EVENT, headers=_KEY),
        opt={"scope": "publish"},
        request_max_body_size=_BODY_BYTES,
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def event(data: JSONBody[_Happened], request: Request[Any, Any, Any]) -> Response[Any]:
        """Publish an event where its type's route says."""
        with _told():
            found = await gateway.publish_event(
                data.event_type,
                data.data,
                principal=principal_of(request),
                correlation_id=data.correlation_id,
                key=request.headers.get("idempotency-key", ""),
            )
        return _json(found, 202)

    @post(
        "/v1/streams",
        status_code=202,
        operation_class=showing(examples.ESTABLISH),
        opt={"scope": "command"},
        request_max_body_size=64 * 1024,
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def establish(data: JSONBody[_Wanted], request: Request[Any, Any, Any]) -> Response[Any]:
        """Have messages of a service stored as events, from now on."""
        with _told():
            name = await gateway.establish_stream_connection(
                data.target, data.topic, name=data.name, source=data.source, principal=principal_of(request)
            )
        return _json({"name": name, "status": "requested"}, 202, {"Location": f"/v1/streams/{name}"})

    @get(
        "/v1/streams/{name:str}",
        opt={"scope": "query"},
        operation_class=showing(examples.STREAM),
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def stream(name: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        """How a stream connection stands."""
        with _told():
            return _json(await gateway.stream_connection(name, principal=principal_of(request)))

    @delete(
        "/v1/streams/{name:str}",
        status_code=200,
        operation_class=showing(examples.CLOSE),
        opt={"scope": "command"},
        responses=problems(*_TOLD),
        tags=["gateway"],
    )
    async def close(name: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        """Close a stream connection, for good."""
        with _told():
            await gateway.close_stream_connection(name, principal=principal_of(request))
        return _json({"name": name, "status": "closed"})

    @get(
        "/v1/channels",
        opt={"scope": "query"},
        operation_class=showing(examples.CHANNELS),
        responses=problems(401, 403, 429),
        tags=["gateway"],
    )
    async def channels(request: Request[Any, Any, Any]) -> Response[Any]:
        """Status and counters of every channel of this process."""
        return _json({"channels": gateway.channel_statuses(principal=principal_of(request))})

    return [call, look, cancel, event, establish, stream, close, channels]
