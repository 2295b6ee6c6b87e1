"""`emit`: one operational event becomes a log line, metric movements and a mark on the current span.

Invariant: emit is called once a batch, never once a record, and never raises for what an event carries.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, Literal

import msgspec
from opentelemetry import trace

from tidegate.telemetry import logs
from tidegate.telemetry.metrics import Move

__all__ = ["Event", "emit"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of operational events. A subclass says in one place all that becomes of it."""

    tag: ClassVar[str]
    """Its stable name in logs (`type`) and on spans."""
    text: ClassVar[str]
    level: ClassVar[logs.Level] = "info"
    metrics: ClassVar[tuple[Move, ...]] = ()
    on_span: ClassVar[Literal["attributes", "event"]] = "event"
    """`attributes`: the current span is about just this; `event`: something that happened during it."""


class _Plan:
    """What is worked out once per kind of event."""

    def __init__(self, kind: type[Event]) -> None:
        self.kind = kind
        self.level = logs.LEVELS[kind.level]
        self.fields = kind.__struct_fields__
        self.attributes = [(f"tidegate.{name}", name) for name in self.fields]
        self.labels = tuple(dict.fromkeys(label for move in kind.metrics for label in move.labels))
        self.label_values: Callable[[Event], Any] = attrgetter(*self.labels) if self.labels else lambda _: None
        self.series: dict[Any, list[tuple[Callable[[float], None], str, float]]] = {}

    def bind(self, event: Event) -> list[tuple[Callable[[float], None], str, float]]:
        bound = []
        for move in self.kind.metrics:
            change = move.bind(tuple(str(getattr(event, label)) for label in move.labels))
            field, constant = (move.amount, 0.0) if isinstance(move.amount, str) else ("", move.amount)
            bound.append((change, field, constant))
        return bound


_plans: dict[type[Event], _Plan] = {}


def emit(event: Event) -> None:
    """Move the metrics, mark the current span, and write the log line if its level is on."""
    kind = type(event)
    plan = _plans.get(kind)
    if plan is None:
        plan = _plans[kind] = _Plan(kind)

    key = plan.label_values(event)
    series = plan.series.get(key)
    if series is None:
        series = plan.series[key] = plan.bind(event)
    for change, field, constant in series:
        change(getattr(event, field) if field else constant)

    span = trace.get_current_span()
    if span.is_recording():
        attributes = {attribute: getattr(event, name) for attribute, name in plan.attributes}
        if kind.on_span == "attributes":
            span.set_attributes(attributes)
        else:
            span.add_event(kind.tag, attributes)

    if logs.enabled(plan.level):
        logs.write(plan.level, kind.text, {"type": kind.tag} | {name: getattr(event, name) for name in plan.fields})
