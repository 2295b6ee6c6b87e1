"""Tables of assets, identities and networks: the columns that belong to a host, a user or an address.

Invariant: a table is loaded whole or not at all, and not changed afterwards.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from sys import getsizeof
from typing import Any

import msgspec

from tidegate.errors import TableError
from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.enrichment.files import Report, open_text, read_all, stem_suffix
from tidegate.pipeline.enrichment.networks import Networks
from tidegate.pipeline.enrichment.settings import KeyedTable
from tidegate.pipeline.enrichment.values import ip_key, network_key

__all__ = ["NetworkTags", "TextTable", "load_collection", "load_table", "tags_of"]

Row = Mapping[str, Any]
_CACHED = 65_536


class TextTable:
    """Rows by the text of their key. `lookup` shares the row: it is not to be changed."""

    def __init__(self, rows: dict[str, Row], fold_case: bool) -> None:
        self._rows = rows
        self._fold_case = fold_case
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def nbytes(self) -> int:
        """About how many bytes the rows take."""
        return getsizeof(self._rows) + sum(getsizeof(key) + _size_of(row) for key, row in self._rows.items())

    def lookup(self, key: str) -> Row | None:
        found = self._rows.get(key.lower() if self._fold_case else key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found


class NetworkTags:
    """Rows by network; an address finds that of the longest prefix."""

    def __init__(self, rows: Mapping[bytes, Row]) -> None:
        self._rows = list(rows.values())
        self._networks = Networks({key: number for number, key in enumerate(rows)})
        self._cache: Cached[Row | None] = Cached(self._find, _CACHED)
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._networks)

    @cached_property
    def nbytes(self) -> int:
        """About how many bytes the networks and their rows take."""
        return self._networks.nbytes + sum(map(_size_of, self._rows))

    def lookup(self, key: str) -> Row | None:
        found = self._cache[key]
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def _find(self, ip: str) -> Row | None:
        address = ip_key(ip)
        if address is not None:
            for _, number in self._networks.find(address):
                return self._rows[number]
        return None


def _size_of(row: Row) -> int:
    return getsizeof(row) + sum(map(getsizeof, row.values()))


def tags_of(tags: Mapping[str, Row]) -> NetworkTags:
    """Raises TableError for a key that is no network."""
    rows = {}
    for text, row in tags.items():
        key = network_key(text)
        if key is None:
            raise TableError("enrichment.tags", f"{text!r} is no network such as 10.1.0.0/16")
        rows[key] = row
    return NetworkTags(rows)


def load_table(path: Path, settings: KeyedTable) -> tuple[TextTable | NetworkTags, Report]:
    """The table in the file at `path`. Raises TableError when it cannot be read, lacks the key, or is too large."""
    report = Report()
    rows = _read_csv if stem_suffix(path) == ".csv" else _read_json
    try:
        return _collect(rows(path, settings, report), str(path), settings, report), report
    except OSError as error:
        raise TableError(str(path), f"cannot be read: {error}") from error


def load_collection(
    uri: str, database: str, settings: KeyedTable, timeout_seconds: float = 5.0
) -> tuple[TextTable | NetworkTags, Report]:
    """The table in a collection of MongoDB, read as a whole. Raises TableError when that cannot be done.

    Blocks: run it in a thread.
    """
    # Only here: processes without such a table do without the driver.
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    source = settings.mongodb
    assert source is not None, "the table is not of MongoDB"
    name = source.database or database
    fields = {"_id": settings.key == "_id", **dict.fromkeys((settings.key, *settings.columns), True)}
    report = Report()
    where = f"mongodb:{name}.{source.collection}"
    client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=int(timeout_seconds * 1000))
    try:
        documents = client[name][source.collection].find(
            source.filter, fields if settings.columns else {"_id": settings.key == "_id"}
        )
        found = (
            (f"document {place}", msgspec.to_builtins(one, enc_hook=_plain)) for place, one in enumerate(documents, 1)
        )
        return _collect(found, where, settings, report), report
    except PyMongoError as error:
        raise TableError(where, f"cannot be read: {error}") from error
    finally:
        client.close()


def _plain(value: Any) -> int | str:
    """BSON's own types, such as ObjectId, as text; its Int64 is an int already."""
    return int(value) if isinstance(value, int) else str(value)


def _collect(
    rows: Iterable[tuple[str, Row]], where: str, settings: KeyedTable, report: Report
) -> TextTable | NetworkTags:
    by_text: dict[str, Row] = {}
    by_network: dict[bytes, Row] = {}
    wanted = settings.columns
    for place, row in rows:
        report.rows += 1
        if report.rows > settings.max_rows:
            raise TableError(where, f"more than {settings.max_rows} rows; raise max_rows of {settings.name}")
        value = row.get(settings.key)
        text = value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""
        if not text:
            report.reject(place, f'no usable "{settings.key}"')
            continue
        kept = {name: row[name] for name in wanted if name in row} if wanted else dict(row)
        kept = {name: each for name, each in kept.items() if each not in (None, "")}
        before = len(by_text) + len(by_network)
        if settings.match == "cidr":
            network = network_key(text)
            if network is None:
                report.reject(place, f"{text[:100]!r} is no network")
                continue
            by_network[network] = kept
        else:
            by_text[text.lower() if settings.fold_case else text] = kept
        report.repeated += len(by_text) + len(by_network) == before
    if report.bad and report.bad == report.rows:
        raise TableError(where, f"not one of {report.rows} rows can be used; {report.first_bad[0]}")
    return NetworkTags(by_network) if settings.match == "cidr" else TextTable(by_text, settings.fold_case)


def _read_csv(path: Path, settings: KeyedTable, report: Report) -> Iterator[tuple[str, Row]]:
    with open_text(path) as text:
        rows = csv.DictReader(text, skipinitialspace=True)
        names = rows.fieldnames or []
        for name in (settings.key, *settings.columns):
            if name not in names:
                raise TableError(f"{path}:1", f'no column "{name}"; there are: {", ".join(names)}')
        try:
            for row in rows:
                if None in row:
                    report.rows += 1
                    report.reject(f"line {rows.line_num}", f"more than the {len(names)} columns of the header")
                else:
                    yield f"line {rows.line_num}", row
        except csv.Error as error:
            raise TableError(f"{path}:{rows.line_num}", str(error)) from error


def _read_json(path: Path, settings: KeyedTable, report: Report) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON list, or one on each line."""
    content = read_all(path)
    if content.lstrip()[:1] == b"[":
        try:
            pieces = [bytes(raw) for raw in msgspec.json.decode(content, type=list[msgspec.Raw])]
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise TableError(str(path), f"is not JSON: {error}") from error
        unit = "object"
    else:
        pieces, unit = content.splitlines(), "line"
    for place, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            row = msgspec.json.decode(piece, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            report.rows += 1
            report.reject(f"{unit} {place}", str(error))
            continue
        yield f"{unit} {place}", row
