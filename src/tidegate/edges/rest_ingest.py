"""`POST /v1/events` of event-streaming: records of any number, stored as frames.

Invariant: 202 means that every record is on disk but those listed in `refused`; whether the others become events is for
the pipeline to say. A body that is still coming in takes a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tidegate import frame
from tidegate.edges.examples import events as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import principal_of
from tidegate.edges.problems import problems
from tidegate.edges.shapes import answers
from tidegate.errors import Code, RefusedError
from tidegate.event import Envelope
from tidegate.service import Published, Refusal, Service

__all__ = ["Stored", "routes"]

_IDLE_SECONDS = 30.0
_DEFAULT_SOURCE = "app"
_MOST_DECLARED = 4 * 1024 * 1024


class Stored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the records."""

    position: str
    """Of the last frame: `INGEST/<partition>/<sequence>`, for `?after=` of queries."""
    positions: list[str]
    """Of every frame."""
    records: int
    """Stored."""
    duplicate: bool = msgspec.field(default_factory=lambda: False)
    """All of it had been stored before, under the same idempotency key."""
    refused: list[Refusal] = []
    """By index, the first thousand."""
    refused_count: int = 0


_HOW: dict[str, Any] = {
    "bodies": {
        "application/json": {},
        "application/x-ndjson": {},
        "text/plain": {},  # any text: even `null` is a line of it
    },
    "about": (
        "One record, an array, NDJSON, msgpack or lines of text, native or in envelopes, plain or with"
        " Content-Encoding zstd or gzip. NDJSON and text may be of any length, and of unknown length."
    ),
    "headers": {"Idempotency-Key": "Under the same one, what was stored in the last two minutes is not stored again."},
}
_RESPONSES = {
    **answers(Stored, "On disk, but for what is listed as refused.", 202),
    **problems(400, 401, 403, 408, 413, 415, 429, 503),
}


def routes(service: Service) -> list[ControllerRouterHandler]:
    """The routes of publishing."""

    async def publish(
        source: str, body: bytes | AsyncIterator[bytes], request: Request[Any, Any, Any]
    ) -> Response[Any]:
        found = await service.publish(
            principal_of(request),
            source,
            body,
            _content_type(request),
            request.headers.get("content-encoding", ""),
            key=request.headers.get("idempotency-key", ""),
            trace=request.headers.get("traceparent", ""),
        )
        return Response(_stored(found), status_code=202)

    @post(
        "/v1/events/{source:str}",
        status_code=202,
        request_max_body_size=None,
        opt={"scope": "publish"},
        operation_class=showing(examples.PUBLISH_OF_SOURCE, **_HOW),
        responses=_RESPONSES,
        summary="Publish records of one source",
        tags=["events"],
    )
    async def of_source(source: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        """Send `Idempotency-Key` to make it safe to repeat the same body within two minutes."""
        _check_length(request)
        return await publish(source, _chunks(request), request)

    @post(
        "/v1/events",
        status_code=202,
        request_max_body_size=None,
        opt={"scope": "publish"},
        operation_class=showing(examples.PUBLISH, **_HOW),
        responses=_RESPONSES,
        summary="Publish records; the source is in the address or in the envelopes",
        tags=["events"],
    )
    async def of_any(
        request: Request[Any, Any, Any],
        source: Annotated[
            str | None,
            QueryParameter(description="Of what names none itself. Default: the only one of the key, or `app`."),
        ] = None,
    ) -> Response[Any]:
        """As for one source. Of a single envelope the source is taken; of many, each goes by what it names."""
        _check_length(request)
        sources = principal_of(request).grant.sources
        default = sources[0] if len(sources) == 1 else _DEFAULT_SOURCE
        if source is not None or _content_type(request) not in ("", frame.JSON):
            return await publish(source or default, _chunks(request), request)
        body = b"".join([chunk async for chunk in _bounded(_chunks(request))])
        return await publish(_source_of(body) or default, body, request)

    return [of_source, of_any]


def _stored(found: Published) -> Stored:
    return Stored(
        position=found.positions[-1],
        positions=found.positions,
        records=found.records,
        duplicate=found.duplicates == len(found.positions),
        refused=found.refused,
        refused_count=found.refused_count,
    )


def _content_type(request: Request[Any, Any, Any]) -> str:
    content_type = request.headers.get("content-type", "")
    # curl's default for --data; let the content decide.
    return "" if content_type.startswith("application/x-www-form-urlencoded") else content_type


def _check_length(request: Request[Any, Any, Any]) -> None:
    """Refuse at once what would be refused in the end, before it is sent."""
    length = request.headers.get("content-length", "")
    by_lines = "ndjson" in (kind := _content_type(request)) or "jsonl" in kind or kind.startswith("text/plain")
    if not by_lines and length.isdecimal() and int(length) > _MOST_DECLARED:
        raise RefusedError(Code.TOO_LARGE, f"a body of this type has at most {_MOST_DECLARED} bytes; send NDJSON")


async def _chunks(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    """The body as it comes. Raises RefusedError when nothing has come for long."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise RefusedError(Code.TOO_SLOW, f"nothing more of the body has come for {_IDLE_SECONDS:g} s") from None
        if chunk is None:
            return
        if chunk:
            yield chunk


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > _MOST_DECLARED:
            raise RefusedError(Code.TOO_LARGE, f"a body of this type has at most {_MOST_DECLARED} bytes; send NDJSON")
        yield chunk


def _source_of(body: bytes) -> str:
    """What a single envelope names; anything else is left to the pipeline, which reads every record."""
    try:
        envelope = msgspec.json.decode(body, type=Envelope)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return envelope.source or ""
