"""What edges have in common: how a start of a subscription is said, and how OpenAPI describes the refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from tidegate.errors import QueryError
from tidegate.query import parse_time
from tidegate.service import Start, refusal

__all__ = ["Problem", "in_parts", "problems", "start_of"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The refusals of a route."""
    return {
        status: ResponseSpec(
            Problem,
            description=HTTPStatus(status).phrase,
            generate_examples=False,
            media_type="application/problem+json",
            examples=[
                Example(
                    value={"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": "..."}
                )
            ],
        )
        for status in statuses
    }


def start_of(text: str) -> Start:
    """`now`, `start`, a position, or else a time. Raises RefusedError."""
    if text in ("now", "start") or text.startswith("LOG/") or text.replace("-", "").isdecimal():
        return text
    try:
        return datetime.fromtimestamp(parse_time(text) / 1000, UTC)
    except (QueryError, OverflowError, OSError, ValueError) as error:
        raise refusal(QueryError(f"start: {error}")) from error


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    """A body that came as a whole, for publishing: what is long is cut into frames as an upload is."""
    yield body
