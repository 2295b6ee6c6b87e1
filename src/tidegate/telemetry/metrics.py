"""The Prometheus side of telemetry: declarations of what an event moves, and the exposition of all metrics.

Invariant: every metric of the project lives in the one registry here and carries the prefix `tidegate_`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

__all__ = ["Move", "counter", "gauge", "histogram", "render_metrics"]

_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)

_Metric = Counter | Gauge | Histogram
_M = TypeVar("_M", Counter, Gauge, Histogram)
_metrics: dict[str, _Metric] = {}


class Move(Struct, frozen=True, kw_only=True):
    """One metric moved by one kind of event: by the event's field called `amount`, or by a constant."""

    metric: Counter | Gauge | Histogram
    labels: tuple[str, ...]
    """Fields of the event; each must take few values over a process's life."""
    amount: str | float

    def bind(self, values: tuple[str, ...]) -> Callable[[float], None]:
        """The function that moves the time series with these label values."""
        match self.metric.labels(*values) if values else self.metric:
            case Counter() as series:
                return series.inc
            case Gauge() as series:
                return series.set
            case Histogram() as series:
                return series.observe


def counter(name: str, text: str, *, amount: str | float = 1, labels: tuple[str, ...] = ()) -> Move:
    """Adds `amount` to `tidegate_<name>_total`."""
    return Move(metric=_once(f"{name}_total", Counter, text, labels), labels=labels, amount=amount)


def gauge(name: str, text: str, *, amount: str | float, labels: tuple[str, ...] = ()) -> Move:
    """Sets `tidegate_<name>` to `amount`."""
    return Move(metric=_once(name, Gauge, text, labels), labels=labels, amount=amount)


def histogram(name: str, text: str, *, amount: str = "seconds", labels: tuple[str, ...] = ()) -> Move:
    """Observes the duration `amount` in `tidegate_<name>_seconds`, with buckets from 1 ms to 10 s."""
    return Move(metric=_once(f"{name}_seconds", _durations, text, labels), labels=labels, amount=amount)


def render_metrics() -> tuple[bytes, str]:
    """The body of `/metrics` and its content type; CPU, memory and file descriptors of the process included."""
    return generate_latest(_registry), CONTENT_TYPE_LATEST


def _durations(name: str, text: str, labels: tuple[str, ...], *, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, labels, registry=registry, buckets=_BUCKETS_SECONDS)


def _once(name: str, make: Callable[..., _M], text: str, labels: tuple[str, ...]) -> _Metric:
    """Two events may move the same metric."""
    full = f"tidegate_{name}"
    if full not in _metrics:
        _metrics[full] = make(full, text, labels, registry=_registry)
    return _metrics[full]
