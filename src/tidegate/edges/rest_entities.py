"""Commands to entities and their state over HTTP, and the status of the process as its caller may see it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tidegate.edges.examples import events as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import principal_of
from tidegate.edges.problems import problems
from tidegate.edges.shapes import answers
from tidegate.service import Service

__all__ = ["routes"]


class Given(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command."""

    command: dict[str, Any]
    """One of the kind's, with its tag in `type`: `{"type": "alert.acknowledge.v1", "by": "mira"}`."""
    command_id: str = ""
    """Repeated under the same id it takes effect once."""
    expected_version: int | None = None


_ANSWERS = answers(dict[str, Any], "Where the entity and the log stand with it, with the state or what has changed.")


def routes(service: Service) -> list[ControllerRouterHandler]:
    """The routes."""

    @post(
        "/v1/entities/{kind:str}/{entity_id:path}",
        status_code=200,
        opt={"scope": "command"},
        request_max_body_size=256 * 1024,
        operation_class=showing(examples.COMMAND),
        responses={**_ANSWERS, **problems(400, 401, 403, 404, 409, 413, 429, 503)},
        tags=["entities"],
    )
    async def command(
        kind: FromPath[str], entity_id: FromPath[str], data: JSONBody[Given], request: Request[Any, Any, Any]
    ) -> Response[bytes]:
        """Give a command; the answer comes once the change is in the log."""
        answer = await service.command(
            principal_of(request),
            kind,
            entity_id.removeprefix("/"),
            data.command,
            command_id=data.command_id,
            expected_version=data.expected_version,
        )
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @get(
        "/v1/entities/{kind:str}/{entity_id:path}",
        opt={"scope": "query"},
        operation_class=showing(examples.ENTITY),
        responses={**_ANSWERS, **problems(400, 401, 403, 404, 429, 503)},
        tags=["entities"],
    )
    async def entity(kind: FromPath[str], entity_id: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
        """The version and the state; `ETag` is the version."""
        answer = await service.entity(principal_of(request), kind, entity_id.removeprefix("/"))
        tag = f'"{answer.version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(b"", status_code=304, headers={"ETag": tag})
        return Response(msgspec.json.encode(answer), media_type="application/json", headers={"ETag": tag})

    @get(
        "/v1/status",
        opt={"scope": None},
        operation_class=showing(examples.STATUS),
        responses=problems(401, 429),
        tags=["status"],
    )
    async def status(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Whether the process can do its work, and what the caller may do."""
        return await service.status(principal_of(request))

    return [command, entity, status]
