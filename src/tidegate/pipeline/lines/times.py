"""Times as devices write them, where a format leaves that to the device."""

from __future__ import annotations

import re

from tidegate.pipeline.functions import to_ms
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["first_time"]

# `Mar 21 2014 10:15:23.456 UTC`; other names of zones are ambiguous and left out.
_ZONE = re.compile(r" (?:UTC|GMT|Z|[A-Z]{3,4})$")


def first_time(values: list[object], received_ms: int) -> str | None:
    """The first of `values` that is a time, in a form that the rules can read; None where none is."""
    for value in values:
        if value.__class__ is not str or not value:
            continue
        text = str(value)[:64].strip()
        if to_ms(text) is not None:
            return text
        header, rest = split_header(_ZONE.sub("", text), received_ms)
        if header.keys() == {"time"} and not rest:
            return str(header["time"])
    return None
