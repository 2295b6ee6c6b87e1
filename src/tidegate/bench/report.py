"""What a benchmark reports, and the arithmetic that all of them share.

Invariant: a figure is a median of at least three runs, and there is none for a run whose counts do not add up.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence

import msgspec

from tidegate.errors import BalanceError

__all__ = ["Report", "Skipped", "balanced", "made", "rounds"]

MOST_ROUNDS = 9


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one benchmark."""

    bench: str
    events: int
    """Events of one run."""
    events_per_second: int
    """The median of the runs."""
    limit: str
    """What it is up against."""
    limit_events_per_second: int
    """The median of as many runs of the limit, which take turns with the others."""
    ratio: float
    bar: int
    """What it should reach, in events per second."""
    met: bool
    p50_ms: float
    p99_ms: float
    latency: str
    """What p50 and p99 are of."""
    fsync: str
    """What an acknowledgement means."""
    runs: list[int]
    """Events per second of each run."""
    bytes_per_event: int
    seconds: float
    """All of the benchmark, servers and preparations included."""
    load: float
    """The machine's load average over the last minute, at the end."""
    place: str
    """Where the servers keep their data."""
    note: str = ""


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark that was not run."""

    bench: str
    skipped: str
    """Why, and what to do."""


def made(
    *,
    bench: str,
    events: int,
    runs: Sequence[float],
    limit: str,
    limit_runs: Sequence[float],
    bar: int,
    latencies: Sequence[float],
    latency: str,
    fsync: str,
    bytes_per_event: float,
    began: float,
    place: str,
    note: str = "",
    most_p99_ms: float | None = None,
) -> Report:
    """The report of runs (events per second) and latencies (seconds); `began` is a `time.monotonic()`."""
    rate, limit_rate = statistics.median(runs), statistics.median(limit_runs)
    p50_ms, p99_ms = _quantile(latencies, 0.5) * 1000, _quantile(latencies, 0.99) * 1000
    return Report(
        bench=bench,
        events=events,
        events_per_second=round(rate),
        limit=limit,
        limit_events_per_second=round(limit_rate),
        ratio=round(rate / limit_rate, 3),
        bar=bar,
        met=rate >= bar and (most_p99_ms is None or p99_ms < most_p99_ms),
        p50_ms=round(p50_ms, 3),
        p99_ms=round(p99_ms, 3),
        latency=latency,
        fsync=fsync,
        runs=[round(one) for one in runs],
        bytes_per_event=round(bytes_per_event),
        seconds=round(time.monotonic() - began, 1),
        load=round(os.getloadavg()[0], 1),
        place=place,
        note=note,
    )


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]


def rounds(seconds: float, at_least: int = 3) -> Iterator[int]:
    """Counts up: at least so often, then on while `seconds` since the beginning have not passed."""
    until = time.monotonic() + seconds
    number = 0
    while number < at_least or (number < MOST_ROUNDS and time.monotonic() < until):
        yield number
        number += 1


def balanced(what: str, found: object, expected: object) -> None:
    """Raises BalanceError unless the two are equal."""
    if found != expected:
        raise BalanceError(f"{what}: found {found}, expected {expected}; there is no figure for a run that loses count")
