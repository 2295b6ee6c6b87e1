"""Times as callers say them, and which events are counted where they say nothing: the same on every edge."""

from __future__ import annotations

import time

from tidegate.query import parse_time

__all__ = ["When", "counted", "in_ms"]

When = str | int | None
"""Milliseconds since 1970, or a text as `parse_time` takes it; None or "": not said."""
_DEFAULT_MS = 3_600_000


def in_ms(when: When) -> int | None:
    """Milliseconds since 1970. Raises QueryError for a text that is no time."""
    if not isinstance(when, str):
        return when
    return parse_time(when) if when else None


def counted(since: When, until: When) -> tuple[int, int]:
    """From when, and until when, in milliseconds since 1970: by default until now, and of the hour before the end.

    Raises QueryError for a text that is no time.
    """
    since_ms, until_ms = in_ms(since), in_ms(until)
    if until_ms is None:
        until_ms = time.time_ns() // 1_000_000
    return until_ms - _DEFAULT_MS if since_ms is None else since_ms, until_ms
