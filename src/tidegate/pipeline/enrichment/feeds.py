"""Reads a feed of indicators: CSV, or one value a line; STIX bundles are read in `stix.py`.

Invariant: a feed is loaded whole or not at all; a line that cannot be used is counted, never fatal.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import IO

from tidegate.errors import TableError
from tidegate.pipeline.enrichment.files import Report, open_text, stem_suffix
from tidegate.pipeline.enrichment.indicators import About, IndicatorTable
from tidegate.pipeline.enrichment.settings import Columns, IndicatorFeed
from tidegate.pipeline.enrichment.stix import read_bundle
from tidegate.pipeline.enrichment.values import FeedKind, key_of
from tidegate.pipeline.functions import to_int, to_ms

__all__ = ["load_feed"]

_FORMATS = {".csv": "csv", ".json": "stix", ".stix": "stix"}

_USUAL: dict[str, tuple[str, ...]] = {
    "value": (
        *("indicator", "value", "ioc", "ioc_value", "observable", "ip", "ip_address", "dst_ip", "cidr", "network"),
        *("domain", "hostname", "fqdn", "url", "sha256", "sha256_hash", "hash", "sha1", "md5", "email"),
    ),
    "kind": ("kind", "type", "ioc_type", "indicator_type"),
    "label": ("label", "threat", "threat_type", "malware", "malware_family", "category", "tags"),
    "confidence": ("confidence", "confidence_level", "score"),
    "valid_until": ("valid_until", "expires", "expires_at", "expiration", "expiration_date"),
    "reference": ("reference", "references", "link", "source_url"),
}
"""Names that columns of feeds have, the likeliest first; in the order of `Columns`."""

_KINDS: dict[str, FeedKind | None] = {
    "": None,
    **dict.fromkeys(("ip", "ipv4", "ipv6", "ip-dst", "ip-src", "ipv4-addr", "ipv6-addr", "address"), "ip"),
    **dict.fromkeys(("ip:port", "ip-dst|port", "ip_address"), "ip"),
    **dict.fromkeys(("cidr", "subnet", "network", "netblock", "ipv4-cidr"), "cidr"),
    **dict.fromkeys(("domain", "hostname", "host", "fqdn", "domain-name"), "domain"),
    **dict.fromkeys(("url", "uri", "link"), "url"),
    **dict.fromkeys(
        ("hash", "file", "filehash", "file_hash", "filehash-md5", "filehash-sha1", "filehash-sha256"), "hash"
    ),
    **dict.fromkeys(("md5", "sha1", "sha256", "md5_hash", "sha1_hash", "sha256_hash", "sha-1", "sha-256"), "hash"),
    **dict.fromkeys(("email", "email-addr", "email-src", "email-dst", "email_address"), "email"),
}
"""What feeds call the kinds."""

Take = Callable[[int, FeedKind | None, str, About], None]
"""Takes one value, with the number of its line."""

# STIX 2.1, appendix A: None/Low/Med/High as numbers.
_CONFIDENCES = {"none": 0, "low": 15, "medium": 50, "med": 50, "high": 85}


def load_feed(path: Path, settings: IndicatorFeed) -> tuple[IndicatorTable, Report]:
    """The indicators in the file at `path`.

    Raises TableError when the file cannot be read, has no column of values, or has more than `max_entries`.
    """
    table, report = IndicatorTable(settings.feed), Report()
    entries = 0

    def take(place: int, kind: FeedKind | None, text: str, about: About) -> None:
        nonlocal entries
        report.rows += 1
        try:
            kind, key = key_of(kind, text)
        except ValueError as error:
            report.reject(f"{unit} {place}", str(error))
            return
        if not table.add(kind, key, about):
            report.repeated += 1
            return
        entries += 1
        if entries > settings.max_entries:
            raise TableError(
                f"{path}:{place}", f"more than {settings.max_entries} entries; raise max_entries of {settings.feed}"
            )

    format_ = _FORMATS.get(stem_suffix(path), "list") if settings.format == "auto" else settings.format
    unit = "object" if format_ == "stix" else "line"
    try:
        if format_ == "stix":
            read_bundle(path, settings, take, report)
        else:
            with open_text(path) as text:
                (_read_csv if format_ == "csv" else _read_list)(text, path, settings, take, report)
    except OSError as error:
        raise TableError(str(path), f"cannot be read: {error}") from error
    except OverflowError as error:
        raise TableError(str(path), "more than 4 GiB of values; split it into several feeds") from error
    if report.bad and not entries:
        raise TableError(str(path), f"not one of {report.rows} rows can be used; {report.first_bad[0]}")
    table.close()
    return table, report


def _read_list(lines: Iterable[str], path: Path, settings: IndicatorFeed, take: Take, report: Report) -> None:
    about = About(confidence=settings.confidence, label=settings.label)
    for number, line in enumerate(lines, start=1):
        text, *more = line.split(None, 1) or ("",)
        if not text or text[0] in "#;" or text.startswith("//"):
            continue
        if more and more[0].strip() and more[0][0] not in "#;":
            report.rows += 1
            report.reject(f"line {number}", f"{line[:100].strip()!r} is more than one value")
            continue
        take(number, settings.kind, text.partition("#")[0] if "://" not in text else text, about)


def _read_csv(text: IO[str], path: Path, settings: IndicatorFeed, take: Take, report: Report) -> None:
    header = settings.header
    columns = _places(header, settings.columns, str(path)) if header else None
    for line, row in _rows(text, settings.delimiter, report):
        if columns is None:
            header, columns = row, _places(row, settings.columns, f"{path}:{line}")
            continue
        if len(row) > len(header):
            report.rows += 1
            report.reject(f"line {line}", f"{len(row)} columns, where the header has {len(header)}")
            continue
        # What is not there is the last, an empty one.
        row.append("")
        while len(row) <= len(header):
            row.append("")
        value, kind, label, confidence, valid_until, reference = columns(row)
        try:
            about = About(
                confidence=_confidence(confidence) if confidence else settings.confidence,
                label=label or settings.label,
                valid_until=_time(valid_until) if valid_until else None,
                reference=reference or None,
            )
            named = settings.kind or _KINDS[kind.strip().lower()]
        except ValueError as error:
            report.rows += 1
            report.reject(f"line {line}", str(error))
        except KeyError:
            report.rows += 1
            report.reject(f"line {line}", f"unknown kind {kind[:50]!r}")
        else:
            take(line, named, value, about)


def _rows(text: IO[str], delimiter: str, report: Report) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not empty and no comments, with the number of the line on which each ends."""
    # A quote in a comment must not begin a field; an empty line in its place keeps the count of lines.
    lines = ("\n" if line[:1] == "#" else line for line in text)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    while True:
        try:
            for row in rows:
                if row and any(row):
                    yield rows.line_num, row
        except csv.Error as error:
            # A field of more than 128 kB, for one: the reader goes on with the next row.
            report.rows += 1
            report.reject(f"line {rows.line_num}", str(error))
        else:
            return


