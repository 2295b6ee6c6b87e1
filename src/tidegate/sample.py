"""The newest raw records that INGEST has, as frames: what rules are tried on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from tidegate import frame, subject
from tidegate.bus import Bus
from tidegate.errors import FrameError
from tidegate.pipeline.runner import RawFrame
from tidegate.reader import read

__all__ = ["newest"]


async def newest(
    bus: Bus, source: str, limit: int, max_inflated: int, *, after: int = 0
) -> AsyncGenerator[RawFrame, None]:
    """At most `limit` records of `source` (of all for ""), oldest first; only such beyond the sequence `after`.

    Frames that cannot be opened are left out: no rules ever see them.
    """
    state = await bus.stream(subject.INGEST)
    subjects = f"ingest.{source}.*" if source else "ingest.*.*"
    begin = max(state.first_sequence, after + 1)
    # Counts are in headers only; so the newest records are found from the end, by how many messages hold them.
    counts: list[tuple[int, int]] = []
    async with contextlib.aclosing(
        read(bus, subject.INGEST, subjects, begin, state.last_sequence, headers_only=True)
    ) as heads:
        async for message in heads:
            count = message.headers.get(frame.COUNT, "1")
            counts.append((message.sequence, int(count) if count.isdigit() else 1))
    total, first = 0, state.last_sequence + 1
    for sequence, there in reversed(counts):
        if total >= limit:
            break
        total, first = total + there, sequence
    left = limit
    async with contextlib.aclosing(read(bus, subject.INGEST, subjects, first, state.last_sequence)) as messages:
        async for message in messages:
            headers = message.headers
            with contextlib.suppress(FrameError):
                codec, records = frame.open_frame(
                    message.payload,
                    headers.get(frame.CONTENT_TYPE, ""),
                    headers.get(frame.CONTENT_ENCODING, ""),
                    max_inflated,
                )
                yield RawFrame(
                    source=subject.source_from(message.subject),
                    codec=codec,
                    records=records[:left],
                    received_ms=message.time_ms,
                    origin=f"{subject.INGEST}/{state.created}/{message.sequence}",
                )
                left -= len(records)
            if left <= 0:
                return
