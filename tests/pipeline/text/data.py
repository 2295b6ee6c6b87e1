"""Runs lines through the pipeline, and what each of the sample lines becomes, field by field (`expected/*.jsonl`).

`python -m tests.pipeline.text.data` writes the expectations anew; read the difference before you commit it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.pipeline.data import RECEIVED_MS, SHARDS
from tests.pipeline.text.samples import SAMPLES
from tidegate.event import DeadLetter
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Codec, Outcome, Pipeline, RawFrame

__all__ = ["EXPECTED", "Result", "essence", "lines_of", "run_lines"]

EXPECTED = Path(__file__).parent / "expected"


class Result(msgspec.Struct):
    """What became of one frame: events in the order of their records."""

    events: list[dict[str, Any]]
    dead: list[DeadLetter]
    filtered: dict[str, int]


def lines_of(source: str) -> list[bytes]:
    return [line.encode() for line in SAMPLES[source]]


def run_lines(
    pipeline: Pipeline, source: str, records: list[bytes], codec: Codec = "text", received_ms: int = RECEIVED_MS
) -> Result:
    """Runs one frame; every record must be accounted for."""
    outcome = Outcome(SHARDS)
    frame = RawFrame(source=source, codec=codec, records=records, received_ms=received_ms, origin="INGEST/7")
    pipeline.run(frame, outcome)
    events = [msgspec.json.decode(line) for shard in outcome.lines for line in shard]
    dead = sorted(
        (letter for shard in outcome.dead for letter in shard), key=lambda letter: int(letter.origin.partition("#")[2])
    )
    assert len(events) + len(dead) + sum(outcome.filtered.values()) == outcome.records == len(records)
    return Result(sorted(events, key=lambda event: event["metadata"]["uid"]), dead, outcome.filtered)


def essence(event: dict[str, Any]) -> dict[str, Any]:
    """The event without what does not depend on the line, or is said elsewhere in it."""
    metadata = dict(event["metadata"])
    if metadata["correlation_uid"] == metadata.pop("uid"):
        metadata["correlation_uid"] = "its own id"
    del metadata["version"], metadata["log_source"]
    rest = {key: value for key, value in event.items() if key not in ("category_uid", "type_uid", "observables")}
    return {**rest, "metadata": metadata}


def _write() -> None:
    pipeline = load_pipeline(SHARDS)
    EXPECTED.mkdir(exist_ok=True)
    for source in SAMPLES:
        events = run_lines(pipeline, source, lines_of(source)).events
        text = b"\n".join(msgspec.json.encode(essence(event), order="sorted") for event in events)
        (EXPECTED / f"{source}.jsonl").write_bytes(text + b"\n")


if __name__ == "__main__":
    _write()
