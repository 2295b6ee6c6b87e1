"""Positions to wait for: until what somebody has published can be seen in a read model.

A position is `INGEST/<partition>/<sequence>`, as a publisher's receipt prints it, or `LOG/<sequence>`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from tidegate.errors import PositionTimeoutError, QueryError
from tidegate.history import cells_of
from tidegate.log import Log
from tidegate.projection import Position, ReadModel

__all__ = ["Wanted", "cells_at", "parse_after", "reached", "target", "wanted"]

INTAKE = "intake"
_AFTER = re.compile(r"INGEST/(?P<partition>\d{1,4})/(?P<frame>\d{1,19})|LOG/(?P<sequence>\d{1,19})", re.ASCII)

Model = TypeVar("Model", bound=ReadModel)


def parse_after(text: str) -> tuple[int | None, int]:
    """(partition, sequence) of `INGEST/<partition>/<sequence>`, (None, sequence) of `LOG/<sequence>`."""
    match = _AFTER.fullmatch(text.strip())
    if match is None:
        raise QueryError(f"{text!r} is no position; use INGEST/<partition>/<sequence> or LOG/<sequence>")
    if match["sequence"] is not None:
        return None, int(match["sequence"])
    return int(match["partition"]), int(match["frame"])


class Wanted(msgspec.Struct, frozen=True):
    """What a read model must have taken in."""

    created: str
    """Creation time of the log."""
    sequences: dict[int, int]
    """By shard."""
    deadline: float
    """By `time.monotonic`."""


async def wanted(log: Log, after: str, wait_seconds: float) -> Wanted:
    """What must be in a read model for it to show `after`; waits until that is in the log.

    Raises QueryError for what is no position, PositionTimeoutError when it takes longer than `wait_seconds`.
    """
    partition, sequence = parse_after(after)
    deadline = time.monotonic() + wait_seconds
    if partition is not None:
        sequence = await _in_log(log, partition, sequence, deadline)
    created = ""

    async def missing() -> str:
        nonlocal created
        state = await log.state()
        created = state.created
        return "" if state.last_sequence >= sequence else f"the log ends at {state.last_sequence}"

    await _until(missing, deadline, f"LOG/{sequence}")
    newest = await log.last_event_sequences()
    # What is in the log up to `sequence` is in a cell that has come so far, or has the newest frame of its shard.
    return Wanted(created, {shard: min(sequence, last) for shard, last in newest.items()}, deadline)


async def _in_log(log: Log, partition: int, sequence: int, deadline: float) -> int:
    """Waits until the intake has come to `sequence`; returns a position of the log behind all that came of it."""
    committed = 0

    async def missing() -> str:
        nonlocal committed
        committed, progress = await log.progress(INTAKE, partition)
        at = progress.sequence if progress else 0
        return "" if at >= sequence else f"the intake of partition {partition} is at {at}"

    await _until(missing, deadline, f"INGEST/{partition}/{sequence}")
    return committed


async def reached(opened: Callable[[], Awaitable[Model]], shards: int, wanted: Wanted) -> Model:
    """What `opened` returns, the read model that serves now, once it has taken in what is wanted.

    Raises PositionTimeoutError at the deadline.
    """
    model = await opened()

    async def missing() -> str:
        nonlocal model
        model = await opened()  # another generation may serve since
        behind = []
        for cell, position in (await cells_at(model, shards)).items():
            at = position.sequence if position is not None and position.created == wanted.created else 0
            if at < target(cell, wanted.sequences):
                behind.append(f"cell {cell} is at {at} of {target(cell, wanted.sequences)}")
        return ", ".join(behind)

    await _until(missing, wanted.deadline, model.name)
    return model


async def cells_at(model: ReadModel, shards: int) -> dict[str, Position | None]:
    """Where each of its cells stands."""
    return {cell: await model.position(cell) for cell in cells_of(model, shards)}


def target(cell: str, sequences: Mapping[int, int]) -> int:
    """Up to where a cell has to come for these sequences of the shards."""
    return max(sequences.values(), default=0) if cell == "all" else sequences[int(cell)]


async def _until(missing: Callable[[], Awaitable[str]], deadline: float, what: str) -> None:
    """Asks until nothing is missing. Raises PositionTimeoutError with what is, at the deadline."""
    pause = 0.01
    while answer := await missing():
        if time.monotonic() + pause > deadline:
            raise PositionTimeoutError(f"still waiting for {what}: {answer}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.2)
