"""Reads the indicators of a STIX 2.1 bundle whose patterns name single values or networks.

Invariant: a value is only taken from a pattern that it satisfies alone; any other pattern is counted with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from tidegate.errors import TableError
from tidegate.pipeline.enrichment.files import Report, read_all
from tidegate.pipeline.enrichment.indicators import About
from tidegate.pipeline.enrichment.settings import IndicatorFeed
from tidegate.pipeline.enrichment.values import FeedKind
from tidegate.pipeline.functions import to_ms

__all__ = ["Found", "read_bundle", "values_in"]


class _Bundle(Struct):
    objects: list[msgspec.Raw] = []


class _Typed(Struct):
    type: str = ""


class _Reference(Struct):
    url: str | None = None


class _Indicator(Struct):
    id: str
    pattern: str
    # The field is required since STIX 2.1; 2.0 knew its own patterns only.
    pattern_type: str = "stix"
    name: str | None = None
    indicator_types: list[str] = []
    labels: list[str] = []
    confidence: int | None = None
    valid_until: str | None = None
    revoked: bool = False
    external_references: list[_Reference] = []


_OBJECT_PATHS: dict[str, FeedKind] = {
    "ipv4-addr:value": "ip",
    "ipv6-addr:value": "ip",
    "domain-name:value": "domain",
    "url:value": "url",
    "email-addr:value": "email",
    **dict.fromkeys((f"file:hashes.{name}" for name in ("md5", "sha-1", "sha1", "sha-256", "sha256")), "hash"),
    **dict.fromkeys((f"file:hashes.{name}" for name in ("sha-512", "sha512")), "hash"),
}
"""Object paths in lower case, without quotes."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^'\\]|\\.)*')
      | (?P<path>[a-z][a-z0-9-]*:[A-Za-z0-9_-]+(?:\.(?:[A-Za-z0-9_-]+|'[^']*')|\[[^\]]*\])*)
      | (?P<word>[A-Za-z]+|[\[\](),]|!=|<=|>=|=|<|>)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_END = ("end", "")


Found = tuple[FeedKind | None, str, str]
"""Kind and text of a value; or None, nothing, and why a part of a pattern is of no use."""


class Unsupported(Exception):  # noqa: N818 - the pattern is valid, it only says more than one value can
    """Why a pattern, or a part of it, is of no use here."""


def read_bundle(
    path: Path,
    settings: IndicatorFeed,
    take: Callable[[int, FeedKind | None, str, About], None],
    report: Report,
) -> None:
    """Gives each value to `take`, with the number (from 1) of its object. Raises TableError when it is no bundle."""
    try:
        bundle = msgspec.json.decode(read_all(path), type=_Bundle)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise TableError(str(path), f"is not a STIX bundle: {error}") from error
    for place, raw in enumerate(bundle.objects, start=1):
        try:
            if msgspec.json.decode(raw, type=_Typed).type != "indicator":
                continue
            indicator = msgspec.json.decode(raw, type=_Indicator)
            about = _about(indicator, settings)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
            report.rows += 1
            report.reject(f"object {place}", str(error))
            continue
        if indicator.revoked or indicator.pattern_type != "stix":
            report.skipped["revoked" if indicator.revoked else f"pattern type {indicator.pattern_type[:30]}"] += 1
            continue
        for kind, value, problem in values_in(indicator.pattern):
            if problem:
                report.skipped[problem] += 1
            else:
                take(place, kind, value, about)


def _about(indicator: _Indicator, settings: IndicatorFeed) -> About:
    until = None
    if indicator.valid_until is not None:
        until = to_ms(indicator.valid_until)
        if until is None:
            raise ValueError(f"{indicator.valid_until[:50]!r} is no time")
    if indicator.confidence is not None and not 0 <= indicator.confidence <= 100:
        raise ValueError(f"{indicator.confidence} is no confidence: a number from 0 to 100 is needed")
    labels = ",".join(indicator.indicator_types or indicator.labels) or indicator.name
    links = (one.url for one in indicator.external_references if one.url)
    return About(
        confidence=settings.confidence if indicator.confidence is None else indicator.confidence,
        label=labels or settings.label,
        valid_until=until,
        reference=next(links, indicator.id),
    )


def values_in(pattern: str) -> list[Found]:
    """Each value that satisfies `pattern` alone."""
    try:
        return list(_Alternatives(pattern).read())
    except Unsupported as error:
        return [(None, "", str(error))]
    except RecursionError:
        return [(None, "", "nested too deeply")]


class _Alternatives:
    """Reads a pattern as alternatives: comparisons joined by OR, in one or several brackets."""

    def __init__(self, pattern: str) -> None:
        self._tokens = _tokens(pattern)
        self._next = next(self._tokens)

    def _step(self) -> tuple[str, str]:
        token, self._next = self._next, next(self._tokens, _END)
        return token

    def _expect(self, word: str) -> None:
        token = self._step()
        if token != ("word", word):
            raise Unsupported(_why(token))

    def read(self) -> Iterator[Found]:
        yield from self._either(self._observation)
        if self._next != _END:
            raise Unsupported(_why(self._next))

    def _either(self, part: Callable[[], Iterator[Found]]) -> Iterator[Found]:
        while True:
            if self._next == ("word", "("):
                self._step()
                yield from self._either(part)
                self._expect(")")
            else:
                yield from part()
            if self._next != ("word", "OR"):
                return
            self._step()

    def _observation(self) -> Iterator[Found]:
        self._expect("[")
        yield from self._either(self._comparison)
        self._expect("]")

    def _comparison(self) -> Iterator[Found]:
        what, path = self._step()
        if what != "path":
            raise Unsupported(_why((what, path)))
        kind = _OBJECT_PATHS.get(path.replace("'", "").lower())
        operator = self._step()[1]
        if operator == "IN":
            self._expect("(")
            texts = [self._text()]
            while self._next == ("word", ","):
                self._step()
                texts.append(self._text())
            self._expect(")")
        elif operator in ("=", "ISSUBSET"):
            texts = [self._text()]
        else:
            raise Unsupported(f"operator {operator[:30]}")
        if kind is None:
            yield None, "", f"object path {path[:60]}"
            return
        if operator == "ISSUBSET" and kind != "ip":
            raise Unsupported(f"ISSUBSET of {path[:60]}")
        for text in texts:
            yield kind, text, ""

    def _text(self) -> str:
        what, text = self._step()
        if what != "text":
            raise Unsupported("a constant that is no text")
        return _ESCAPED.sub(r"\1", text[1:-1])


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    at = 0
    pattern = pattern.rstrip()
    while at < len(pattern):
        found = _TOKEN.match(pattern, at)
        if found is None:
            raise Unsupported("a pattern that cannot be read")
        at = found.end()
        name = found.lastgroup or ""
        yield name, found[name]
    yield _END


def _why(token: tuple[str, str]) -> str:
    what, text = token
    if what == "word" and text.isalpha():
        # AND, NOT, FOLLOWEDBY, WITHIN, REPEATS, START, LIKE, MATCHES, EXISTS ...
        return text.upper()
    return "a pattern that cannot be read"
