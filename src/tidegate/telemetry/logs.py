"""Log lines on stderr: one JSON object a line, or coloured text where a person watches.

Invariant: every line carries the trace and span it was written in, and its text cannot steer a terminal.
Before `configure`, lines go to the standard library's logger `tidegate`: a program that only uses the publisher
keeps its own logging.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["LEVELS", "Format", "Level", "configure", "enabled", "write"]

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_QUIET_SECONDS = 60.0
"""OpenTelemetry repeats the same complaint with every batch while a collector is away."""

_threshold = logging.INFO
_logger: Any = None


def enabled(level: int) -> bool:
    return level >= _threshold


def write(level: int, text: str, fields: dict[str, Any]) -> None:
    """Write one line; `fields` must not have the keys `event` and `level`."""
    if _logger is not None:
        _logger.log(level, text, **fields)
    elif (library := logging.getLogger("tidegate")).isEnabledFor(level):
        library.log(level, "%s %s", text, " ".join(f"{key}={value!r}" for key, value in fields.items()))


def configure(process: str, level: Level, form: Format) -> Callable[[], None]:
    """Send our lines, and warnings of libraries, to stderr as `form`; returns the function that undoes it."""
    global _logger, _threshold
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_context(process),
    ]
    last: list[Processor] = (
        [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *common, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )

    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Seldom())
    handler.setLevel(logging.WARNING)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.addHandler(handler)
    _logger = structlog.get_logger().bind()
    _threshold = LEVELS[level]

    def undo() -> None:
        global _logger, _threshold
        root.removeHandler(handler)
        structlog.reset_defaults()
        _logger, _threshold = None, logging.INFO

    return undo


def _add_context(process: str) -> Processor:
    def add(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
        fields["process"] = process
        here = trace.get_current_span().get_span_context()
        if here.is_valid:
            fields["trace_id"] = trace.format_trace_id(here.trace_id)
            fields["span_id"] = trace.format_span_id(here.span_id)
        return fields

    return add


def _printable(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Errors quote bytes that strangers sent."""
    for key, value in fields.items():
        if isinstance(value, str) and not value.isprintable():
            fields[key] = value.encode("unicode_escape").decode("ascii")
    return fields


class _Seldom(logging.Filter):
    """Lets each complaint of OpenTelemetry through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now < self._next.get(place, 0.0):
            return False
        self._next[place] = now + _QUIET_SECONDS
        return True
