"""Finds what people and secrets leave in free text, and puts labels, or what a method makes of it, in its place.

Invariant: nothing that a detector finds remains in the text, also where two of them overlap; and the time that a text
takes grows with its length only.

One pass with all patterns at once tells which of them can match at all: of most texts none, so it is the only one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import re2

from tidegate.pipeline.anonymise.detectors import DETECTORS, Pattern
from tidegate.pipeline.anonymise.methods import Function
from tidegate.pipeline.anonymise.settings import Detector

__all__ = ["BY_DEFAULT", "Redactor"]

BY_DEFAULT: tuple[Detector, ...] = ("private_key", "token", "password", "email", "iban", "card")
_SHORTEST = 6
"""Characters of the shortest text in which there can be anything, such as a@b.co."""


class Redactor:
    """Redacts texts with some of the detectors, and counts what it finds."""

    def __init__(
        self,
        names: Sequence[str] = BY_DEFAULT,
        patterns: Mapping[str, str] | None = None,
    ) -> None:
        """`patterns`: further ones by name. Raises ValueError for one that is none, or that matches empty text."""
        self.counts: Counter[str] = Counter()
        """By detector, how often it has found something."""
        self._methods: Mapping[str, Function] = {}
        self._shortest = 1 if patterns else _SHORTEST
        self._patterns: list[tuple[int, str, Pattern, Any]] = []
        self._any = re2.Set.SearchSet()
        chosen = {name: DETECTORS[name] for name in DETECTORS if name in names}
        chosen |= {name: (Pattern(regex),) for name, regex in (patterns or {}).items()}
        for rank, (name, alternatives) in enumerate(chosen.items()):
            for pattern in alternatives:
                try:
                    compiled = pattern.compiled()
                except re2.error as error:
                    raise ValueError(f'the pattern "{name}" is not a regular expression of RE2: {error}') from error
                if compiled.search(b"") is not None:
                    raise ValueError(f'the pattern "{name}" matches empty text')
                self._patterns.append((rank, name, pattern, compiled))
                self._any.Add(pattern.regex)
        self._any.Compile()

    def using(self, methods: Mapping[str, Function]) -> Redactor:
        """One that counts with this one, and puts what `methods` make of what these detectors find in its place."""
        other = copy(self)
        other._methods = methods
        return other

    def __call__(self, text: str) -> str:
        """The redacted text; `text` itself where nothing was found."""
        if len(text) < self._shortest:
            return text
        raw = text.encode("utf-8", "surrogatepass")
        possible = self._any.Match(raw)
        if not possible:
            return text
        found = sorted(
            (start, rank, end, name)
            for rank, name, pattern, compiled in (self._patterns[index] for index in possible)
            for start, end in pattern.find(compiled, raw)
            if end > start
        )
        if not found:
            return text
        parts: list[bytes] = []
        place = 0
        for start, _, end, name in found:
            if start >= place:
                parts += [raw[place:start], self._instead(name, raw[start:end])]
                self.counts[name] += 1
            # What overlaps goes with what began before it.
            place = max(place, end)
        parts.append(raw[place:])
        return b"".join(parts).decode("utf-8", "surrogatepass")

    def _instead(self, name: str, found: bytes) -> bytes:
        method = self._methods.get(name)
        made = method(found.decode("utf-8", "replace")) if method is not None else None
        return (f"[{name}]" if made is None else str(made)).encode("utf-8", "surrogatepass")
