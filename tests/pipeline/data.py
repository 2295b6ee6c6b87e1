"""Native records for the pipeline's tests: real ones where the folder with them is there, and a way to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.conftest import SHARED_DATA
from tidegate.event import DeadLetter
from tidegate.pipeline.runner import Codec, Outcome, Pipeline, RawFrame

__all__ = ["FILES", "FOLDER", "RECEIVED_MS", "SHARDS", "one", "records_of", "run"]

FOLDER = SHARED_DATA
FILES = {
    "suricata": "suricata_eve.*.jsonl",
    "zeek": "zeek_json.*.jsonl",
    "aws_cloudtrail": "aws_cloudtrail.*.jsonl",
    "windows": "windows_events.*.jsonl",
}
RECEIVED_MS = 1_750_000_000_000
SHARDS = 4


def records_of(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if line.strip()]


def run(
    pipeline: Pipeline, source: str, records: list[bytes], codec: Codec = "json", origin: str = "INGEST/7"
) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
    """The events and dead letters of one frame; every record must come out once."""
    outcome = Outcome(SHARDS)
    pipeline.run(RawFrame(source=source, codec=codec, records=records, received_ms=RECEIVED_MS, origin=origin), outcome)
    events = [msgspec.json.decode(line) for shard in outcome.lines for line in shard]
    dead = [letter for shard in outcome.dead for letter in shard]
    assert len(events) + len(dead) + sum(outcome.filtered.values()) == outcome.records == len(records)
    return events, dead


def one(pipeline: Pipeline, source: str, record: object, codec: Codec = "json") -> dict[str, Any]:
    """The event that one record becomes."""
    raw = record if isinstance(record, bytes) else msgspec.json.encode(record)
    events, dead = run(pipeline, source, [raw], codec)
    assert not dead, dead
    return events[0]
