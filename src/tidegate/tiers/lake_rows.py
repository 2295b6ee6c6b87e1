"""Frames as rows of the lake's table, and as data files.

Invariant: every event becomes exactly one row, however odd its fields; the column `event` keeps the truth.

Partitions are day(time) and class_uid. A file holds rows of one partition and takes about 5 ms to write, so a commit of
events that are spread over many days would take long: beyond MAX_PARTITIONS, the smallest partitions of a commit share
unpartitioned files, by a second partition spec of the same table. Their time range still stands in their statistics.
"""

from __future__ import annotations

import itertools
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import bin_pack_arrow_table, pyarrow_to_schema, write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import WriteTask
from pyiceberg.table.metadata import TableMetadata

from tidegate.head import Endpoint, EventHead, decode_heads, seen_in
from tidegate.projection import Recorded
from tidegate.tiers.lake_table import ARROW_SCHEMA

__all__ = ["Rows", "collect", "write"]

MAX_PARTITIONS = 256
_GROUP_ROWS = 2048

Partition = tuple[int, int]
"""Days since 1970, class_uid."""
Rows = Mapping[Partition | None, Sequence[pa.RecordBatch]]

# 0001-01-01 and the last millisecond of 9999: what Iceberg's day partitions, and most readers, can express.
_MIN_MS, _MAX_MS = -62_135_596_800_000, 253_402_300_799_999
_DAY_MS = 86_400_000
_MIN_DAY, _MAX_DAY = _MIN_MS // _DAY_MS, _MAX_MS // _DAY_MS


class Row(EventHead, frozen=True, kw_only=True, gc=False):
    """What the columns are filled from."""

    category_uid: int = 0
    activity_id: int = 0
    type_uid: int = 0


_DECODER = msgspec.json.Decoder(Row)
_NOWHERE = Endpoint()


def _rows(lines: Sequence[bytes]) -> list[Row]:
    try:
        return list(map(_DECODER.decode, lines))
    except msgspec.ValidationError:
        return [_row(line) for line in lines]


def _row(line: bytes) -> Row:
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError:
        (head,) = decode_heads([line])
        return Row(**msgspec.structs.asdict(head))


def collect(frames: Sequence[Recorded]) -> tuple[Rows, Rows]:
    """The rows of the largest MAX_PARTITIONS partitions, and those of all others, under None."""
    rows: defaultdict[Partition, list[pa.RecordBatch]] = defaultdict(list)
    for group in _groups(frames):
        for partition, batch in _batches(group):
            rows[partition].append(batch)
    largest = sorted(rows, key=lambda key: sum(batch.num_rows for batch in rows[key]), reverse=True)
    spread = [batch for key in sorted(largest[MAX_PARTITIONS:]) for batch in rows[key]]
    return {key: rows[key] for key in sorted(largest[:MAX_PARTITIONS])}, {None: spread} if spread else {}


def _groups(frames: Sequence[Recorded]) -> Iterator[list[Recorded]]:
    """Frames that become columns together: of small ones by themselves, the columns would cost more than the rows."""
    group: list[Recorded] = []
    count = 0
    for one in frames:
        group.append(one)
        count += one.count
        if count >= _GROUP_ROWS:
            yield group
            group, count = [], 0
    if group:
        yield group


