"""Parquet: a batch of records as one file, and back. For files from sources that are trusted, not for frames.

Invariant: a record is one row with a column for each field; what no column type fits is JSON text. Columns without any
value are left out of the file, so read several files with `union_by_name`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.codec.shape import Field, Kind, Packer, Record, describe, to_struct
from tidegate.errors import CodecError

__all__ = ["arrow_schema", "decode", "encode"]

T = TypeVar("T", bound=msgspec.Struct)

MAX_RECORDS = 1_000_000

_TYPES: dict[Kind, pa.DataType] = {
    "boolean": pa.bool_(),
    "double": pa.float64(),
    "json": pa.string(),
    "long": pa.int64(),
    "string": pa.string(),
}


def _is_text(field: Field) -> bool:
    return field.kind == "json" or len(field.kinds) > 1


@cache
def _packer(struct: type[msgspec.Struct]) -> Packer:
    return Packer(describe(struct), _is_text)


def _arrow(field: Field) -> pa.Field:
    kind = pa.struct(_fields(field.record)) if field.record is not None else _TYPES[field.kind]
    if _is_text(field):
        kind = pa.string()
    return pa.field(field.name, pa.list_(kind) if field.repeated else kind, nullable=field.optional)


def _fields(record: Record) -> list[pa.Field]:
    return [_arrow(field) for field in record.fields]


@cache
def arrow_schema(struct: type[msgspec.Struct]) -> pa.Schema:
    """The columns of a Struct."""
    return pa.schema(_fields(describe(struct)))


def encode(kind: type[T], values: Sequence[T]) -> bytes:
    """A file with these records. Raises CodecError for a value that has no place in its column."""
    out = io.BytesIO()
    try:
        rows = [_packer(kind).pack(value) for value in values]
        present = {name for row in rows for name in row}
        schema = pa.schema([one for one in arrow_schema(kind) if not one.nullable or one.name in present])
        pq.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd")
    except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError("parquet", f"not encodable: {error}") from error
    return out.getvalue()


def decode(kind: type[T], payload: bytes, *, max_records: int = MAX_RECORDS) -> list[T]:
    """The records of a file. Raises CodecError."""
    try:
        file = pq.ParquetFile(io.BytesIO(payload))
        if file.metadata.num_rows > max_records:
            raise CodecError("parquet", f"more than {max_records} records; write smaller files")
        rows: list[dict[str, Any]] = file.read().to_pylist()
    except (pa.ArrowException, OSError, TypeError, ValueError, OverflowError) as error:
        raise CodecError("parquet", f"not a readable Parquet file: {error}") from error
    return to_struct("parquet", _packer(kind), kind, rows)
