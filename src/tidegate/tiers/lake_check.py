"""What is in the lake of each frame of the log, and taking frames out again.

Invariant: counts and digests come from the column `event`, the truth of a row, so that no damaged row looks whole.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import pyarrow.dataset as ds
from pyiceberg.table import Table

from tidegate.projection import Record, Tally

__all__ = ["frames", "records", "take_out"]


def frames(events: ds.Dataset, first: int, last: int) -> dict[int, Tally]:
    """Frames with first <= sequence <= last."""
    counts: Counter[int] = Counter()
    digests: Counter[int] = Counter()
    within = (ds.field("log_sequence") >= first) & (ds.field("log_sequence") <= last)
    for batch in events.to_batches(columns=["log_sequence", "event"], filter=within):
        for sequence, event in zip(batch["log_sequence"].to_pylist(), batch["event"], strict=True):
            counts[sequence] += 1
            digests[sequence] += zlib.crc32(event.as_buffer())
    return {sequence: Tally(count=count, digest=digests[sequence]) for sequence, count in counts.items()}


def records(events: ds.Dataset, sequence: int) -> list[Record]:
    """All rows of one frame."""
    columns = ["log_index", "event_id", "event"]
    found = [
        Record(index=index, crc=zlib.crc32(event.encode()), event_id=event_id)
        for batch in events.to_batches(columns=columns, filter=ds.field("log_sequence") == sequence)
        for index, event_id, event in zip(*(batch[column].to_pylist() for column in columns), strict=True)
    ]
    return sorted(found, key=lambda one: one.index)


def take_out(table: Table, sequences: Sequence[int]) -> None:
    """Delete all rows of these frames."""
    table.delete(f"log_sequence in ({', '.join(map(str, sequences))})")
