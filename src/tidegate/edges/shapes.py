"""What the answers of all REST edges look like in their OpenAPI descriptions."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

__all__ = ["Problem", "problems"]


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
