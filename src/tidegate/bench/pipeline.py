"""The pipeline alone: frames of native records to encoded OCSF events, on one core, without any server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate.app import declarations
from tidegate.bench.material import native, raw_frames
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.config import Settings
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

__all__ = ["measured", "reported", "run"]

BAR = 150_000


async def run(settings: Settings, *, events: int = 100_000, seconds: float = 8.0) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    rules = Path(settings.intake.rules_path) if settings.intake.rules_path else None
    declared = declarations(settings)
    pipeline = load_pipeline(declared.shards, rules)
    found = await measured(pipeline, declared.shards, events, seconds)
    note = f"{found.bytes_out:.0f} bytes per event come out, {events - found.readable} records are no JSON"
    return reported(found, bench="pipeline", events=events, bar=BAR, began=began, note=note)


class Measured(NamedTuple):
    """Runs of the same frames through one pipeline."""

    runs: list[float]
    """Events per second."""
    limit_runs: list[float]
    latencies: list[float]
    """Seconds for each frame."""
    bytes_in: float
    """Of an event, on average."""
    bytes_out: float
    readable: int
    """Records that are JSON."""


async def measured(pipeline: Pipeline, shards: int, events: int, seconds: float) -> Measured:
    """Runs `events` generated events through `pipeline`, for `seconds` or three times, whichever is longer."""
    frames = [native(one, number) for number, one in enumerate(raw_frames(events))]
    readable = [raw for one in frames for raw in one.records if _is_json(raw)]
    _run(pipeline, frames[: max(1, len(frames) // 10)], shards)
    runs, limit_runs, latencies = [], [], []
    size = 0
    for _ in rounds(seconds):
        times, size = _run(pipeline, frames, shards)
        latencies += times
        runs.append(events / sum(times))
        limit_runs.append(len(readable) / _decode_and_encode(readable))
        await asyncio.sleep(0)
    bytes_in = sum(len(raw) for one in frames for raw in one.records) / events
    return Measured(runs, limit_runs, latencies, bytes_in, size / events, len(readable))


def reported(
    found: Measured, *, bench: str, events: int, bar: int, began: float, note: str, most_p99_ms: float | None = None
) -> Report:
    """What was measured, with its limit."""
    return made(
        bench=bench,
        events=events,
        runs=found.runs,
        limit="msgspec decode and encode of the same records, nothing else",
        limit_runs=found.limit_runs,
        bar=bar,
        latencies=found.latencies,
        latency="a frame of 1,000 records of one source, from its bytes to encoded events",
        fsync="nothing is stored",
        bytes_per_event=found.bytes_in,
        began=began,
        place="memory, one core",
        note=note,
        most_p99_ms=most_p99_ms,
    )


def _run(pipeline: Pipeline, frames: list[RawFrame], shards: int) -> tuple[list[float], int]:
    """Seconds for each frame, and the bytes that came out."""
    clock = time.perf_counter
    times = []
    size = found = 0
    for one in frames:
        outcome = Outcome(shards)
        start = clock()
        pipeline.run(one, outcome)
        times.append(clock() - start)
        size += sum(len(line) for _, by_shard in outcome.groups() for lines in by_shard for line in lines)
        found += outcome.events + sum(map(len, outcome.dead)) + sum(outcome.filtered.values())
    balanced("events, dead letters and filtered", found, sum(len(one.records) for one in frames))
    return times, size


def _decode_and_encode(records: list[bytes]) -> float:
    """Seconds."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    start = time.perf_counter()
    for raw in records:
        encode(decode(raw))
    return time.perf_counter() - start


def _is_json(raw: bytes) -> bool:
    """Whether it can be decoded."""
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
