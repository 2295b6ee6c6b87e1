"""Parts of aggregates: what one batch of values comes to, small enough to store, and added up with other parts.

Invariant: `merged` of two parts is the part of all values of both; sums of fractions and `Top` beyond its bound, which
both depend on the order of merges, keep the error that they state.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["Count", "Distinct", "Max", "Mean", "Min", "Part", "Sum", "Top", "merged", "numbers", "text_of"]

_HASHES = 256
"""What a Distinct keeps: exact below; above, the standard error is 1 / sqrt(254), 6.3 %."""
_HASH_BYTES = 8
_FULL = _HASHES * _HASH_BYTES
_FEW = 8 * _HASH_BYTES
_MAX_FLOAT = 1.7976931348623157e308
_MAX_TEXT_CHARS = 200

Number = int | float


class Count(Struct, frozen=True, tag="count", gc=False):
    n: int = 0

    @classmethod
    def of(cls, values: Sequence[Any]) -> Count:
        return cls(len(values))

    def plus(self, other: Count) -> Count:
        return Count(self.n + other.n)

    def result(self) -> int:
        return self.n


class Sum(Struct, frozen=True, tag="sum", gc=False):
    """Whole numbers are added exactly as far as 64 bits go, and as floats beyond; never to more than a float holds."""

    total: Number = 0

    @classmethod
    def of(cls, values: Sequence[Any]) -> Sum:
        return cls(_bounded(sum(numbers(values))))

    def plus(self, other: Sum) -> Sum:
        return Sum(_bounded(self.total + other.total))

    def result(self) -> Number:
        return self.total


class Mean(Struct, frozen=True, tag="mean", gc=False):
    total: Number = 0
    n: int = 0

    @classmethod
    def of(cls, values: Sequence[Any]) -> Mean:
        found = numbers(values)
        return cls(_bounded(sum(found)), len(found))

    def plus(self, other: Mean) -> Mean:
        return Mean(_bounded(self.total + other.total), self.n + other.n)

    def result(self) -> float | None:
        return self.total / self.n if self.n else None


class Min(Struct, frozen=True, tag="min", gc=False):
    value: Number | None = None

    @classmethod
    def of(cls, values: Sequence[Any]) -> Min:
        return cls(min(numbers(values), default=None))

    def plus(self, other: Min) -> Min:
        return Min(min((one for one in (self.value, other.value) if one is not None), default=None))

    def result(self) -> Number | None:
        return self.value


class Max(Struct, frozen=True, tag="max", gc=False):
    value: Number | None = None

    @classmethod
    def of(cls, values: Sequence[Any]) -> Max:
        return cls(max(numbers(values), default=None))

    def plus(self, other: Max) -> Max:
        return Max(max((one for one in (self.value, other.value) if one is not None), default=None))

    def result(self) -> Number | None:
        return self.value


class Distinct(Struct, frozen=True, tag="distinct", gc=False):
    """The least 256 of the values' 64-bit hashes (k minimum values).

    Fewer than 256 different values are counted exactly. Beyond, the estimate is right on average, with a standard
    error of 6.3 %. The order of values and merges does not matter.
    """

    hashes: bytes = b""
    """Ascending, 8 bytes each, big-endian."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> Distinct:
        return cls(_least({_hash(value, type(value)) for value in values}))

    def plus(self, other: Distinct) -> Distinct:
        more, fewer = self.hashes, other.hashes
        if len(fewer) > len(more):
            more, fewer = fewer, more
        if len(fewer) > _FEW:
            return Distinct(_least({*_split(more), *_split(fewer)}))
        for one in _split(fewer):
            more = _inserted(more, one)
        return Distinct(more)

    def beyond(self, known: Distinct) -> Distinct:
        """What merging this into `known` would add to it."""
        kept = [one for one in _split(self.hashes) if _adds(known.hashes, one)]
        return self if len(kept) * _HASH_BYTES == len(self.hashes) else Distinct(b"".join(kept))

    def result(self) -> int:
        if len(self.hashes) < _FULL:
            return len(self.hashes) // _HASH_BYTES
        largest = int.from_bytes(self.hashes[-_HASH_BYTES:], "big") + 1
        return round((_HASHES - 1) * 2**64 / largest)


