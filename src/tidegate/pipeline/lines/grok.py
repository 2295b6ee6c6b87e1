r"""Named patterns for text, in the manner of grok: `%{IP:src_ip}` matches an address and keeps it as `src_ip`.

What is not %{...} is a regular expression of RE2, which takes time linear in the text whatever the pattern is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import re2

__all__ = ["PATTERNS", "PatternError", "compile_grok"]

PATTERNS: dict[str, str] = {
    "ANY": r".*?",
    "REST": r".*",
    "WORD": r"\w+",
    "NOTSPACE": r"\S+",
    "QUOTED": r'"[^"]*"',
    "INT": r"[+-]?[0-9]+",
    "NUMBER": r"[+-]?[0-9]+(?:\.[0-9]+)?",
    "HEX": r"(?:0[xX])?[0-9a-fA-F]+",
    "IPV4": r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
    "IPV6": r"[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:(?:\.[0-9]{1,3}){3})?(?:%[0-9A-Za-z]+)?",
    "IP": r"%{IPV4}|%{IPV6}",
    "PORT": r"[0-9]{1,5}",
    "HOST": r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?",
    "IPORHOST": r"%{IP}|%{HOST}",
    "MAC": r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}",
    "UUID": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "USER": r"[A-Za-z0-9._@$\\/+-]+",
    "EMAIL": r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+",
    "PATH": r"(?:/[^\s:]*)+",
    "URL": r"[A-Za-z][A-Za-z0-9+.-]*://\S+",
    "MONTH": r"Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec",
    "CLOCK": r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?",
    "ISOTIME": r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?",
}
"""Name -> regular expression; one may use others."""

_REFERENCE = re.compile(r"%\{([A-Za-z0-9_]+)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")
_LITERAL = re.compile(r"[A-Za-z0-9 ,:;='\"/<>_%#@!~`&-]*")
_NAMED = re.compile(r"\(\?P?<([A-Za-z0-9_]+)>")
_DEEPEST = 8

Grok = Callable[[str], "dict[str, str] | None"]
"""The named parts of a text that matches as a whole, those without text left out; None where it does not match."""


class PatternError(ValueError):
    """A pattern that cannot be compiled; the text says why."""


def _expand(pattern: str, depth: int = 0) -> str:
    if depth > _DEEPEST:
        raise PatternError("%{...} are nested too deep")

    def replacement(match: re.Match[str]) -> str:
        name, field = match[1], match[2]
        if name not in PATTERNS:
            raise PatternError(f"unknown pattern %{{{name}}}; valid are: {', '.join(sorted(PATTERNS))}")
        inner = _expand(PATTERNS[name], depth + 1)
        return f"(?P<{field}>{inner})" if field else f"(?:{inner})"

    return _REFERENCE.sub(replacement, pattern)


def _literal_start(pattern: str) -> str:
    """What every match begins with, as far as that is plain to see: most texts are told apart by it alone."""
    depth, escaped = 0, False
    for sign in pattern:
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = True
        elif sign == "|" and depth <= 0:
            return ""
        else:
            depth += {"(": 1, ")": -1}.get(sign, 0)
    text = _LITERAL.match(pattern)
    assert text is not None
    return text[0][:-1] if pattern[text.end() : text.end() + 1] in ("?", "*", "+", "{") else text[0]


@cache
def compile_grok(pattern: str) -> Grok:
    """A matcher for whole texts (a `%{REST}` at its end leaves it open). Raises PatternError."""
    expanded = _expand(pattern)
    named = _NAMED.findall(expanded)
    if len(set(named)) < len(named):
        raise PatternError(f"a name is given twice: {', '.join(named)}")
    options = re2.Options()
    options.log_errors = False
    try:
        # Of bytes: for text the library computes every offset anew, which takes twice the time.
        compiled = re2.compile(f"(?s){expanded}".encode(), options)
    except re2.error as error:
        raise PatternError(error.args[0].decode("utf-8", "replace")) from error
    start = _literal_start(pattern)
    groups = [(name.decode(), number - 1) for name, number in compiled.groupindex.items()]
    full = compiled.fullmatch

    def match(text: str) -> dict[str, str] | None:
        if not text.startswith(start):
            return None
        encoded = text.encode("utf-8", "replace")
        found = full(encoded)
        if found is None:
            return None
        parts = found.groups()
        return {name: parts[place].decode() for name, place in groups if parts[place]}

    return match
