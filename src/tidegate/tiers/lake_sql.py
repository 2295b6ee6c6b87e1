"""Reading the lake: its files as an Arrow dataset, and SQL over it in a DuckDB that can do nothing else.

Invariant: a query reads the table `events` and nothing more: no files, network, other tables, settings or writes.

DuckDB hands filters and columns down to the dataset, which reads just these columns (so not `event`, most of the bytes,
unless it is named), passes over row groups by their statistics, and over files by those of the Iceberg manifests.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import duckdb
import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
from pyiceberg.conversions import from_bytes
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.types import PrimitiveType

from tidegate.errors import QueryError, TierUnavailableError
from tidegate.tiers.lake_table import ARROW_SCHEMA

__all__ = ["Answer", "dataset", "find", "run"]

_BOUNDED = ("time", "class_uid", "log_sequence", "event_id", "correlation_id")
"""Columns by which whole files are passed over."""
_BATCH_ROWS = 1000
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
    "memory_limit": "512MB",
    # Without it a name that is no table would be looked up among our Python variables.
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": "2",
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool
    """There were more rows than asked for."""


def dataset(table: Table) -> ds.Dataset:
    """All rows of the table's newest snapshot."""
    io = table.io
    assert isinstance(io, PyArrowFileIO)
    parquet = ds.ParquetFileFormat()
    types = {name: table.schema().find_field(name) for name in _BOUNDED}
    filesystem = None
    fragments = []
    for task in table.scan().plan_files():
        if task.delete_files:
            raise TierUnavailableError("lake", f"{task.file.file_path} has deleted rows; rewrite it without them")
        scheme, netloc, path = io.parse_location(task.file.file_path, io.properties)
        filesystem = io.fs_by_scheme(scheme, netloc)
        bounds = [
            bound
            for name, field in types.items()
            if isinstance(field.field_type, PrimitiveType)
            for bound in _bounds(task.file, name, field.field_id, field.field_type)
        ]
        expression = functools.reduce(operator.and_, bounds) if bounds else None
        fragments.append(parquet.make_fragment(path, filesystem, partition_expression=expression))
    if filesystem is None:
        return ds.dataset(ARROW_SCHEMA.empty_table())
    return ds.FileSystemDataset(fragments, ARROW_SCHEMA, parquet, filesystem)


def _bounds(file: DataFile, name: str, field_id: int, kind: PrimitiveType) -> list[ds.Expression]:
    """What the manifest says of all values in the file."""
    lower = (file.lower_bounds or {}).get(field_id)
    upper = (file.upper_bounds or {}).get(field_id)
    arrow = ARROW_SCHEMA.field(name).type
    found = []
    if lower is not None:
        found.append(ds.field(name) >= pa.scalar(from_bytes(kind, lower), arrow))
    if upper is not None:
        found.append(ds.field(name) <= pa.scalar(from_bytes(kind, upper), arrow))
    return found


async def run(
    events: ds.Dataset, sql: str, parameters: dict[str, Any], max_rows: int, timeout_seconds: float
) -> Answer:
    """The answer to one SELECT. Raises QueryError."""
    with await anyio.to_thread.run_sync(_connect, events) as connection:
        work = asyncio.ensure_future(anyio.to_thread.run_sync(_answer, connection, sql, parameters, max_rows))
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(work)
        except TimeoutError:
            raise QueryError(f"the query took longer than {timeout_seconds:g} s; ask for less, or allow more") from None
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # What goes wrong after the first rows comes through Arrow, a failed conversion as OSError.
            raise QueryError(str(error).split("\n\n", 1)[0]) from error
        finally:
            # Repeated: an interrupt that comes just before the query starts has no effect.
            while not work.done():
                connection.interrupt()
                await asyncio.wait([work], timeout=0.05)
            if not work.cancelled():
                work.exception()


async def find(
    events: ds.Dataset,
    condition: str,
    value: str,
    limit: int,
    since_ms: int | None,
    until_ms: int | None,
    timeout_seconds: float,
) -> list[bytes]:
    """The JSON of the newest events with `condition` (SQL, in which `$value` is the value) and since <= time < until.

    First which rows, then their `event`: so the column with most of the bytes is read of a few row groups only.
    """
    sql = f"""
        SELECT log_sequence, log_index FROM events
        WHERE {condition} AND time >= $since AND time <= $until
        ORDER BY time DESC, log_sequence DESC, log_index DESC LIMIT $limit
    """  # noqa: S608
    parameters = {
        "value": value,
        "limit": limit,
        "since": _moment(since_ms, datetime.min),
        "until": _moment(until_ms, datetime.max, -1),
    }
    places = (await run(events, sql, parameters, limit, timeout_seconds)).rows
    found = await anyio.to_thread.run_sync(_events_at, events, places)
    return [found[place] for place in places]


def _moment(ms: int | None, default: datetime, microseconds: int = 0) -> datetime:
    try:
        if ms is not None:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms, microseconds=microseconds)
    except OverflowError:
        pass  # beyond what an event's time in the table can be
    return default.replace(tzinfo=UTC)


def _events_at(events: ds.Dataset, places: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], bytes]:
    sequences = {sequence for sequence, _ in places}
    if not sequences:
        return {}
    within = (ds.field("log_sequence") >= min(sequences)) & (ds.field("log_sequence") <= max(sequences))
    table = events.to_table(
        columns=["log_sequence", "log_index", "event"],
        filter=within & ds.field("log_sequence").isin(sorted(sequences)),
    )
    keys = zip(table["log_sequence"].to_pylist(), table["log_index"].to_pylist(), strict=True)
    wanted = set(places)
    return {key: event.as_py().encode() for key, event in zip(keys, table["event"], strict=True) if key in wanted}


def _connect(events: ds.Dataset) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config=_SETTINGS)
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("events", events)
    connection.execute("SET lock_configuration = true")
    return connection


def _answer(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], max_rows: int) -> Answer:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("one SELECT is allowed, and nothing else")
    # Results go through Arrow: DuckDB's own conversion of a time with a zone needs pytz.
    relation = connection.sql(statements[0], params=parameters)
    reader: pa.RecordBatchReader = relation.to_arrow_reader(_BATCH_ROWS)
    rows: list[tuple[Any, ...]] = []
    for batch in reader:
        rows += zip(*map(_values, batch.columns), strict=True)
        if len(rows) > max_rows:
            break
    return Answer(columns=reader.schema.names, rows=rows[:max_rows], truncated=len(rows) > max_rows)


def _values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        return [None if one is None else int(one) for one in values]  # sums of integers
    return values
