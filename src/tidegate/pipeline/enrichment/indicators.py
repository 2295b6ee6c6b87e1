"""Threat indicators: which feed names an address, domain, hash, URL or e-mail address, and what it says of it.

Invariant: what is found depends on the value, the time that is asked for and the tables, not on earlier questions.

One `IndicatorTable` a feed, read-only once it is loaded; `Indicators` asks them all and remembers the answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import get_args

import msgspec
from msgspec import Struct

from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.enrichment.compact import Index, Texts
from tidegate.pipeline.enrichment.networks import Networks
from tidegate.pipeline.enrichment.values import KINDS, FeedKind, Kind, network_of, text_of, to_key

__all__ = ["About", "Indicator", "IndicatorTable", "Indicators", "valid_of"]

_ABOUTS_KEPT = 16_384
_ITSELF = 129
"""As close as can be: closer than any network."""


class About(Struct, frozen=True, array_like=True, gc=False):
    """What a feed says of a value."""

    confidence: int | None = None
    """0 - 100."""
    label: str | None = None
    valid_until: int | None = None
    """Milliseconds since 1970; the value does not match from then on."""
    reference: str | None = None

    @property
    def weight(self) -> tuple[float, int]:
        """Of two entries for one value in one feed the heavier counts: valid longer, else of more confidence."""
        return inf if self.valid_until is None else self.valid_until, _sure(self.confidence)


class Indicator(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What matched."""

    kind: FeedKind
    value: str
    """As the feed has it: the network or the parent domain, where that is what matched."""
    feed: str
    confidence: int | None = None
    label: str | None = None
    valid_until: int | None = None
    """Milliseconds since 1970."""
    reference: str | None = None


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(About).decode

Found = tuple[int, Indicator]
"""How closely it fits (the longer the prefix, the more labels), and what."""
Finder = Callable[[bytes], list[Found]]


def _sure(confidence: int | None) -> int:
    return -1 if confidence is None else confidence


def valid_of(found: tuple[Indicator, ...], now_ms: int) -> Indicator | None:
    """The first that is still valid at `now_ms`."""
    for indicator in found:
        if indicator.valid_until is None or now_ms < indicator.valid_until:
            return indicator
    return None