class Top(Struct, frozen=True, tag="top", gc=False):
    """The most frequent values: space-saving in its mergeable form (Misra and Gries), of a bounded number of values.

    A value's true count is between its count here and that plus `error`; `error` is 0 until there have been more than
    `room` values, and at most the number of all occurrences divided by `room` + 1.
    """

    k: int
    counts: dict[str, int] = {}
    """By the value's JSON, of which long text is replaced by its hash."""
    error: int = 0

    @property
    def room(self) -> int:
        return max(64, 8 * self.k)

    @classmethod
    def of(cls, values: Sequence[Any], k: int) -> Top:
        counts = {
            text: n for (value, _), n in Counter((one, type(one)) for one in values).items() if (text := text_of(value))
        }
        return cls(k, counts)._within()

    def plus(self, other: Top) -> Top:
        counts = dict(self.counts)
        for text, n in other.counts.items():
            counts[text] = counts.get(text, 0) + n
        return Top(other.k, counts, self.error + other.error)._within()

    def _within(self) -> Top:
        if len(self.counts) <= self.room:
            return self
        cut = heapq.nlargest(self.room + 1, self.counts.values())[-1]
        counts = {text: n - cut for text, n in self.counts.items() if n > cut}
        return Top(self.k, counts, self.error + cut)

    def result(self) -> list[dict[str, Any]]:
        """The k most frequent, each with a count and by how much it may be too low."""
        first = heapq.nsmallest(self.k, self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"value": msgspec.json.decode(text), "count": n, "error": self.error} for text, n in first]


Part = Count | Sum | Mean | Min | Max | Distinct | Top


def merged(first: Part, second: Part) -> Part:
    """Both together; the second alone where the two are of different kinds, as after a change of the definition."""
    if type(first) is not type(second):
        return second
    return first.plus(second)  # type: ignore[arg-type]


def numbers(values: Iterable[Any]) -> list[Number]:
    """The numbers among `values`: neither text nor truth values, and only such as JSON has; huge ones as floats."""
    found: list[Number] = []
    for value in values:
        if type(value) is int:
            found.append(_bounded(value))
        elif type(value) is float and math.isfinite(value):
            found.append(value)
    return found


def text_of(value: Any) -> str:
    """A single value as JSON, long text replaced by its hash; empty for what is none."""
    if isinstance(value, str) and len(value) > _MAX_TEXT_CHARS:
        value = "blake2b:" + hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    text = str(msgspec.json.encode(value), "utf-8")
    return "" if text == "null" else text


def _bounded(value: Number) -> Number:
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return value
        try:
            value = float(value)
        except OverflowError:
            return _MAX_FLOAT if value > 0 else -_MAX_FLOAT
    return min(max(value, -_MAX_FLOAT), _MAX_FLOAT)


def _hash(value: Any, kind: type) -> bytes:
    if isinstance(value, str) and len(value) > _MAX_TEXT_CHARS:
        return _digest(value)
    return _known_hash(value, kind)


@functools.lru_cache(65536)
def _known_hash(value: Any, kind: type) -> bytes:
    # The kind keeps 1, 1.0 and True apart.
    return _digest(value)


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=_HASH_BYTES).digest()


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]


def _least(hashes: set[bytes]) -> bytes:
    return b"".join(sorted(hashes)[:_HASHES])


def _among(hashes: bytes, one: bytes) -> bool:
    at = hashes.find(one)
    while at % _HASH_BYTES and at > 0:
        at = hashes.find(one, at + 1)
    return at >= 0


def _adds(hashes: bytes, one: bytes) -> bool:
    """Whether `one` is among the least of them all, and not there yet."""
    return not (len(hashes) == _FULL and one >= hashes[-_HASH_BYTES:]) and not _among(hashes, one)


def _inserted(hashes: bytes, one: bytes) -> bytes:
    """With `one` in its place."""
    if not _adds(hashes, one):
        return hashes
    low, high = 0, len(hashes) // _HASH_BYTES
    while low < high:
        middle = (low + high) // 2
        if hashes[middle * _HASH_BYTES : (middle + 1) * _HASH_BYTES] < one:
            low = middle + 1
        else:
            high = middle
    at = low * _HASH_BYTES
    return (hashes[:at] + one + hashes[at:])[:_FULL]
