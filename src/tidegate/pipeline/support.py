"""What generated rule functions call on their rare paths.

Invariant: a value that finds no place as an attribute is put where it becomes part of `unmapped`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.errors import RecordError
from tidegate.pipeline.functions import to_text

__all__ = [
    "Encoded",
    "RecordError",
    "Shared",
    "encoded",
    "join",
    "key_text",
    "open_up",
    "put_back",
    "settle_time",
    "spill",
]


def key_text(value: Any, rule: str) -> str:
    """The text of a value that identifies or correlates; raises RecordError for an object or a list."""
    if value.__class__ is str:
        return str(value)
    text = to_text(value)
    if text is None:
        raise RecordError("normalise", rule, f"{value.__class__.__name__} cannot be a key: text or a number is needed")
    return text


def open_up(record: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Puts the object in the place of a list of one, or of its JSON text, at `keys`; anything else stays."""
    here = record
    for key in keys:
        value = here.get(key)
        if value.__class__ is list and len(value) == 1:
            value = value[0]
        if value.__class__ is str and value[:1] == "{":
            with suppress(msgspec.DecodeError, UnicodeError):
                value = msgspec.json.decode(value)
        if value.__class__ is not dict:
            return
        here[key] = here = value


def settle_time(
    raw: Any, time: int | None, received_ms: int, when: int | None, rule: str, strict: bool, received: bool
) -> int:
    """The time of an event: the envelope's, else its own, else the time of reception where the rules allow that.

    `strict`: a native value that is no time is an error. `received`: without any native value reception counts.
    """
    if when is not None:
        return when
    if time is not None:
        return time
    if raw is None:
        if received:
            return received_ms
        raise RecordError("normalise", rule, "the record has no time")
    if not strict:
        return received_ms
    raise RecordError("normalise", rule, f"{str(raw)[:100]!r} is not a time")


class Shared(dict[str, Any]):
    """Small objects that differ by one text only, by that text, for stages that look at them."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, value: str) -> Any:
        made = self._make(value)
        if len(value) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[value] = made
        return made


class Encoded(Shared):
    """The same, encoded.

    Addresses, users, hosts and the like come again and again: to find an object here and to copy it into the line takes
    a third of the time that it takes to build and encode it.
    """

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__(lambda value: encoded(make(value)))


_LONGEST_KEPT = 256
_MOST_KEPT = 16_384


def encoded(value: Any) -> msgspec.Raw:
    """`value` as the JSON that an encoder copies as it is."""
    return msgspec.Raw(msgspec.json.encode(value))


def put_back(convert: Callable[[Any], Any], place: dict[str, Any], key: str, value: Any) -> Any:
    """The converted value; one that cannot be converted goes back to where it was taken from."""
    converted = convert(value)
    if converted is None:
        place[key] = value
    return converted


def spill(record: dict[str, Any], values: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Keeps the attributes of an object that OCSF would refuse, under their paths; returns `record`."""
    for path, value in values:
        if value is not None:
            while path in record:
                path += "'"
            record[path] = value
    return record


def join(left: Struct | None, spilt: dict[str, Any], inner: tuple[str, ...]) -> dict[str, Any]:
    """What is left of a record, with what was spilt before that of the objects `inner`."""
    found: dict[str, Any] = msgspec.to_builtins(left) or {}
    last = {key: found.pop(key) for key in inner if key in found}
    return spill(found, tuple(spilt.items())) | last