class IndicatorTable:
    """The indicators of one feed. Fill it with `add`, then `close` it."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self._indexes: dict[Kind, Index] = {kind: Index() for kind in KINDS}
        self._about: dict[FeedKind, array[int]] = {kind: array("I") for kind in get_args(FeedKind)}
        self._abouts = Texts()
        self._recent: dict[bytes, int] = {}
        self._networks: Networks | dict[bytes, int] = {}
        self._labels: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self._about.values()))

    @property
    def nbytes(self) -> int:
        """Bytes that the entries take."""
        networks = self._networks.nbytes if isinstance(self._networks, Networks) else 0
        kinds = sum(index.nbytes for index in self._indexes.values())
        return kinds + networks + self._abouts.nbytes + sum(4 * len(each) for each in self._about.values())

    def add(self, kind: FeedKind, key: bytes, about: About) -> bool:
        """Whether the value is new. `key` is of `values.key_of`."""
        abouts = self._about[kind]
        if kind != "cidr":
            number = self._indexes[kind].add(key)
        else:
            assert isinstance(self._networks, dict), "the table is closed"
            number = self._networks.setdefault(key, len(self._networks))
        if number == len(abouts):
            abouts.append(self._number(about))
            return True
        if about.weight > self._read(abouts[number]).weight:
            abouts[number] = self._number(about)
        return False

    def close(self) -> None:
        """Ends the loading."""
        assert isinstance(self._networks, dict), "the table is closed"
        self._networks = Networks(self._networks)
        self._recent.clear()
        domains = self._indexes["domain"]
        self._labels = tuple(sorted({domains[number].count(b".") + 1 for number in range(len(domains))}, reverse=True))

    def _number(self, about: About) -> int:
        """The number of what is said, the same for many values of a feed."""
        said = _ENCODE(about)
        number = self._recent.get(said)
        if number is None:
            if len(self._recent) >= _ABOUTS_KEPT:
                self._recent.clear()
            number = self._recent[said] = self._abouts.append(said)
        return number

    def _read(self, number: int) -> About:
        return _DECODE(self._abouts[number])

    def _indicator(self, kind: FeedKind, key: bytes, number: int) -> Indicator:
        about = self._read(self._about[kind][number])
        return Indicator(
            kind=kind,
            value=text_of(kind, key),
            feed=self.feed,
            confidence=about.confidence,
            label=about.label,
            valid_until=about.valid_until,
            reference=about.reference,
        )

    def finder(self, kind: Kind) -> Finder | None:
        """Finds all that fits a key of `kind`; None when nothing can."""
        if kind == "ip":
            return self._find_address if len(self._about["ip"]) + len(self._about["cidr"]) else None
        if not len(self._about[kind]):
            return None
        return self._find_domain if kind == "domain" else partial(self._find_same, kind)

    def _find_same(self, kind: Kind, key: bytes) -> list[Found]:
        number = self._indexes[kind].find(key)
        return [] if number < 0 else [(_ITSELF, self._indicator(kind, key, number))]

    def _find_address(self, key: bytes) -> list[Found]:
        found = self._find_same("ip", key)
        if isinstance(self._networks, Networks):
            for prefix, number in self._networks.find(key):
                found.append((prefix, self._indicator("cidr", network_of(key, prefix), number)))
        return found

    def _find_domain(self, key: bytes) -> list[Found]:
        """The domain and those above it, but only of as many labels as the feed has domains of."""
        index = self._indexes["domain"]
        labels = key.split(b".")
        found = []
        for count in self._labels:
            if count <= len(labels):
                domain = b".".join(labels[-count:])
                number = index.find(domain)
                if number >= 0:
                    found.append((count, self._indicator("domain", domain, number)))
        return found


class _View:
    """The tables of a moment and what was asked of them. Never changed but for the cache."""

    def __init__(self, tables: Mapping[str, IndicatorTable], most: int) -> None:
        self.tables = tables
        self.caches: dict[Kind, Cached[tuple[Indicator, ...]]] = {kind: self._cached(kind, most) for kind in KINDS}

    def _cached(self, kind: Kind, most: int) -> Cached[tuple[Indicator, ...]]:
        to_this_key = to_key[kind]
        finders = [finder for table in self.tables.values() if (finder := table.finder(kind))]

        def find(value: str) -> tuple[Indicator, ...]:
            key = to_this_key(value)
            if key is None:
                return ()
            found: list[Found] = []
            for finder in finders:
                found += finder(key)
            if not found:
                return ()
            # The closest first, then the surest; between equals the order of the feeds decides, as sorting is stable.
            found.sort(key=lambda one: (-one[0], -_sure(one[1].confidence)))
            return tuple(indicator for _, indicator in found)

        return Cached(find, most)


class Indicators:
    """The indicators of all feeds. A feed is replaced as a whole; a lookup sees it as it was or as it is."""

    def __init__(self, cache_entries: int = 65_536) -> None:
        self._most = cache_entries
        self._view = _View({}, cache_entries)
        self._lookups = 0
        self._misses = 0

    def put(self, table: IndicatorTable) -> None:
        """Replaces the feed of the same name, or adds the feed."""
        before = self._view
        self._view = _View({**before.tables, table.feed: table}, self._most)
        self._lookups += sum(cache.lookups for cache in before.caches.values())
        self._misses += sum(cache.misses for cache in before.caches.values())

    def match(self, kind: Kind, value: str, now_ms: int) -> Indicator | None:
        """The indicator for `value` that is still valid at `now_ms`: the closest, of those the surest."""
        cache = self._view.caches[kind]
        cache.lookups += 1
        return valid_of(cache[value], now_ms)

    def cache(self, kind: Kind) -> Cached[tuple[Indicator, ...]]:
        """All that fits a value of `kind`, expired or not, the best first: for loops, as a hit costs no Python call.

        Take it anew for each batch, add the lookups to its `lookups`, and give what is found to `valid_of`.
        """
        return self._view.caches[kind]

    def table(self, feed: str) -> IndicatorTable | None:
        return self._view.tables.get(feed)

    def __len__(self) -> int:
        return sum(map(len, self._view.tables.values()))

    @property
    def hits(self) -> int:
        """Lookups that were answered from memory."""
        return self._lookups + sum(cache.lookups for cache in self._view.caches.values()) - self.misses

    @property
    def misses(self) -> int:
        return self._misses + sum(cache.misses for cache in self._view.caches.values())
