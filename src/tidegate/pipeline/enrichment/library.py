"""All tables of enrichment, made as the settings say, kept up to date and counted.

Invariant: whoever looks something up takes the table from here each time (or for each batch), never keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from tidegate.errors import ConfigError
from tidegate.pipeline.enrichment.feeds import load_feed
from tidegate.pipeline.enrichment.files import Report
from tidegate.pipeline.enrichment.geo import GeoTable, MmdbFile
from tidegate.pipeline.enrichment.indicators import Indicators, IndicatorTable
from tidegate.pipeline.enrichment.reload import Every, Files, Problem, Reloader, Watch
from tidegate.pipeline.enrichment.settings import Enrichment, IndicatorFeed, KeyedTable
from tidegate.pipeline.enrichment.tables import NetworkTags, TextTable, load_collection, load_table, tags_of

__all__ = ["Library", "TableStatus"]


class TableStatus(Struct, frozen=True, kw_only=True):
    """One table, for the status page and the metrics."""

    name: str
    kind: Literal["geo", "indicators", "table"]
    entries: int
    """Of an MMDB file the nodes of its tree."""
    bytes: int
    loaded_at_ms: int
    load_seconds: float
    hits: int = 0
    """Geo, and all indicators together: lookups answered from memory. Other tables: keys that were found."""
    misses: int = 0
    rows: int = 0
    repeated: int = 0
    bad: int = 0
    first_bad: list[str] = []
    skipped: dict[str, int] = {}
    problem: Problem | None = None
    """Why the newest version is not in use."""

    @property
    def hit_rate(self) -> float:
        """From 0 to 1; 0 before the first lookup."""
        return self.hits / (self.hits + self.misses) if self.hits else 0.0


class Library:
    """The tables. Call `load` once, then `check` every few seconds."""

    def __init__(self, settings: Enrichment, folder: Path, mongodb_uri: str = "", database: str = "tidegate") -> None:
        """`folder`: where paths in `settings` start from. Raises ConfigError for settings that do not go together."""
        self.geo: GeoTable | None = None
        self.indicators = Indicators(settings.indicator_cache_entries)
        self.tables: dict[str, TextTable | NetworkTags] = {}
        self.tags = tags_of(settings.tags)
        self.names = tuple(table.name for table in settings.tables)
        """Of the keyed tables, loaded or not."""
        self.has_geo = settings.geo.city is not None or settings.geo.asn is not None
        self.settings = settings
        self._mmdb: dict[str, MmdbFile] = {}
        self._reports: dict[str, Report] = {}
        watches: list[Watch[Any]] = []
        for name, file in (("geo.city", settings.geo.city), ("geo.asn", settings.geo.asn)):
            if file is not None:
                path = folder / file
                watches.append(Watch(name, Files(path), partial(MmdbFile, path), partial(self._put_mmdb, name)))
        watches += [self._watch_feed(folder / feed.path, feed) for feed in settings.indicators]
        watches += [self._watch_table(folder, table, mongodb_uri, database) for table in settings.tables]
        names = [watch.name for watch in watches]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("enrichment", f'"{name}" is there twice; give each feed and table a name of its own')
        self._reloader = Reloader(watches)

    def _watch_feed(self, path: Path, feed: IndicatorFeed) -> Watch[Any]:
        def install(loaded: tuple[IndicatorTable, Report]) -> None:
            self.indicators.put(loaded[0])
            self._reports[name] = loaded[1]

        name = f"indicators.{feed.feed}"
        return Watch(name, Files(path), partial(load_feed, path, feed), install)

    def _watch_table(self, folder: Path, table: KeyedTable, uri: str, database: str) -> Watch[Any]:
        def install(loaded: tuple[TextTable | NetworkTags, Report]) -> None:
            new, self._reports[name] = loaded
            if before := self.tables.get(table.name):
                new.hits, new.misses = before.hits, before.misses
            self.tables[table.name] = new

        name = f"tables.{table.name}"
        load: Callable[[], tuple[TextTable | NetworkTags, Report]]
        if table.path is not None and table.mongodb is None:
            path = folder / table.path
            return Watch(name, Files(path), partial(load_table, path, table), install)
        if table.mongodb is not None and table.path is None:
            load = partial(load_collection, uri, database, table)
            return Watch(name, Every(table.mongodb.refresh_seconds), load, install)
        raise ConfigError("enrichment.tables", f'"{table.name}" needs either path or mongodb')

    def _put_mmdb(self, name: str, file: MmdbFile) -> None:
        self._mmdb[name] = file
        before = self.geo
        geo = GeoTable(self._mmdb.get("geo.city"), self._mmdb.get("geo.asn"), self.settings.geo.cache_entries)
        if before is not None:
            geo.cache.lookups, geo.cache.misses = before.cache.lookups, before.cache.misses
        self.geo = geo

    async def load(self) -> None:
        """Loads everything. Raises TableError for the first table that cannot be loaded."""
        await self._reloader.first()

    async def check(self) -> list[str]:
        """Replaces what has changed on disk; the names of what was replaced. Loading takes place in a thread."""
        return await self._reloader.check()

    def statistics(self) -> list[TableStatus]:
        """One for each table, in the order of the settings."""
        return [self._status(watch) for watch in self._reloader.watches]

    def _status(self, watch: Watch[Any]) -> TableStatus:
        kind, _, name = watch.name.partition(".")
        entries = size = hits = misses = 0
        if kind == "geo":
            file = self._mmdb.get(watch.name)
            if file is not None and self.geo is not None:
                entries, size = file.nodes, file.nbytes
                hits, misses = self.geo.cache.lookups - self.geo.cache.misses, self.geo.cache.misses
        elif kind == "indicators":
            feed = self.indicators.table(name)
            if feed is not None:
                entries, size = len(feed), feed.nbytes
            hits, misses = self.indicators.hits, self.indicators.misses
        elif (table := self.tables.get(name)) is not None:
            entries, size, hits, misses = len(table), table.nbytes, table.hits, table.misses
        report = self._reports.get(watch.name) or Report()
        return TableStatus(
            name=watch.name,
            kind="table" if kind == "tables" else "geo" if kind == "geo" else "indicators",
            entries=entries,
            bytes=size,
            loaded_at_ms=watch.loaded_at_ms,
            load_seconds=watch.load_seconds,
            hits=hits,
            misses=misses,
            rows=report.rows,
            repeated=report.repeated,
            bad=report.bad,
            first_bad=report.first_bad,
            skipped=dict(report.skipped),
            problem=watch.problem,
        )
