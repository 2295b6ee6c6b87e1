"""What edges have in common: how a start of a subscription is said, and how OpenAPI describes answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from litestar.openapi.datastructures import ResponseSpec

from tidegate.errors import QueryError
from tidegate.query import parse_time
from tidegate.service import Start, refusal

__all__ = ["answers", "in_parts", "start_of"]


def answers(shape: Any, description: str, status: int = 200) -> dict[int, ResponseSpec]:
    """What a route answers when all is well."""
    return {status: ResponseSpec(shape, description=description, generate_examples=False)}


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
