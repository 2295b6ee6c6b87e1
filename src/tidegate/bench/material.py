"""What the benchmarks work on: generated records, cut into frames as publishers and the intake make them.

Invariant: everything is made before the clock starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from tidegate import frame, subject
from tidegate.bus import Outgoing
from tidegate.generator import Generator
from tidegate.log import dead_messages, event_messages
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

__all__ = ["FRAME_RECORDS", "Commit", "RawRecords", "commits", "native", "packed", "raw_frames", "records"]

FRAME_RECORDS = 1000


class RawRecords(NamedTuple):
    """Records of one source, at most FRAME_RECORDS."""

    source: str
    records: list[bytes]


class Commit(NamedTuple):
    """What the intake makes of one batch: the frames for the log."""

    messages: list[Outgoing]
    records: int
    events: int
    dead: int
    filtered: int


def records(count: int) -> list[bytes]:
    """`count` records of all sources, mixed as the generator mixes them."""
    return [one.data for one in Generator(1).records(count)]


def raw_frames(count: int) -> list[RawRecords]:
    """`count` records by source, cut into frames; the sources take turns."""
    by_source: defaultdict[str, list[bytes]] = defaultdict(list)
    frames = []
    for one in Generator(1).records(count):
        waiting = by_source[one.source]
        waiting.append(one.data)
        if len(waiting) == FRAME_RECORDS:
            frames.append(RawRecords(one.source, waiting))
            del by_source[one.source]
    frames += [RawRecords(source, rest) for source, rest in sorted(by_source.items())]
    return frames


def packed(frames: Sequence[list[bytes]]) -> list[tuple[bytes, dict[str, str]]]:
    """Payload and headers of each frame as a Publisher makes them, without a message id."""
    compress = zstandard.ZstdCompressor(level=1).compress
    return [
        (
            compress(b"\n".join(one)),
            {frame.CONTENT_TYPE: frame.NDJSON, frame.COUNT: str(len(one)), frame.CONTENT_ENCODING: "zstd"},
        )
        for one in frames
    ]


def native(one: RawRecords, number: int) -> RawFrame:
    """The frame as the intake hands it to the pipeline; `number` stands for its sequence."""
    return RawFrame(
        source=one.source,
        codec="json",
        records=one.records,
        received_ms=1_767_225_600_000 + number,
        origin=f"{subject.INGEST}/bench/{number}",
    )


def commits(count: int, pipeline: Pipeline, shards: int, batch_records: int) -> list[Commit]:
    """`count` records through the pipeline, in batches of `batch_records`, as the intake commits them."""
    frames = raw_frames(count)
    step = max(1, batch_records // FRAME_RECORDS)
    made = []
    for first in range(0, len(frames), step):
        outcome = Outcome(shards)
        for number, one in enumerate(frames[first : first + step], start=first):
            pipeline.run(native(one, number), outcome)
        cause = f"{subject.INGEST}/{first}-{first + step - 1}"
        messages: list[Outgoing] = []
        for shard in range(shards):
            messages += event_messages(shard, outcome.lines[shard], cause)
            messages += dead_messages(shard, outcome.dead[shard], cause)
        made.append(
            Commit(
                messages=messages,
                records=outcome.records,
                events=sum(map(len, outcome.lines)),
                dead=sum(map(len, outcome.dead)),
                filtered=sum(outcome.filtered.values()),
            )
        )
    return made
