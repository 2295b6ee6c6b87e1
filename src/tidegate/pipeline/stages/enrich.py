"""The stage that adds what tables know: where an address is, what a threat feed says, whose machine it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate import tomlfile
from tidegate.ocsf import Enrichment
from tidegate.pipeline import access
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.definition import Enrich, Lookup
from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.enrichment.indicators import Indicator, valid_of
from tidegate.pipeline.enrichment.library import Library as Tables
from tidegate.pipeline.enrichment.values import Kind
from tidegate.pipeline.stages.body import Body

__all__ = ["write_enrich"]

_KINDS: dict[int, Kind] = {1: "domain", 2: "ip", 5: "email", 6: "url", 8: "hash"}
"""Type of an observable -> kind of indicator."""


def write_enrich(stage: Enrich, body: Body) -> None:
    if not (stage.geo or stage.indicators or stage.lookup):
        raise body.fail([], f'"{stage.name}" needs geo, indicators or lookup')
    tables = body.tables
    if tables is None:
        raise body.fail([], "there are no tables: a file with [enrichment] is needed beside this one")
    if stage.geo and not tables.has_geo:
        raise body.fail(["geo"], "there is no MMDB file: set city or asn in [enrichment.geo]")
    body.names["TABLES"] = tables
    if stage.geo:
        body.first.append("geo = None if TABLES.geo is None else TABLES.geo.cache")
    for index, endpoint in enumerate(stage.geo):
        _geo(endpoint, body, ["geo", index])
    for index, lookup in enumerate(stage.lookup):
        _lookup(lookup, body, tables, ["lookup", index])
    if stage.indicators:
        body.reads.add("observables")
        body.writes.add("enrichments")
        body.names |= {"add_indicators": add_indicators, "KINDS": _KINDS}
        body.first.append("caches = {number: TABLES.indicators.cache(kind) for number, kind in KINDS.items()}")
        body.put("if e.observables:", "    add_indicators(e, caches)")


def _geo(endpoint: str, body: Body, steps: list[str | int]) -> None:
    body.readable(f"{endpoint}.ip", steps)
    body.writable(f"{endpoint}.location", steps, whole=True)
    if endpoint.endswith("endpoint"):
        body.writable(f"{endpoint}.autonomous_system", steps, whole=True)
    body.put(
        f"at = {access.read(endpoint)}",
        "if at is not None and at.ip is not None and geo is not None:",
        "    geo.lookups += 1",
        "    found = geo[at.ip]",
        "    if found is not None:",
        "        at.location = found.location",
        *(["        at.autonomous_system = found.autonomous_system"] if endpoint.endswith("endpoint") else []),
    )


def _lookup(lookup: Lookup, body: Body, tables: Tables, steps: list[str | int]) -> None:
    if lookup.table == "tags":
        body.put("table = TABLES.tags")
    else:
        if lookup.table not in tables.names:
            hint = tomlfile.nearest(lookup.table, [*tables.names, "tags"])
            raise body.fail([*steps, "table"], f'unknown table "{lookup.table}"{hint}')
        body.put(f"table = TABLES.tables.get({lookup.table!r})")
    body.readable(lookup.key, [*steps, "key"])
    body.put(
        f"key = {access.read(lookup.key)}",
        "found = table.lookup(key) if table is not None and key.__class__ is str else None",
        "if found is not None:",
    )
    if not lookup.set:
        body.writes.add("enrichments")
        body.names["add_row"] = add_row
        body.put(f"    add_row(e, {lookup.key!r}, key, {lookup.table!r}, found)")
    for path, column in lookup.set.items():
        attribute = body.writable(path, [*steps, "set", path])
        convert = body.constant(
            CONVERSIONS[attribute.kind].function if attribute.kind != "any" else lambda value: value
        )
        body.put(
            f"    value = {convert}(found.get({column!r}))",
            f"    if value is not None and {access.read(path)} is None:",
            *(f"        {line}" for line in body.write(path, "value", attribute)),
        )


def add_indicators(event: Any, caches: Mapping[int, Cached[tuple[Indicator, ...]]]) -> None:
    """Puts the indicators for the observables of `event` into its `enrichments`."""
    added: list[Enrichment] = []
    for one in event.observables:
        cache = caches.get(one.type_id)
        if cache is None:
            continue
        cache.lookups += 1
        fitting = cache[one.value]
        if fitting and (found := valid_of(fitting, event.time)) is not None:
            added.append(
                Enrichment(
                    name=one.name,
                    value=one.value,
                    type="threat_intel",
                    provider=found.feed,
                    data=msgspec.to_builtins(found),
                )
            )
    if added:
        event.enrichments = [*(event.enrichments or ()), *added]


def add_row(event: Any, path: str, key: str, table: str, row: Any) -> None:
    """Puts a row of a table into the `enrichments` of `event`."""
    found = Enrichment(name=path, value=key, type=table, data=row)
    event.enrichments = [*(event.enrichments or ()), found]
