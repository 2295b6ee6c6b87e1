"""Settings of enrichment, as they are in TOML; `library.py` makes tables of them.

Paths are taken from the folder of the file with the settings.

    [enrichment.geo]
    city = "GeoLite2-City.mmdb"
    asn = "GeoLite2-ASN.mmdb"

    [[enrichment.indicators]]
    feed = "internal"
    path = "iocs.csv.zst"

    [[enrichment.tables]]
    name = "assets"
    path = "assets.csv"
    key = "hostname"

    [enrichment.tags]
    "10.1.0.0/16" = { site = "hq" }
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from tidegate.pipeline.enrichment.values import FeedKind

__all__ = ["Collection", "Columns", "Enrichment", "Geo", "IndicatorFeed", "KeyedTable"]

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(min_length=1)]
Confidence = Annotated[int, Meta(ge=0, le=100)]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Geo(_Table, frozen=True, kw_only=True):
    """MMDB files of MaxMind, DB-IP or IPinfo; an AS may be in the first as well."""

    city: str | None = None
    """Cities, or countries only."""
    asn: str | None = None
    cache_entries: Positive = 65_536


class Columns(_Table, frozen=True, kw_only=True):
    """The names of a CSV's columns; what is not named here is looked for under usual names."""

    value: str | None = None
    kind: str | None = None
    label: str | None = None
    confidence: str | None = None
    valid_until: str | None = None
    reference: str | None = None


class IndicatorFeed(_Table, frozen=True, kw_only=True):
    feed: Name
    """The name that is recorded with a match."""
    path: Name
    """CSV, a plain list, or a STIX 2.1 bundle; gzip and zstd are recognised."""
    format: Literal["auto", "csv", "list", "stix"] = "auto"
    """`auto` goes by the name: .csv, .json and .stix, else a list."""
    kind: FeedKind | None = None
    """Of all values, where the file does not say; else each value is judged by its looks."""
    columns: Columns = field(default_factory=Columns)
    header: list[str] = []
    """The names of the columns, for a CSV without a first line that has them."""
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    confidence: Confidence | None = None
    """For indicators that come without one."""
    label: str | None = None
    """For indicators that come without one."""
    max_entries: Positive = 5_000_000
    """A file with more is refused. A million takes about 60 MB, and while it is loaded again twice that."""


class Collection(_Table, frozen=True, kw_only=True):
    collection: Name
    database: str | None = None
    """By default Tidegate's own."""
    filter: dict[str, Any] = {}
    refresh_seconds: Seconds = 300.0


class KeyedTable(_Table, frozen=True, kw_only=True):
    """Assets, identities and the like: columns by the value of one of them."""

    name: Name
    path: str | None = None
    """CSV, JSON (a list of objects) or NDJSON, by its name; gzip and zstd are recognised."""
    mongodb: Collection | None = None
    """In place of `path`."""
    key: Name
    """The column that holds the address, host name, user or MAC address, or the network."""
    match: Literal["text", "cidr"] = "text"
    """`cidr`: keys are networks or addresses in any spelling, and an address finds the one with the longest prefix."""
    fold_case: bool = True
    columns: list[str] = []
    """The columns to keep; all by default."""
    max_rows: Positive = 1_000_000
    """A table with more is refused."""


class Enrichment(_Table, frozen=True, kw_only=True):
    geo: Geo = field(default_factory=Geo)
    indicators: list[IndicatorFeed] = []
    tables: list[KeyedTable] = []
    tags: dict[str, dict[str, str]] = {}
    """Network -> what is known of the addresses in it, unless a network inside it says otherwise."""
    indicator_cache_entries: Positive = 65_536
    """Values remembered of each kind, whether an indicator was found or not."""
