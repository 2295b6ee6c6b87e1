"""`POST /v1/events/{source}` of event-streaming: a request body is a frame, stored as it came.

Invariant: 202 means that the server has stored the body; whether its records are events is for the pipeline to say.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from litestar import Request, Response, post
from litestar.types import ControllerRouterHandler

from tidegate import frame, subject
from tidegate.bus import Bus
from tidegate.edges.http import problem
from tidegate.errors import BusError, BusUnavailableError, FrameError

__all__ = ["routes"]


def routes(
    bus: Callable[[], Bus | None], partitions: int, max_frame_bytes: int, max_inflated_bytes: int
) -> list[ControllerRouterHandler]:
    """The route; `bus` gives the connection, or None while there is none."""
    turn = itertools.count()

    @post("/v1/events/{source:str}", status_code=202, request_max_body_size=max_frame_bytes)
    async def publish(source: str, request: Request[Any, Any, Any]) -> Response[Any]:
        """Publish one record, an array, NDJSON, msgpack or text lines; `Content-Encoding` zstd or gzip is fine.

        Send `Idempotency-Key` to make a repeated request safe.
        """
        if not subject.valid_source(source):
            return problem(400, "Bad source", f"{source[:80]!r} is no source name: use letters, digits, _ and -")
        connection = bus()
        if connection is None or not connection.connected:
            return problem(503, "Not connected", "there is no connection to NATS; try again")
        body = await request.body()
        content_type = request.headers.get("content-type", "")
        if content_type.startswith("application/x-www-form-urlencoded"):
            content_type = ""  # curl's default for --data; let the content decide
        encoding = request.headers.get("content-encoding", "")
        try:
            # Inflating up to the bound takes milliseconds of pure C, which leave the loop free in a thread.
            _, records = await asyncio.to_thread(frame.open_frame, body, content_type, encoding, max_inflated_bytes)
        except FrameError as error:
            status = {"content_type": 415, "content_encoding": 415, "inflated_size": 413, "record_count": 413}.get(
                error.rule, 400
            )
            return problem(status, "Unusable body", error.problem)
        headers = {frame.COUNT: str(len(records))}
        if content_type:
            headers[frame.CONTENT_TYPE] = content_type
        if encoding:
            headers[frame.CONTENT_ENCODING] = encoding
        if key := request.headers.get("idempotency-key"):
            headers["Nats-Msg-Id"] = f"rest-{source}-{key}"[:256]
        if trace := request.headers.get("traceparent"):
            headers[frame.TRACEPARENT] = trace
        partition = next(turn) % partitions
        try:
            ack = await connection.publish(subject.ingest(source, partition), body, headers)
        except BusUnavailableError as error:
            return problem(503, "Not stored", f"{error}; try again with the same Idempotency-Key")
        except BusError as error:
            return problem(400, "Refused", error.description)
        return Response(
            {
                "position": f"{ack.stream}/{partition}/{ack.seq}",
                "records": len(records),
                "duplicate": ack.duplicate,
            },
            status_code=202,
        )

    return [publish]
