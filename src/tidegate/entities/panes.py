"""Panes: what is known of a session, a tumbling window, or one slide of sliding windows, and how events are added.

Invariant: a pane's parts are merged the same way whether its events come together or one by one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tidegate.entities import sketches
from tidegate.entities.sketches import Part
from tidegate.entities.window_definition import Aggregate, WindowDefinition

__all__ = ["Pane", "Plan", "merged", "next_end", "sessions", "slides", "window_at", "with_more"]

_PLAIN = frozenset((str, int, bool))


class Pane(Struct, frozen=True, gc=False):
    """What is known of a session, of a tumbling window, or of one slide of sliding windows."""

    start_ms: int
    last_ms: int
    """Time of the last event in it."""
    until_ms: int
    """The end of the last window that it belongs to."""
    count: int
    parts: dict[str, Part] = {}
    """By the aggregate's label."""


class _Cluster:
    """Sessions and new events that belong together."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = self.last_ms = start_ms
        self.rows: list[list[Any]] = []

    def end_ms(self, definition: WindowDefinition) -> int:
        return min(self.last_ms + definition.gap_ms, self.start_ms + definition.max_ms)


class Plan:
    """What a definition computes, made ready."""

    def __init__(self, definition: WindowDefinition) -> None:
        columns = {path: at for at, path in enumerate(definition.fields)}
        self.width = 1 + len(columns)
        self._columns = range(1, self.width)
        self._parts = [
            (one.label, columns[one.field] if one.field else -1, _maker(one), one.function == "distinct")
            for one in definition.aggregates
        ]

    def pane(self, start_ms: int, last_ms: int, until_ms: int, rows: list[list[Any]], open_panes: list[Pane]) -> Pane:
        """What `rows` add to the pane; hashes that are known there already are left out."""
        columns = [_column(rows, at) for at in self._columns]
        parts: dict[str, Part] = {}
        for label, at, make, is_distinct in self._parts:
            part = make(rows if at < 0 else columns[at])
            if is_distinct:
                for pane in open_panes:
                    if start_ms <= pane.start_ms <= last_ms:
                        part = _news(part, pane.parts.get(label))
            parts[label] = part
        return Pane(start_ms, last_ms, until_ms, len(rows), parts)


def slides(
    definition: WindowDefinition, plan: Plan, open_panes: list[Pane], rows: list[list[Any]], closed_ms: int
) -> tuple[list[Pane], list[int], list[int]]:
    """What to add to which panes; times of events that were late for all, and for some, of their windows."""
    step, size = definition.step_ms, definition.size_ms
    by_start: dict[int, list[list[Any]]] = {}
    late, partly = [], []
    for row in rows:
        time = row[0]
        start = time - time % step
        if start + size <= closed_ms:
            late.append(time)
            continue
        if start + step <= closed_ms:
            partly.append(time)
        by_start.setdefault(start, []).append(row)
    panes = [
        plan.pane(start, max(row[0] for row in found), start + size, found, open_panes)
        for start, found in sorted(by_start.items())
    ]
    return panes, late, partly


def sessions(
    definition: WindowDefinition, plan: Plan, open_panes: list[Pane], rows: list[list[Any]], closed_ms: int
) -> tuple[list[Pane], list[int]]:
    """The sessions that the events are in, with what to add; and the times of late events.

    Sessions and events are first joined, in order of time; what then has an end that is past, is late. So an event that
    comes late by itself is still counted where it joins a session that is open.
    """
    items: list[tuple[int, int, int, list[Any] | None]] = [(one.start_ms, 0, one.last_ms, None) for one in open_panes]
    items += [(row[0], 1, row[0], row) for row in rows]
    items.sort(key=lambda item: item[:2])
    clusters: list[_Cluster] = []
    for start_ms, _, last_ms, row in items:
        here = clusters[-1] if clusters else None
        if here is None or start_ms >= here.end_ms(definition) or last_ms - here.start_ms >= definition.max_ms:
            here = _Cluster(start_ms)
            clusters.append(here)
        here.last_ms = max(here.last_ms, last_ms)
        if row is not None:
            here.rows.append(row)
    panes, late = [], []
    for one in clusters:
        end = one.end_ms(definition)
        if end <= closed_ms:
            late += [row[0] for row in one.rows]
        elif one.rows:
            panes.append(plan.pane(one.start_ms, one.last_ms, end, one.rows, open_panes))
    return panes, late


def _news(part: Part, known: Part | None) -> Part:
    if isinstance(part, sketches.Distinct) and isinstance(known, sketches.Distinct):
        return part.beyond(known)
    return part


def _column(rows: list[list[Any]], at: int) -> list[Any]:
    """The values there, without what is missing, or is not a single value that JSON has."""
    values = [row[at] for row in rows]
    if _PLAIN.issuperset(map(type, values)):
        return values
    return [one for one in values if type(one) in _PLAIN or (type(one) is float and math.isfinite(one))]


def _maker(aggregate: Aggregate) -> Callable[[Sequence[Any]], Part]:
    match aggregate.function:
        case "count":
            return sketches.Count.of
        case "sum":
            return sketches.Sum.of
        case "min":
            return sketches.Min.of
        case "max":
            return sketches.Max.of
        case "average":
            return sketches.Mean.of
        case "distinct":
            return sketches.Distinct.of
        case "top":
            return functools.partial(sketches.Top.of, k=aggregate.k)


def with_more(panes: list[Pane], more: Pane) -> list[Pane]:
    """`panes` with `more` added to those that begin within it."""
    parts, count, last_ms = more.parts, more.count, more.last_ms
    rest = []
    for one in panes:
        if more.start_ms <= one.start_ms <= more.last_ms:
            parts = merged(one.parts, parts)
            count, last_ms = count + one.count, max(last_ms, one.last_ms)
        else:
            rest.append(one)
    rest.append(Pane(more.start_ms, last_ms, more.until_ms, count, parts))
    rest.sort(key=lambda one: one.start_ms)
    return rest


def merged(first: dict[str, Part], second: dict[str, Part]) -> dict[str, Part]:
    if not first:
        return second
    return first | {
        label: sketches.merged(first[label], part) if label in first else part for label, part in second.items()
    }


def next_end(definition: WindowDefinition, panes: list[Pane], closed_ms: int) -> int:
    """The end of the first window, of those that have not closed, that one of `panes` (at least one) belongs to."""
    if definition.kind != "sliding":
        return min([one.until_ms for one in panes])
    step = definition.slide_ms
    first = closed_ms - closed_ms % step + step
    return min(min(max(one.start_ms + step, first), one.until_ms) for one in panes)


def window_at(definition: WindowDefinition, panes: list[Pane], end_ms: int) -> tuple[int, list[Pane]]:
    """Start and panes of the window that ends at `end_ms`."""
    if definition.kind == "session":
        within = [one for one in panes if one.until_ms == end_ms]
        return min(one.start_ms for one in within), within
    start = end_ms - definition.size_ms
    return start, [one for one in panes if start <= one.start_ms < end_ms]
