"""Spans and the trace context that travels in headers as a W3C `traceparent`.

Invariant: without `setup` (or with nothing to record to) no span is recorded, but a given parent is still passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Literal

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

__all__ = ["AttributeValue", "Kind", "Span", "inject", "span", "use"]

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[int]
Kind = Literal["internal", "producer", "consumer", "server", "client"]

_KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}
_MAX_LINKS = 128
# W3C Trace Context: version ff is invalid, all-zero ids are invalid, only versions after 00 may append more parts.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_tracer: trace.Tracer = trace.NoOpTracer()


def use(tracer: trace.Tracer) -> None:
    """Spans started from now on are made by `tracer`."""
    global _tracer
    _tracer = tracer


class Span:
    """A step at work; current while its `with` block runs, ended when it is left."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What to put in the header `traceparent`; empty when there is no trace."""
        return _format(self._span.get_span_context())

    def set(self, **attributes: AttributeValue) -> None:
        """Add attributes, or replace their values."""
        self._span.set_attributes(attributes)

    def __enter__(self) -> Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        context.detach(self._token)
        # A cancelled task is no error.
        if isinstance(error, Exception) and self._span.is_recording():
            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        self._span.end()


def span(
    name: str,
    *,
    parent: str | None = None,
    links: Sequence[str] = (),
    kind: Kind = "internal",
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Span:
    """Start a span; use it as `with span(...) as step:`.

    `parent` and `links` are traceparents; invalid ones are ignored, and so are links beyond the first 128. Without a
    valid parent the span is a child of the current one. An exception that leaves the block marks the span as failed.
    """
    above = None
    if parent and (remote := _parse(parent)) is not None:
        above = trace.set_span_in_context(NonRecordingSpan(remote))
    linked = None
    if links:
        others = (_parse(link) for link in dict.fromkeys(links) if link != parent)
        linked = list(islice((trace.Link(other) for other in others if other is not None), _MAX_LINKS))
    return Span(_tracer.start_span(name, above, _KINDS[kind], attributes, linked))


def inject() -> str:
    """The current span's traceparent, or an empty string."""
    return _format(trace.get_current_span().get_span_context())


def _format(here: SpanContext) -> str:
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}" if here.is_valid else ""


def _parse(traceparent: str) -> SpanContext | None:
    if (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "00" and more:
        return None
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
