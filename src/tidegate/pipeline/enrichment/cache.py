"""A bounded memory of lookups, with its hit rate.

Invariant: what is remembered for a text is what `make` gave for it; a full cache forgets everything and starts anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Cached"]

T = TypeVar("T")

_LONGEST_KEPT = 256


class Cached(dict[str, T], Generic[T]):
    """`cached[text]` is `make(text)`, made once. A hit costs no Python call: count `lookups` where they are made."""

    __slots__ = ("_make", "_most", "lookups", "misses")

    def __init__(self, make: Callable[[str], T], most: int) -> None:
        super().__init__()
        self._make = make
        self._most = most
        self.lookups = 0
        self.misses = 0

    def __missing__(self, text: str) -> T:
        self.misses += 1
        made = self._make(text)
        if len(text) <= _LONGEST_KEPT:
            if len(self) >= self._most:
                self.clear()
            self[text] = made
        return made
