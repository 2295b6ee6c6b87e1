"""The pipeline alone: frames of native records to encoded OCSF events, on one core, without any server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from tidegate.app import declarations
from tidegate.bench.material import native, raw_frames
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.config import Settings
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

__all__ = ["decode_and_encode", "is_json", "run", "run_frames"]

BAR = 150_000


async def run(settings: Settings, *, events: int = 100_000, seconds: float = 8.0) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    rules = Path(settings.intake.rules_path) if settings.intake.rules_path else None
    declared = declarations(settings)
    pipeline = load_pipeline(declared.shards, rules)
    frames = [native(one, number) for number, one in enumerate(raw_frames(events))]
    readable = [raw for one in frames for raw in one.records if is_json(raw)]
    run_frames(pipeline, frames[: max(1, len(frames) // 10)], declared.shards)
    runs, limit_runs, latencies = [], [], []
    size = 0
    for _ in rounds(seconds):
        times, size = run_frames(pipeline, frames, declared.shards)
        latencies += times
        runs.append(events / sum(times))
        limit_runs.append(len(readable) / decode_and_encode(readable))
        await asyncio.sleep(0)
    return made(
        bench="pipeline",
        events=events,
        runs=runs,
        limit="msgspec decode and encode of the same records, nothing else",
        limit_runs=limit_runs,
        bar=BAR,
        latencies=latencies,
        latency="a frame of 1,000 records of one source, from its bytes to encoded events",
        fsync="nothing is stored",
        bytes_per_event=sum(len(raw) for one in frames for raw in one.records) / events,
        began=began,
        place="memory, one core",
        note=f"{size / events:.0f} bytes per event come out, {events - len(readable)} records are no JSON",
    )


def run_frames(pipeline: Pipeline, frames: list[RawFrame], shards: int) -> tuple[list[float], int]:
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


def decode_and_encode(records: list[bytes]) -> float:
    """Seconds."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    start = time.perf_counter()
    for raw in records:
        encode(decode(raw))
    return time.perf_counter() - start


def is_json(raw: bytes) -> bool:
    """Whether it can be decoded."""
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
