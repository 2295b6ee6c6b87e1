"""Values that were anonymised, found again in texts: in messages, and in whatever has no place in OCSF.

Invariant: a value is found as a whole word, in upper or lower case, and nothing that was put into a text is looked at
again. Values of one or two characters are found only where they are the whole text: `a` is too often a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.pipeline.enrichment.cache import Cached

__all__ = ["LOWER", "Pairs", "alter", "in_texts", "replace_all"]

Pairs = list[tuple[str, str]]
"""Values, and what takes their place."""

TOO_DEEP = "[too deep]"
_MOST_DEPTH = 64
_SHORTEST = 3
_MOST_LOWER = 65_536

LOWER: Cached[str] = Cached(str.lower, _MOST_LOWER)
"""Values and observables, of which the same come again and again, in lower case."""


def replace_all(text: str, pairs: Pairs) -> str:
    """`text` without the values of `pairs`; `text` itself where there is none of them."""
    lower = text.lower()
    # Some letters have a longer lower case, so places would not be the same.
    exact = len(lower) != len(text)
    if exact:
        lower = text
    hits: list[tuple[int, int, str]] = []
    for value, instead in pairs:
        wanted = value if exact else LOWER[value]
        size = len(wanted)
        if wanted == lower:
            return instead
        if size < _SHORTEST:
            continue
        at = lower.find(wanted)
        while at >= 0:
            end = at + size
            if _is_word(lower, at, end):
                hits.append((at, -end, instead))
                at = lower.find(wanted, end)
            else:
                at = lower.find(wanted, at + 1)
    if not hits:
        return text
    hits.sort()
    parts: list[str] = []
    place = 0
    for start, negative, instead in hits:
        if start >= place:
            parts += [text[place:start], instead]
        place = max(place, -negative)
    parts.append(text[place:])
    return "".join(parts)


def _is_word(text: str, start: int, end: int) -> bool:
    before = text[start - 1] if start else " "
    after = text[end] if end < len(text) else " "
    return not (
        ((before.isalnum() or before == "_") and (text[start].isalnum() or text[start] == "_"))
        or ((after.isalnum() or after == "_") and (text[end - 1].isalnum() or text[end - 1] == "_"))
    )


def in_texts(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    """`value` with all texts in it changed, the keys of objects too; `value` itself where none is changed.

    What is more than 64 levels down is taken out.
    """
    kind = value.__class__
    if kind is str:
        return change(value)
    if kind is dict:
        if depth >= _MOST_DEPTH:
            return TOO_DEEP
        made = None
        for key, each in value.items():
            new_key, new = change(key), in_texts(each, change, depth + 1)
            if made is None and (new is not each or new_key is not key):
                # Those before it are as they were.
                made = {}
                for earlier, kept in value.items():
                    if earlier is key:
                        break
                    made[earlier] = kept
            if made is not None:
                while new_key in made:
                    new_key += "'"
                made[new_key] = new
        return value if made is None else made
    if kind is list:
        if depth >= _MOST_DEPTH:
            return TOO_DEEP
        elements = [in_texts(each, change, depth + 1) for each in value]
        return elements if any(new is not old for new, old in zip(elements, value, strict=True)) else value
    return value


def alter(value: Any, steps: tuple[str, ...], change: Callable[[Any], Any]) -> Any:
    """A copy of the object `value` with what `steps` lead to changed, or taken out where it becomes None."""
    if value.__class__ is not dict or (inner := value.get(steps[0])) is None:
        return value
    new = alter(inner, steps[1:], change) if len(steps) > 1 else change(inner)
    if new is inner:
        return value
    made = dict(value)
    if new is None:
        del made[steps[0]]
    else:
        made[steps[0]] = new
    return made
