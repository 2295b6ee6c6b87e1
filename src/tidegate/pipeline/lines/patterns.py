"""Patterns for the message of a source, which its TOML names: the first that matches adds what it has found.

Invariant: patterns add to a record and never change what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tidegate.pipeline.lines.base import claim
from tidegate.pipeline.lines.grok import Grok, compile_grok

__all__ = ["Patterns", "compile_patterns"]


class Patterns(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which text is matched, and with what."""

    from_: str = "message"
    """The top-level field that is matched, from its first character to its last."""
    by: str
    """The field (`syslog.app`) whose value says which patterns are tried; a dot leads into an object."""
    match: dict[str, dict[str, str]]
    """Value -> name -> pattern, tried in this order; the name of the first that matches becomes the field `pattern`.

    Several values are written `a|b`; the patterns of `*` are tried after those of any value.
    """


def compile_patterns(patterns: Patterns) -> Callable[[dict[str, Any]], None]:
    """What adds the name and the parts of the first pattern that matches. Raises PatternError."""
    others = _compiled(patterns.match.get("*", {}))
    tried = {
        value: _compiled(group) + others
        for values, group in patterns.match.items()
        for value in values.split("|")
        if value != "*"
    }
    outer, _, inner = patterns.by.rpartition(".")
    source = patterns.from_

    def apply(record: dict[str, Any]) -> None:
        text = record.get(source)
        if text.__class__ is not str:
            return
        place = record.get(outer) if outer else record
        value = place.get(inner) if place.__class__ is dict else None
        for name, grok in tried.get(value, others) if value.__class__ is str else others:
            found = grok(text)
            if found is not None:
                for key, part in found.items():
                    record.setdefault(key, part)
                claim(record, "pattern", name)
                return

    return apply


def _compiled(group: dict[str, str]) -> list[tuple[str, Grok]]:
    return [(name, compile_grok(pattern)) for name, pattern in group.items()]
