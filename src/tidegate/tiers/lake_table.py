"""The lake's table: its columns, its partitions and its settings.

Invariant: the columns here and those of an existing table fit, or it is not written to.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from tidegate.config import Lake
from tidegate.errors import TierUnavailableError

__all__ = ["ARROW_SCHEMA", "PARTITIONS", "SCHEMA", "KeepingFileIO", "check", "properties"]

_TYPES: dict[type[IcebergType], pa.DataType] = {
    IntegerType: pa.int32(),
    LongType: pa.int64(),
    StringType: pa.string(),
    TimestamptzType: pa.timestamp("us", tz="UTC"),
}
_COLUMNS: list[tuple[str, type[IcebergType], bool]] = [
    ("log_sequence", LongType, True),
    ("log_index", IntegerType, True),
    ("shard", IntegerType, True),
    ("crc", LongType, True),
    ("time", TimestamptzType, True),
    ("class_uid", IntegerType, True),
    ("category_uid", IntegerType, True),
    ("activity_id", IntegerType, True),
    ("type_uid", LongType, True),
    ("severity_id", IntegerType, True),
    ("event_id", StringType, True),
    ("correlation_id", StringType, True),
    ("source", StringType, True),
    ("src_ip", StringType, False),
    ("src_port", IntegerType, False),
    ("dst_ip", StringType, False),
    ("dst_port", IntegerType, False),
    ("user_name", StringType, False),
    ("hostname", StringType, False),
    ("event", StringType, True),
]
_OBSERVABLES = len(_COLUMNS) + 1

SCHEMA = Schema(
    *(
        NestedField(field_id, name, kind(), required=required)
        for field_id, (name, kind, required) in enumerate(_COLUMNS, 1)
    ),
    NestedField(
        _OBSERVABLES,
        "observables",
        ListType(_OBSERVABLES + 1, StringType(), element_required=True),
        required=True,
        doc="everything seen in the event, normalised to lower case",
    ),
)
ARROW_SCHEMA = pa.schema(
    [
        *(
            # `event` with 64-bit offsets: those of a whole commit may exceed 2 GB.
            pa.field(name, pa.large_string() if name == "event" else _TYPES[kind], nullable=not required)
            for name, kind, required in _COLUMNS
        ),
        pa.field("observables", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
    ]
)
PARTITIONS = PartitionSpec(
    PartitionField(SCHEMA.find_field("time").field_id, 1000, DayTransform(), "time_day"),
    PartitionField(SCHEMA.find_field("class_uid").field_id, 1001, IdentityTransform(), "class_uid"),
)


def properties(settings: Lake) -> dict[str, str]:
    """The table's settings."""
    return {
        # pyiceberg repeats a refused commit on top of what the other writer has done, which would break the fence.
        "commit.retry.num-retries": "0",
        # A commit adds a manifest; merged when there are so many, so that planning a scan does not slow down.
        "commit.manifest-merge.enabled": "true",
        "commit.manifest.min-count-to-merge": "50",
        "write.metadata.delete-after-commit.enabled": "true",
        "write.metadata.previous-versions-max": "20",
        "write.target-file-size-bytes": str(settings.target_file_bytes),
        # Small groups of rows let a lookup skip most of a file; the dictionary of a column of unique values is given
        # up early.
        "write.parquet.row-group-limit": "32768",
        "write.parquet.dict-size-bytes": "131072",
        "write.metadata.metrics.column.event": "none",
        "write.metadata.metrics.column.observables.element": "none",
    }


def check(table: Table) -> None:
    """Raises TierUnavailableError when the table cannot take our rows."""
    name = ".".join(table.name())
    for field in SCHEMA.fields:
        try:
            there = table.schema().find_field(field.name)
        except ValueError:
            raise TierUnavailableError("lake", f"{name} is another table: it has no column {field.name}") from None
        if str(there.field_type) != str(field.field_type):
            raise TierUnavailableError(
                "lake", f"{name} is another table: {field.name} is {there.field_type}, not {field.field_type}"
            )
    extra = [field.name for field in table.schema().fields if field.required and field.name not in ARROW_SCHEMA.names]
    if extra:
        raise TierUnavailableError("lake", f"{name} is another table: it asks for {', '.join(extra)}")
    if [(one.name, str(one.transform)) for one in table.spec().fields] != [
        (one.name, str(one.transform)) for one in PARTITIONS.fields
    ]:
        raise TierUnavailableError("lake", f"{name} is another table: it is partitioned by {table.spec()}")


class KeepingFileIO(PyArrowFileIO):
    """Deletes nothing: when a commit is answered with a conflict, pyiceberg deletes what it has written for it, even if
    the conflict is with the commit's own first try, repeated on the way to the catalog."""

    def delete(self, location: Any) -> None:
        """Leaves an orphan, some kilobytes for each refused commit."""
