"""Where the records of a frame were before they were published: a place of another system, and their numbers there.

Invariant: the number of a record in its frame leads to the number it had there; nothing else is known of that place.

A frame says it in two headers: `Tidegate-Origin: kafka/<topic>/<partition>` and `Tidegate-Offsets: 7-9 12 15*2`, which
reads: its records are those of the offsets 7, 8, 9 and 12, and two more of offset 15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tidegate.event import DeadLetter

__all__ = ["OFFSETS", "ORIGIN", "REFUSED", "offset_at", "spans", "traced"]

ORIGIN = "Tidegate-Origin"
OFFSETS = "Tidegate-Offsets"
REFUSED = "Tidegate-Refused"
"""`<rule>: <problem>`: whoever brought the frame here could not read it; it becomes a dead letter as it is."""

_SPAN = re.compile(r"(?P<first>\d{1,19})(?:-(?P<last>\d{1,19})|\*(?P<times>\d{1,9}))?", re.ASCII)


def spans(offsets: Sequence[int]) -> str:
    """The offsets of a frame's records, ascending, in short."""
    if offsets and offsets[-1] - offsets[0] == len(offsets) - 1 and len(set(offsets)) == len(offsets):
        return f"{offsets[0]}-{offsets[-1]}"
    parts: list[tuple[int, int, int]] = []
    for offset in offsets:
        first, last, times = parts[-1] if parts else (-2, -2, 0)
        if offset == last and first == last:
            parts[-1] = (first, last, times + 1)
        elif offset == last + 1 and times == 1:
            parts[-1] = (first, offset, 1)
        else:
            parts.append((offset, offset, 1))
    return " ".join(_span(*part) for part in parts)


def _span(first: int, last: int, times: int) -> str:
    if times > 1:
        return f"{first}*{times}"
    return str(first) if first == last else f"{first}-{last}"


def offset_at(text: str, index: int) -> int | None:
    """The offset of the record at `index` of a frame whose header says `text`; None where it does not tell."""
    for part in text.split():
        found = _SPAN.fullmatch(part)
        if found is None:
            return None
        first = int(found["first"])
        last, times = int(found["last"] or first), int(found["times"] or 1)
        size = (last - first + 1) * times
        if index < size:
            return first + (0 if times > 1 else index)
        index -= size
    return None


def traced(letter: DeadLetter, headers: Mapping[str, str]) -> DeadLetter:
    """The letter with the place that its record came from, which its frame's headers name."""
    place, number = headers[ORIGIN][:_MOST], letter.origin.rpartition("#")[2]
    offset = offset_at(headers.get(OFFSETS, ""), int(number) if number.isdigit() else 0)
    return replace(letter, came_from=place if offset is None else f"{place}/{offset}")


_MOST = 500
"""Characters: a topic's name has up to 249."""