def _places(header: list[str], columns: Columns, where: str) -> Callable[[list[str]], tuple[str, ...]]:
    """Picks what a `Columns` names, in that order, from a row; what no column holds is taken from the end."""
    names = {name.strip().lower(): place for place, name in reversed(list(enumerate(header)))}
    places = []
    for wanted, usual in _USUAL.items():
        named = getattr(columns, wanted)
        if named is not None and named.lower() not in names:
            raise TableError(where, f'no column "{named}" for {wanted}; there are: {", ".join(header)}')
        found = [names[name] for name in (usual if named is None else (named.lower(),)) if name in names]
        if not found and wanted == "value":
            raise TableError(where, f"no column of values; name it in columns.value; there are: {', '.join(header)}")
        places.append(found[0] if found else -1)
    return itemgetter(*places)


@lru_cache(maxsize=1024)
def _confidence(word: str) -> int:
    number = _CONFIDENCES.get(word.strip().lower())
    if number is None:
        number = to_int(word.strip())
    if number is None or not 0 <= number <= 100:
        raise ValueError(f"{word[:50]!r} is no confidence: a number from 0 to 100 is needed")
    return number


@lru_cache(maxsize=4096)
def _time(word: str) -> int:
    ms = to_ms(word.strip().removesuffix(" UTC"))
    if ms is None:
        raise ValueError(f"{word[:50]!r} is no time")
    return ms