def _batches(group: Sequence[Recorded]) -> Iterator[tuple[Partition, pa.RecordBatch]]:
    """The rows of these frames, by partition; they are put in order before they become columns, which saves a copy."""
    places: list[tuple[int, int, int]] = []
    lines: list[bytes] = []
    for one in group:
        of_frame = one.lines()
        places += ((one.sequence, index, one.shard) for index in range(len(of_frame)))
        lines += of_frame
    rows = _rows(lines)
    keys = [(row.time // _DAY_MS, row.class_uid) for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    whole = _batch(
        [places[index] for index in order], [rows[index] for index in order], [lines[index] for index in order]
    )
    start = 0
    for (day, class_uid), run in itertools.groupby(keys[index] for index in order):
        count = sum(1 for _ in run)
        partition = max(_MIN_DAY, min(day, _MAX_DAY)), max(-(2**31), min(class_uid, 2**31 - 1))
        yield partition, whole.slice(start, count)
        start += count


def _batch(places: list[tuple[int, int, int]], rows: list[Row], lines: list[bytes]) -> pa.RecordBatch:
    sequences, indexes, shards = zip(*places, strict=True)
    sources = [row.src_endpoint or _NOWHERE for row in rows]
    targets = [row.dst_endpoint or _NOWHERE for row in rows]
    devices = [row.device or _NOWHERE for row in rows]
    columns = [
        pa.array(sequences, pa.int64()),
        pa.array(indexes, pa.int32()),
        pa.array(shards, pa.int32()),
        pa.array(list(map(zlib.crc32, lines)), pa.int64()),
        _times([row.time for row in rows]),
        _integers([row.class_uid for row in rows], pa.int32()),
        _integers([row.category_uid for row in rows], pa.int32()),
        _integers([row.activity_id for row in rows], pa.int32()),
        _integers([row.type_uid for row in rows], pa.int64()),
        _integers([row.severity_id for row in rows], pa.int32()),
        [row.metadata.uid for row in rows],
        [row.metadata.correlation_uid for row in rows],
        [row.source for row in rows],
        [endpoint.ip for endpoint in sources],
        _integers([endpoint.port for endpoint in sources], pa.int32()),
        [endpoint.ip for endpoint in targets],
        _integers([endpoint.port for endpoint in targets], pa.int32()),
        [row.user_name for row in rows],
        [endpoint.hostname for endpoint in devices],
        lines,
        [sorted(seen_in(row)) for row in rows],
    ]
    arrays = [
        pa.array(column, field.type) if isinstance(column, list) else column
        for column, field in zip(columns, ARROW_SCHEMA, strict=True)
    ]
    return pa.record_batch(arrays, schema=ARROW_SCHEMA)


def _integers(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values beyond the type become its nearest one."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):
        bound = 2 ** (kind.bit_width - 1)
        return pa.array([one if one is None else max(-bound, min(one, bound - 1)) for one in values], kind)


def _times(values: list[int]) -> pa.Array:
    """Microseconds; times beyond the years 1 and 9999 become the first and the last moment of them."""
    if min(values) < _MIN_MS or max(values) > _MAX_MS:
        values = [max(_MIN_MS, min(one, _MAX_MS)) for one in values]
    return pa.array(values, pa.timestamp("ms", tz="UTC")).cast(ARROW_SCHEMA.field("time").type)


def write(rows: Rows, metadata: TableMetadata, io: FileIO) -> Iterator[DataFile]:
    """Write the rows of each partition to files of about the table's target size, several at a time."""
    schema = pyarrow_to_schema(ARROW_SCHEMA, name_mapping=metadata.schema().name_mapping)
    target_bytes = int(metadata.properties["write.target-file-size-bytes"])
    write_id = uuid.uuid4()
    numbers = itertools.count()
    tasks = (
        WriteTask(
            write_uuid=write_id,
            task_id=next(numbers),
            schema=schema,
            record_batches=batches,
            partition_key=_key(partition, metadata) if partition else None,
        )
        for partition, of_partition in rows.items()
        for batches in bin_pack_arrow_table(pa.Table.from_batches(of_partition).combine_chunks(), target_bytes)
    )
    return write_file(io, metadata, tasks)


def _key(partition: Partition, metadata: TableMetadata) -> PartitionKey:
    spec = metadata.spec()
    values = [
        PartitionFieldValue(field=field, value=value) for field, value in zip(spec.fields, partition, strict=True)
    ]
    return PartitionKey(field_values=values, partition_spec=spec, schema=metadata.schema())
