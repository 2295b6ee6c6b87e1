"""What a window computes, over which events, in which times.

Time is in milliseconds since 1970, and windows are half open: their end is the first moment outside. A tumbling window
begins at a multiple of its size; sliding ones begin at each multiple of the slide; a session goes on until there was no
event for `gap_ms`. A window closes when event time reaches its end plus `lateness_ms`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate.entities.fields import check_path
from tidegate.errors import ConfigError

__all__ = ["Aggregate", "Scalar", "WindowDefinition"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_SLIDES = 1440
_MAX_KEY_FIELDS = 8
Scalar = str | int | float | bool
Milliseconds = Annotated[int, Meta(ge=0, le=400 * 86_400_000)]
Function = Literal["count", "sum", "min", "max", "average", "distinct", "top"]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Aggregate(_Table, frozen=True):
    """One figure of a window, computed over the field's values; events without the field add nothing to it."""

    function: Function
    """`sum`, `min`, `max` and `average` take numbers only; `distinct` and `top` are exact for few values only."""
    field: str = ""
    """Path of the field, such as `dst_endpoint.port`; for `count` it may be left out: then it counts events."""
    k: Annotated[int, Meta(ge=1, le=100)] = 10
    """How many values `top` names."""
    name: str = ""
    """In results; by default the function, with the field where there is one: `distinct dst_endpoint.port`."""

    @property
    def label(self) -> str:
        return self.name or f"{self.function} {self.field}".rstrip()


class WindowDefinition(_Table, frozen=True):
    """What to compute, over which events, in which windows. To be given a new name when its times are changed."""

    name: str
    kind: Literal["tumbling", "sliding", "session"]
    size_ms: Milliseconds = 0
    """Of tumbling and sliding windows."""
    slide_ms: Milliseconds = 0
    """From the beginning of one sliding window to that of the next; the size is a multiple of it."""
    gap_ms: Milliseconds = 0
    """Ends a session: an event this long after the last one, or longer, belongs to the next."""
    max_ms: Milliseconds = 86_400_000
    """The longest session: one that has gone on for so long ends, and the next event begins another."""
    group_by: list[str] = []
    """Paths whose values make the key; an event without one of them is in no window. Empty: one window for all."""
    where: dict[str, Scalar | list[Scalar]] = {}
    """Path -> the value, or the values of which any one, that an event must have to be counted."""
    aggregates: Annotated[list[Aggregate], Meta(max_length=32)] = []
    lateness_ms: Milliseconds = 0
    """How long after its end, in event time, a window still takes events in."""

    def check(self) -> None:
        """Raises ConfigError for what cannot be computed."""
        where = f'window "{self.name}"'
        if not _NAME.fullmatch(self.name):
            raise ConfigError(where, "a name has 1 to 64 letters, digits, _ and -")
        self._check_times(where)
        if len(self.group_by) > _MAX_KEY_FIELDS:
            raise ConfigError(where, f"group_by takes {_MAX_KEY_FIELDS} fields at most")
        for path in (*self.group_by, *self.where):
            check_path(where, path)
            if self.where.get(path) == []:
                raise ConfigError(where, f'where: no value of "{path}" is allowed, so that no event would be counted')
        labels = set()
        for one in self.aggregates:
            if one.field:
                check_path(where, one.field)
            elif one.function != "count":
                raise ConfigError(where, f"the aggregate {one.function} needs a field")
            if one.label in labels:
                raise ConfigError(where, f'two aggregates are named "{one.label}"; give one a name of its own')
            labels.add(one.label)

    def _check_times(self, where: str) -> None:
        used = {"tumbling": ("size_ms",), "sliding": ("size_ms", "slide_ms"), "session": ("gap_ms", "max_ms")}
        for name in used[self.kind]:
            if not getattr(self, name):
                raise ConfigError(where, f"a {self.kind} window needs {name}, more than 0")
        for name in {"size_ms", "slide_ms", "gap_ms"}.difference(used[self.kind]):
            if getattr(self, name):
                raise ConfigError(where, f"a {self.kind} window has no {name}; it has {' and '.join(used[self.kind])}")
        if self.kind == "sliding" and (self.size_ms % self.slide_ms or self.size_ms // self.slide_ms > _MAX_SLIDES):
            raise ConfigError(where, f"size_ms must be a multiple of slide_ms, {_MAX_SLIDES} times it at most")
        if self.kind == "session" and self.max_ms < self.gap_ms:
            raise ConfigError(where, "max_ms must not be less than gap_ms")

    @property
    def step_ms(self) -> int:
        """The length of a pane: what is counted together, unless the windows are sessions."""
        return self.slide_ms if self.kind == "sliding" else self.size_ms

    @property
    def fields(self) -> list[str]:
        """The paths over which aggregates are computed, each once."""
        return list(dict.fromkeys(one.field for one in self.aggregates if one.field))
