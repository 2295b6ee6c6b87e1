"""Points in time as people and programs write them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from tidegate.errors import QueryError

__all__ = ["parse_time"]

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RELATIVE = re.compile(r"(\d{1,9})([a-z]+)", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?P<zone>[Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def parse_time(text: str, now_ms: int | None = None) -> int:
    """RFC 3339, milliseconds since 1970, or how long ago (`90s`, `15m`, `2h`, `7d`), as milliseconds since 1970.

    Raises QueryError that says what is wrong with `text`.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        # Today's time in seconds has ten digits.
        if len(text) < 12:
            raise QueryError(f"{text!r} is before 1973 in milliseconds since 1970; were seconds meant? Append 000")
        if len(text) > 15:
            raise QueryError(f"{text!r} is too large for milliseconds since 1970")
        return int(text)
    if match := _RELATIVE.fullmatch(text):
        unit = _UNITS_MS.get(match[2])
        if unit is None:
            raise QueryError(f"{text!r}: {match[2]!r} is no unit; use {', '.join(_UNITS_MS)}")
        return (time.time_ns() // 1_000_000 if now_ms is None else now_ms) - int(match[1]) * unit
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise QueryError(
            f"{text!r} is no time; use RFC 3339 (2026-01-31T12:00:00Z), milliseconds since 1970, or 15m, 2h, 7d"
        )
    if match["zone"] is None:
        raise QueryError(f"{text!r} has no time zone; append Z for UTC")
    try:
        parsed = datetime.fromisoformat(text.upper())
        return round(parsed.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"{text!r} is no time: {error}") from error
