"""What the code of an anonymise stage calls: the tables of the tenant and key, and values found again elsewhere.

Invariant: nothing here changes an event; it returns what is to be put into it once all of it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.ocsf import Enrichment, Observable
from tidegate.pipeline.anonymise.elsewhere import LOWER, Pairs, in_texts, replace_all
from tidegate.pipeline.anonymise.keys import KeyRing
from tidegate.pipeline.anonymise.methods import REMOVED
from tidegate.pipeline.anonymise.pseudonyms import Pseudonyms
from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.support import Shared

__all__ = ["Group", "Groups", "Maker", "clean", "enriched", "followed", "note", "noting", "observables_of"]

_MOST_GROUPS = 1024
_encode = msgspec.json.Encoder().encode
_NO_TENANT = "default"
_MOST_ENCODED = 65_536
_ENCODED: Cached[str] = Cached(lambda text: _encode(text)[1:-1].decode().lower(), _MOST_ENCODED)
"""Values in lower case, as they would be in JSON."""

Maker = Callable[[Pseudonyms | None], Any]
"""Makes a table (`table[text]`) or a function, for the keys of a tenant."""


class Group:
    """The tables that hold while one key of one tenant does."""

    __slots__ = ("since", "tables", "until")

    def __init__(self, since: int, until: int, tables: list[Any]) -> None:
        self.since = since
        """Of event time, in ms: since <= time < until."""
        self.until = until
        self.tables = tables


class Groups:
    """The groups of all tenants; forgotten all at once where there are too many."""

    def __init__(self, ring: KeyRing, makers: list[Maker]) -> None:
        self.newest: dict[str | None, Group] = {}
        """By tenant, the one that served last."""
        self._ring = ring
        self._makers = makers
        self._all: dict[tuple[str | None, str, int], Group] = {}

    def find(self, tenant: str | None, time_ms: int) -> Group:
        """The group for events of a tenant at a time."""
        key, since, until = self._ring.at(time_ms)
        group = self._all.get((tenant, key.id, since))
        if group is None:
            if len(self._all) >= _MOST_GROUPS:
                self._all.clear()
                self.newest.clear()
            pseudonyms = Pseudonyms(key, tenant or _NO_TENANT)
            group = Group(since, until, [make(pseudonyms) for make in self._makers])
            self._all[tenant, key.id, since] = group
        self.newest[tenant] = group
        return group


def note(pairs: Pairs, old: Any, new: Any) -> None:
    """Notes what took the place of each text in a value of any form."""
    if old.__class__ is str:
        if new != old:
            pairs.append((old, new if new.__class__ is str else REMOVED))
    elif old.__class__ is list:
        alike = new.__class__ is list and len(new) == len(old)
        for place, each in enumerate(old):
            note(pairs, each, new[place] if alike else None)
    elif old.__class__ is dict:
        objects: dict[str, Any] = new if isinstance(new, dict) else {}
        for key, each in old.items():
            note(pairs, each, objects.get(key))
    elif isinstance(old, Struct):
        # By way of JSON, as parts of it may be encoded already.
        note(pairs, msgspec.json.decode(msgspec.json.encode(old)), None)


def noting(change: Callable[[Any], Any], pairs: Pairs) -> Callable[[Any], Any]:
    """`change`, which notes what it does."""

    def changed(value: Any) -> Any:
        new = change(value)
        note(pairs, value, new)
        return new

    return changed


def clean(value: Any, pairs: Pairs, table: Mapping[str, str] | None) -> Any:
    """A value of any form without the values of `pairs`, and without what the redactor behind `table` finds."""
    if table is None and not (pairs and _may_have(value, pairs)):
        return value
    if isinstance(value, Struct):
        value = msgspec.to_builtins(value)
    if not pairs:
        assert table is not None
        return in_texts(value, table.__getitem__)
    # Most texts, names of attributes above all, are too short to hold any of the values.
    shortest = min([len(old) for old, _ in pairs])

    def change(text: str) -> str:
        new = replace_all(text, pairs) if len(text) >= shortest else text
        return new if table is None else table[new]

    return in_texts(value, change)


def _may_have(value: Any, pairs: Pairs) -> bool:
    """Whether any of the values may be anywhere in `value`: a tenth of the time that it takes to look at each text."""
    try:
        whole = _encode(value).decode().lower()
        for old, _ in pairs:
            if _ENCODED[old] in whole:
                return True
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return True
    return False


def observables_of(path: str, type_id: int) -> Shared:
    """The observables named after the attribute at `path`, by value."""
    return Shared(partial(_observable, path, type_id))


def followed(
    observables: list[Any], follow: Mapping[str, tuple[int, Shared]], tables: list[Any], pairs: Pairs
) -> list[Any] | None:
    """The observables: those of anonymised attributes anonymised likewise, all others without the values of `pairs`."""
    found: list[Any] = []
    for one in observables:
        value = one.value
        if value is None:
            if one.name not in follow:
                found.append(one)
        elif (known := follow.get(one.name)) is not None:
            if (new := tables[known[0]][value]) is not None:
                found.append(known[1][new])
        else:
            lower = LOWER[value]
            for old, _ in pairs:
                if LOWER[old] in lower:
                    value = replace_all(value, pairs)
                    break
            if value is one.value:
                found.append(one)
            elif value != REMOVED:
                found.append(Observable(name=one.name, type_id=one.type_id, value=value))
    return found or None


def enriched(enrichments: list[Any], pairs: Pairs) -> list[Enrichment]:
    """The enrichments without the values of `pairs`."""
    return [
        Enrichment(
            name=one.name,
            value=replace_all(one.value, pairs),
            type=one.type,
            provider=one.provider,
            data=clean(msgspec.to_builtins(one.data), pairs, None),
        )
        for one in enrichments
    ]


def _observable(path: str, type_id: int, value: str) -> Observable:
    return Observable(name=path, type_id=type_id, value=value)
