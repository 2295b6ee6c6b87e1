"""Lake: an Iceberg table of all events, a snapshot for each batch.

Invariant: the position stands in the snapshot that adds the rows, and a snapshot is only put on top of the one that the
position before it stood in.

The catalog refuses a commit whose parent is no longer the table's head, which is the fence. pyiceberg would then try
again on top of the new head; the table's settings forbid it (`lake_table.properties`), and are seen to before each
commit. pyiceberg is synchronous, so its calls run in worker threads; a cancelled `apply` may therefore still commit.
"""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import anyio.to_thread
import msgspec
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyiceberg import exceptions
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.io import FileIO
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from requests import Session
from requests.exceptions import RequestException

from tidegate.config import S3, Catalog, Lake
from tidegate.errors import FencedError, PositionError, QueryError, TierUnavailableError
from tidegate.head import normalise
from tidegate.projection import Position, Record, Recorded, Tally
from tidegate.tiers import lake_check, lake_rows, lake_sql, lake_table
from tidegate.tiers.lake_rows import Rows
from tidegate.tiers.lake_sql import Answer

__all__ = ["LakeTier"]

# Away, slow or refusing; pyarrow raises OSError for all that goes wrong with S3.
UNAVAILABLE = (
    OSError,
    RequestException,
    exceptions.NoSuchNamespaceError,
    exceptions.NoSuchTableError,
    exceptions.RESTError,
)

_CELL = "all"
_PREFIX = "tidegate."
_WRITER = "tidegate.writer"
_MAX_SNAPSHOTS = 200
_KEPT_SNAPSHOTS = 100
_OPEN_ATTEMPTS = 5


class _Catalog(RestCatalog):
    """With a timeout: pyiceberg has none of its own, and would wait forever for a catalog that hangs."""

    def _create_session(self) -> Session:
        session = super()._create_session()
        timeout_seconds = float(self.properties["tidegate.timeout-seconds"])
        session.request = functools.partial(session.request, timeout=(3.0, timeout_seconds))  # type: ignore[method-assign]
        return session


