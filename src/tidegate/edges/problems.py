"""Refusals over HTTP: the status of each code, RFC 9457 answers, and how OpenAPI describes them.

Invariant: a code of the service has one status, and an answer with that status bears the code.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from tidegate.errors import Code, RefusedError

__all__ = ["STATUS", "Problem", "problem", "problems", "refused", "told"]

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
_OF_STATUS = {status: (code.value, title) for code, (status, title) in STATUS.items()}
_DETAILS = {
    400: "give exactly one of correlation_id and observable",
    401: "send a key or a token: Authorization: Bearer ...",
    403: "this needs the scope 'query', which 3f9c2a771be05d48 does not have",
    404: "nothing is known of alert 'intrusion-9'",
    408: "nothing more of the body has come for 30 s",
    409: "version 1 was expected, but it is 2",
    413: "a body of this type has at most 4194304 bytes; send NDJSON",
    415: "unknown content type 'image/png'",
    429: "3f9c2a771be05d48 may do 5 requests and records a second",
    503: "there is no connection to NATS; try again",
    504: "hot has not reached INGEST/2/1041 within 10 s",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str = ""
    """The same on every edge: `invalid`, `forbidden`, ...; not there where only HTTP can refuse."""


def problem(
    status: int,
    title: str,
    detail: str,
    members: dict[str, object] | None = None,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    """An RFC 9457 answer."""
    return Response(
        msgspec.json.encode(told(status, title, detail) | (members or {})),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def told(status: int, title: str, detail: str) -> dict[str, object]:
    """The members of an RFC 9457 answer."""
    members: dict[str, object] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return members | {"code": _OF_STATUS[status][0]} if status in _OF_STATUS else members


def refused(_: Request[Any, Any, Any], error: RefusedError) -> Response[bytes]:
    """What HTTP says of a refusal."""
    status, title = STATUS[error.code]
    headers = {}
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="tidegate"'
    if error.after:
        headers["Retry-After"] = str(math.ceil(error.after))
    return problem(status, title, error.problem, error.details, headers)


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The refusals of a route."""
    return {
        status: ResponseSpec(
            Problem,
            description=_OF_STATUS[status][1],
            generate_examples=False,
            media_type="application/problem+json",
            examples=[Example(value=told(status, _OF_STATUS[status][1], _DETAILS[status]))],
        )
        for status in statuses
    }
