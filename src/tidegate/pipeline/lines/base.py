"""What the line parsers share: what a format is, and how a parsed line refuses or keeps what it was given.

Invariant: a parser raises nothing but RecordError, and its time is linear in the length of the line. Quantifiers over
text that somebody else wrote are possessive (`*+`), or every match begins where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tidegate.errors import RecordError

__all__ = ["Assembled", "Format", "Gathered", "claim", "refuse"]


class Assembled(Struct, frozen=True):
    """One event of a format whose events take several records of a frame."""

    build: Callable[[], dict[str, Any]]
    """The native record; may be called again. Raises RecordError."""
    others: Sequence[int]
    """The other records of the frame that are needed to make it again."""


Gathered = Assembled | str | None
"""What a line of a frame is: an event, why it is none by itself (`header`, `joined`), or None where there was none."""


class Format(Struct, frozen=True, kw_only=True):
    """How the lines of a source are read: one by one, or all those of a frame together."""

    parse: Callable[[str, int], dict[str, Any]] | None = None
    """(line, time of reception in ms) -> native record; raises RecordError."""
    gather: Callable[[Sequence[str | None], int], list[Gathered]] | None = None
    """(lines of a frame, time of reception in ms) -> what each is; never raises."""


def refuse(rule: str, problem: str) -> RecordError:
    """The error of a line that is not in the format."""
    return RecordError("parse", rule, problem)


def claim(record: dict[str, Any], key: str, value: Any) -> None:
    """Sets `key`, which is ours; what the line itself had under that name is kept beside it."""
    if key in record:
        record[key + "'"] = record[key]
    record[key] = value
