"""`GET /v1/stream` of event-streaming: events as they are logged, as Server-Sent Events (WHATWG HTML, 9.2).

Invariant: the id of each event is its position, so that a client that comes back with `Last-Event-ID`, as browsers do
by themselves, misses nothing; and a key that is revoked ends its streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from tidegate.edges.examples import events as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import STREAMED, principal_of, token_of
from tidegate.edges.problems import problems
from tidegate.edges.shapes import start_of
from tidegate.entities.selection import EventFilter
from tidegate.errors import RefusedError
from tidegate.service import Item, Service, Sharing, Slow

__all__ = ["routes"]

_BEAT_SECONDS = 10.0
_TYPES = Annotated[
    list[str] | None, QueryParameter(description="OCSF classes by name or number, or `metadata.event_code`.")
]
_SINCE = Annotated[
    str | None,
    QueryParameter(description="`now` (default), `start`, a time of logging (RFC 3339, or 15m, 2h), or a position."),
]


def routes(service: Service) -> list[ControllerRouterHandler]:
    """The route."""
    sharing = Sharing(_pieces)

    @get(
        "/v1/stream",
        opt={"scope": "subscribe", STREAMED: True},
        media_type="text/event-stream",
        summary="Events as they are logged",
        tags=["events"],
        operation_class=showing(examples.STREAM, headers={"Last-Event-ID": "Go on behind this event."}),
        responses={
            200: ResponseSpec(
                bytes,
                description="Server-Sent Events: `event` with an OCSF event, `left_out` with a count of others.",
                generate_examples=False,
                media_type="text/event-stream",
            ),
            **problems(400, 401, 403, 429, 503),
        },
    )
    async def stream(
        request: Request[Any, Any, Any],
        start: _SINCE = None,
        types: _TYPES = None,
        source: FromQuery[str] = "",
        correlation_id: FromQuery[str] = "",
        min_severity: FromQuery[int] = 0,
        buffer: FromQuery[int] = 1000,
        slow: Annotated[
            Slow, QueryParameter(description="`hold` keeps back a slow reader; `skip` passes over, and says how many.")
        ] = "hold",
    ) -> Stream:
        """Ask again with the header `Last-Event-ID` to go on behind that event."""
        stack = contextlib.AsyncExitStack()
        where = EventFilter(source=source, correlation_id=correlation_id, min_severity=min_severity)
        who = principal_of(request)
        how: dict[str, Any] = {
            "types": [int(one) if one.isdecimal() else one for one in types or ()],
            "where": where,
            "most": buffer,
            "slow": slow,
        }
        begin = request.headers.get("last-event-id") or start_of(start or "now")
        # Entered here, so that what is wrong is answered as a problem and not within the stream.
        if begin == "now":
            take = (await stack.enter_async_context(service.live(who, sharing, **how))).next
        else:
            feed = await stack.enter_async_context(service.subscribe(who, start=begin, **how))

            async def take() -> tuple[int, bytes]:
                batch = await feed.next()
                return batch.left_out, _encoded(batch.items)

        async def written() -> AsyncIterator[bytes]:
            taking: asyncio.Task[tuple[int, bytes]] | None = None
            async with stack:
                try:
                    yield b": the log, from here on\n\n"
                    while True:
                        taking = taking or asyncio.create_task(take())
                        await asyncio.wait([taking], timeout=_BEAT_SECONDS)
                        try:
                            await service.gate.still(token_of(request))
                        except RefusedError as error:
                            yield b"event: refused\ndata: " + msgspec.json.encode({"detail": error.problem}) + b"\n\n"
                            return
                        if not taking.done():
                            yield b": still here\n\n"
                            continue
                        left_out, events = taking.result()
                        taking = None
                        if left_out:
                            yield b"event: left_out\ndata: %d\n\n" % left_out
                        yield events
                finally:
                    if taking is not None:
                        taking.cancel()
                        await asyncio.gather(taking, return_exceptions=True)

        return Stream(
            written(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    return [stream]


async def _pieces(items: Sequence[Item]) -> list[tuple[int, bytes]]:
    return [(len(items), _encoded(items))]


def _encoded(items: Sequence[Item]) -> bytes:
    # Encoded JSON has no line breaks, so an event is one line of data.
    return b"".join(b"id: %b\nevent: event\ndata: %b\n\n" % (item.position.encode(), item.line) for item in items)
