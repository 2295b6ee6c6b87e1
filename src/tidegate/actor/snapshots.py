"""Snapshots: the states of one cell as of a place in the log, in an object store, so that recovery reads only the rest.

Invariant: a snapshot only ever saves time. One that is missing, damaged, of another log, of a newer format or of
states with another shape is passed over, and everything is folded from the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import zstandard

from tidegate import telemetry
from tidegate.actor.entity import Entity
from tidegate.errors import BusError, BusUnavailableError

__all__ = ["BUCKET", "Objects", "Snapshot", "Snapshots"]

BUCKET = "tidegate-snapshots"
FORMAT = 2


class Objects(Protocol):
    """Where snapshots are kept."""

    async def put_object(self, bucket: str, name: str, data: bytes) -> None: ...

    async def get_object(self, bucket: str, name: str) -> bytes | None: ...


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The states of one cell, before they are decoded."""

    format: int
    shape: str
    """Digest of the JSON Schema of the states."""
    created: str
    """Creation time of the log."""
    sequence: int
    """Changes up to here are in it."""
    changes: int
    """How many there were since the beginning."""
    commands: list[tuple[str, int]]
    """The latest command ids, oldest first, with the version each led to."""
    entities: msgspec.Raw
    """List of (id, version, state)."""


class Snapshots:
    """Those of one cell."""

    def __init__(self, objects: Objects, entity: Entity[Any, Any, Any], cell: str) -> None:
        self._objects = objects
        self._cell = cell
        self._rows = msgspec.msgpack.Decoder(list[tuple[str, int, entity.state]])  # type: ignore[name-defined]
        schema = msgspec.json.encode(msgspec.json.schema(entity.state), order="sorted")
        self._shape = hashlib.blake2b(schema, digest_size=8).hexdigest()

    def encode(
        self,
        created: str,
        sequence: int,
        changes: int,
        entities: Mapping[str, tuple[int, Any]],
        commands: list[tuple[str, int]],
    ) -> bytes:
        """Runs in a worker thread: nothing it is given may change meanwhile."""
        rows = [(name, version, state) for name, (version, state) in entities.items()]
        snapshot = Snapshot(
            format=FORMAT,
            shape=self._shape,
            created=created,
            sequence=sequence,
            changes=changes,
            commands=commands,
            entities=msgspec.Raw(msgspec.msgpack.encode(rows)),
        )
        return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(msgspec.msgpack.encode(snapshot))

    async def store(self, data: bytes) -> None:
        await self._objects.put_object(BUCKET, self._cell, data)

    async def newest(self, created: str, upto: int) -> tuple[Snapshot, dict[str, tuple[int, Any]]] | None:
        """The snapshot and its entities (id -> version, state), of this log and not beyond `upto`; else None."""
        try:
            data = await self._objects.get_object(BUCKET, self._cell)
            if data is None:
                return None
            snapshot = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data), type=Snapshot)
            if snapshot.format != FORMAT:
                reason = f"it has format {snapshot.format}, this version reads {FORMAT}"
            elif snapshot.shape != self._shape:
                reason = "the states had another shape then"
            elif snapshot.created != created or snapshot.sequence > upto:
                reason = "it belongs to another log"
            else:
                rows = self._rows.decode(snapshot.entities)
                return snapshot, {name: (version, state) for name, version, state in rows}
        except (zstandard.ZstdError, msgspec.MsgspecError, BusError) as error:
            reason = f"it is damaged: {error}"
        except BusUnavailableError as error:
            reason = str(error)
        telemetry.emit(telemetry.SnapshotIgnored(cell=self._cell, reason=reason))
        return None