class LakeTier:
    """The lake. `generation` keeps several of them apart in one namespace: 1 is the table itself, 2 is `<table>_2`."""

    name = "lake"
    by_shard = False

    def __init__(
        self,
        uri: str,
        endpoint: str,
        *,
        catalog: Catalog,
        s3: S3,
        settings: Lake,
        generation: int = 1,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._namespace = catalog.namespace
        self._base = catalog.table
        self.keeps_ms: int | None = None
        table = catalog.table if generation == 1 else f"{catalog.table}_{generation}"
        self._identifier = (catalog.namespace, table)
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._properties = {
            "uri": uri,
            "warehouse": catalog.warehouse,
            "py-io-impl": f"{lake_table.__name__}.{lake_table.KeepingFileIO.__name__}",
            "s3.endpoint": endpoint,
            "s3.access-key-id": s3.access_key,
            "s3.secret-access-key": s3.secret_key,
            "s3.region": s3.region,
            "s3.connect-timeout": "3",
            "s3.request-timeout": str(timeout_seconds),
            "tidegate.timeout-seconds": str(timeout_seconds),
        }
        if catalog.sigv4:
            self._properties |= {
                "rest.sigv4-enabled": "true",
                "rest.sigv4.max-retries": "0",
                "rest.signing-name": "s3tables",
                "rest.signing-region": s3.region,
                "client.access-key-id": s3.access_key,
                "client.secret-access-key": s3.secret_key,
                "client.region": s3.region,
            }
        self._catalog: _Catalog | None = None

    async def open(self) -> None:
        await anyio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        with self._reaching():
            for attempt in range(_OPEN_ATTEMPTS):
                try:
                    self._open_once()
                except exceptions.ServerError:
                    # SeaweedFS 4 answers 500 ("attribute not found") while another client makes the same namespace.
                    if attempt == _OPEN_ATTEMPTS - 1:
                        raise
                    time.sleep(0.1 * (attempt + 1))
                else:
                    return

    def _open_once(self) -> None:
        catalog = self._opened()
        try:
            table = catalog.load_table(self._identifier)
        except exceptions.NoSuchTableError:
            table = self._create(catalog)
        lake_table.check(table)
        self._adjust(table)

    def _adjust(self, table: Table) -> None:
        wanted = lake_table.properties(self._settings)
        if not wanted.items() <= table.properties.items():
            with table.transaction() as change:
                change.set_properties(wanted)

    def _create(self, catalog: RestCatalog) -> Table:
        catalog.create_namespace_if_not_exists(self._namespace)
        table: Table
        try:
            table = catalog.create_table(
                self._identifier,
                lake_table.SCHEMA,
                partition_spec=lake_table.PARTITIONS,
                properties=lake_table.properties(self._settings),
            )
        except exceptions.TableAlreadyExistsError:
            table = catalog.load_table(self._identifier)  # made by another one that opened at the same time
        return table

    async def aclose(self) -> None:
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None

    async def position(self, cell: str) -> Position | None:
        return _position(await anyio.to_thread.run_sync(self._load))

    def project(self, frames: Sequence[Recorded]) -> tuple[Rows, Rows]:
        return lake_rows.collect(frames)

    async def apply(self, cell: str, writes: tuple[Rows, Rows], expected: Position | None, new: Position) -> None:
        await anyio.to_thread.run_sync(self._apply, writes, expected, new)

    def _apply(self, writes: tuple[Rows, Rows], expected: Position | None, new: Position) -> None:
        """1. The table's head must stand for `expected`. 2. Write files. 3. Commit them on top of that very head."""
        table = self._load()
        if (stored := _position(table)) != expected:
            raise FencedError(_CELL, f"the table stands at {stored}, not at {expected}")
        with self._reaching():
            self._adjust(table)
            _forget_old_snapshots(table)
        writer = uuid.uuid4().hex
        fields = msgspec.to_builtins(new)
        marks = {f"{_PREFIX}{key}": str(value) for key, value in fields.items() if value is not None}
        marks[_WRITER] = writer
        try:
            with self._reaching():
                _append(table, *writes, marks)
        except exceptions.CommitFailedException as error:
            if not self._has_landed(writer):
                raise FencedError(_CELL, f"another writer has committed on top of {expected}") from error
        except TierUnavailableError:
            # The answer may have been lost. If the catalog still acts upon it later, the next `apply` is fenced.
            if not self._has_landed(writer):
                raise

    def _has_landed(self, writer: str) -> bool:
        table = self._load()
        return any(_mark(one, _WRITER) == writer for one in ancestors_of(table.current_snapshot(), table.metadata))

    async def tally(self) -> Tally:
        return await anyio.to_thread.run_sync(self._tally)

    def _tally(self) -> Tally:
        count = digest = 0
        table = self._load()
        with self._reaching():
            for batch in lake_sql.dataset(table).to_batches(columns=["crc"]):
                count += batch.num_rows
                digest += pc.sum(batch["crc"]).as_py() or 0
        return Tally(count=count, digest=digest % 2**64)

    async def frames(self, first: int, last: int, *, deep: bool = True) -> dict[int, Tally]:
        """Counted from the events themselves, not from the column `crc`."""
        return await anyio.to_thread.run_sync(lambda: lake_check.frames(self._load_dataset(), first, last))

    async def records(self, sequence: int) -> list[Record]:
        return await anyio.to_thread.run_sync(lambda: lake_check.records(self._load_dataset(), sequence))

    async def repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        """Two commits: take out, put in. An `apply` at the same time is fenced and comes again."""
        await anyio.to_thread.run_sync(self._repair, frames, extra)

    def _repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        with self._reaching():
            lake_check.take_out(self._load(), [*extra, *(one.sequence for one in frames)])
            if frames:
                _append(self._load(), *lake_rows.collect(frames), {})

    async def generations(self) -> list[int]:
        return await anyio.to_thread.run_sync(self._generations)

    def _generations(self) -> list[int]:
        catalog = self._opened()
        with self._reaching():
            names = [name for _, name in catalog.list_tables(self._namespace)]
        prefix = f"{self._base}_"
        later = [int(one.removeprefix(prefix)) for one in names if one.removeprefix(prefix).isdecimal()]
        return sorted([*([1] if self._base in names else []), *later])

    async def drop(self) -> None:
        await anyio.to_thread.run_sync(self._drop)

    def _drop(self) -> None:
        catalog = self._opened()
        with self._reaching(), contextlib.suppress(exceptions.NoSuchTableError):
            catalog.purge_table(self._identifier)

    def _opened(self) -> _Catalog:
        if self._catalog is None:
            self._catalog = _Catalog("tidegate", **self._properties)
        return self._catalog

    def _load_dataset(self) -> ds.Dataset:
        return lake_sql.dataset(self._load())

    async def query(self, sql: str, *, max_rows: int = 1000, timeout_seconds: float = 30.0) -> Answer:
        """The answer to one SELECT over the table `events`. Raises QueryError for anything else, a mistake in it, or
        when it takes too long or too much memory."""
        events = await self._dataset()
        try:
            return await lake_sql.run(events, sql, {}, max_rows, timeout_seconds)
        except QueryError:
            await self._dataset()  # when S3 is away it fails too, and the query is not to blame
            raise

    async def get(self, event_id: str) -> bytes | None:
        """The JSON of the newest event with this id."""
        found = await self._find("event_id = $value", event_id, 1, None, None)
        return found[0] if found else None

    async def by_correlation(
        self, correlation_id: str, limit: int = 100, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[bytes]:
        """The JSON of events with this correlation id and since <= event time < until, newest first."""
        return await self._find("correlation_id = $value", correlation_id, limit, since_ms, until_ms)

    async def by_observable(
        self, value: str, limit: int = 100, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[bytes]:
        """The JSON of events in which `value` was observed and with since <= event time < until, newest first."""
        return await self._find("list_contains(observables, $value)", normalise(value), limit, since_ms, until_ms)

    async def _find(
        self, condition: str, value: str, limit: int, since_ms: int | None, until_ms: int | None
    ) -> list[bytes]:
        events = await self._dataset()
        try:
            return await lake_sql.find(events, condition, value, limit, since_ms, until_ms, self._timeout_seconds)
        except QueryError as error:  # not the asker's fault: the query is ours
            raise TierUnavailableError(self.name, str(error)) from error
        except OSError as error:
            raise TierUnavailableError(self.name, f"{type(error).__name__}: {error}") from error

    async def _dataset(self) -> ds.Dataset:
        return await anyio.to_thread.run_sync(self._plan)

    def _plan(self) -> ds.Dataset:
        table = self._load()
        with self._reaching():
            return lake_sql.dataset(table)

    def _load(self) -> Table:
        if self._catalog is None:
            raise TierUnavailableError(self.name, "it is not open")
        with self._reaching():
            table: Table = self._catalog.load_table(self._identifier)
        return table

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except UNAVAILABLE as error:
            raise TierUnavailableError(self.name, f"{type(error).__name__}: {error}") from error


def _append(table: Table, partitioned: Rows, spread: Rows, marks: dict[str, str]) -> None:
    """All rows in one commit; those that are spread too thinly go in first, unpartitioned."""
    with table.transaction() as change:
        if spread:
            with change.update_spec() as spec:
                for field in lake_table.PARTITIONS.fields:
                    spec.remove_field(field.name)
            _add(change, spread, table.io, marks)
            with change.update_spec() as spec:
                for field in lake_table.PARTITIONS.fields:
                    column = lake_table.SCHEMA.find_field(field.source_id).name
                    spec.add_field(column, field.transform, field.name)
        _add(change, partitioned, table.io, marks)


def _add(change: Transaction, rows: Rows, io: FileIO, marks: dict[str, str]) -> None:
    with change.update_snapshot(snapshot_properties=marks).merge_append() as snapshot:
        for file in lake_rows.write(rows, change.table_metadata, io):
            snapshot.append_data_file(file)


def _forget_old_snapshots(table: Table) -> None:
    """Every commit sends and stores the list of all snapshots; each is about a kilobyte of it."""
    snapshots = sorted(table.metadata.snapshots, key=lambda one: one.timestamp_ms)
    if len(snapshots) > _MAX_SNAPSHOTS:
        oldest = snapshots[-_KEPT_SNAPSHOTS]
        kept_from = datetime.fromtimestamp(oldest.timestamp_ms / 1000, UTC)
        table.maintenance.expire_snapshots().older_than(kept_from).commit()


def _mark(snapshot: Snapshot, name: str) -> str | None:
    return snapshot.summary.additional_properties.get(name) if snapshot.summary else None


def _position(table: Table) -> Position | None:
    """As the newest snapshot that has one says; one made by maintenance has none and changes no rows."""
    head = table.current_snapshot()
    if head is None:
        return None
    for snapshot in ancestors_of(head, table.metadata):
        marks = {name: _mark(snapshot, _PREFIX + name) for name in Position.__struct_fields__}
        values = {name: mark for name, mark in marks.items() if mark is not None}
        if "sequence" in values:
            return msgspec.convert(values, Position, strict=False)
    raise PositionError(f"no snapshot of {'.'.join(table.name())} has a position: its rows are not from a log")
