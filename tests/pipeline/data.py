"""Native records for the pipeline's tests: real ones where the folder with them is there, and a way to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.conftest import SHARED_DATA
from tidegate.event import DeadLetter
from tidegate.pipeline.runner import Codec, Outcome, Pipeline, RawFrame

__all__ = ["FILES", "FOLDER", "ODD", "RECEIVED_MS", "SHARDS", "distort", "lost", "one", "records_of", "run"]

FOLDER = SHARED_DATA
FILES = {
    "suricata": "suricata_eve.*.jsonl",
    "zeek": "zeek_json.*.jsonl",
    "aws_cloudtrail": "aws_cloudtrail.*.jsonl",
    "windows": "windows_events.*.jsonl",
    "aws_guardduty": "aws_guardduty.*.jsonl",
    "azure_activity": "azure_activity.*.jsonl",
    "gcp_audit": "gcp_http_lb.*.jsonl",
}
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 2**70, 0.5, "", "-", "1", "x", "{", "10.0.0.1", [], ["x"], [{}], {}, {"a": 1}]
)
"""Values that a source does not expect."""
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


def lost(record: Any, event: dict[str, Any]) -> list[str]:
    """The native values of a record that its event does not have anywhere."""
    there = set(_leaves(event))
    return [leaf for leaf in _leaves(record) if not _kept(leaf, there)]


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return (
        [] if value is None or value in ("", "-") else [str(value).lower() if isinstance(value, bool) else str(value)]
    )


def _kept(leaf: str, there: set[str]) -> bool:
    """Whether a native value is in the event, be it in the parts or the form that OCSF gives it."""
    if leaf in there or leaf.strip("<>") in there:
        return True
    if leaf.startswith("0x"):
        return str(int(leaf, 16)) in there
    if "=" in leaf:
        return all(part.partition("=")[2] in there for part in leaf.split(","))
    host, colon, port = leaf.rpartition(":")
    if colon and host.strip("[]") in there and port in there:
        return True
    domain, slash, name = leaf.rpartition("\\")
    return bool(slash) and domain in there and name in there


def distort(record: dict[str, Any], path: list[int], odd: Any) -> None:
    """Puts `odd` in the place of some value of `record`, at whatever depth `path` leads to."""
    here = record
    while here:
        key = list(here)[(path.pop() if path else 0) % len(here)]
        if not path or not isinstance(here[key], dict) or not here[key]:
            here[key] = odd
            return
        here = here[key]
