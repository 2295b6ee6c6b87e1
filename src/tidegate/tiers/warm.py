"""Warm: every event as a document in MongoDB, for as many days as configured.

Invariant: a document's `_id` is the record's place in the log, so writing a frame again never adds or changes anything.

A document is the OCSF event itself with a few fields of ours beside it:

    _id    int64   `head.record_id`: sequence in the log << 16 | place in the frame
    _crc   int64   CRC-32 of the event's JSON in the log; their sum is compared with the log's
    _at    date    when the log stored the frame; the document goes `ttl_days` later
    _seen  array   everything observed in the event, normalised (`head.normalise`): lower case
    _raw   binary  the event's JSON, zstd; only where BSON cannot hold the event as it is (`tiers.bsoned`)

Indexes: each one costs a third to a half of the insert rate, so there are only those that the lookups below need.
A stream that was deleted and made again reuses sequences: it needs a new generation, never this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import DESCENDING, WriteConcern
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError, ExecutionTimeout, OperationFailure

from tidegate.config import Warm
from tidegate.errors import FencedError, QueryError, TierUnavailableError
from tidegate.head import normalise, record_id
from tidegate.projection import Position, Record, Recorded, Tally
from tidegate.tiers.bsoned import crc_of, documents_of, json_of

__all__ = ["WarmTier"]

# ConnectionFailure: AutoReconnect, NetworkTimeout, ServerSelectionTimeoutError, NotPrimaryError, WaitQueueTimeoutError.
# OperationFailure: the server answered that it will not; BulkWriteError, WriteConcernError and WTimeoutError are among
# them.
UNAVAILABLE = (ConnectionFailure, OperationFailure)
DUPLICATE_KEY = 11000
INDEX_CONFLICTS = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict: MongoDB and its stand-in differ
RUNS_CODE = frozenset({"$where", "$function", "$accumulator"})
FIND_SECONDS = 10
_READ = 2000
"""Documents that are looked at together."""


class WarmTier:
    """The warm read model. `generation` keeps several of them apart in one database."""

    name = "warm"
    by_shard = False
    """One writer for the collection: the local stand-in for MongoDB slows down a hundredfold with several."""

    def __init__(
        self, uri: str, database: str, settings: Warm, *, generation: int = 1, timeout_seconds: float = 5.0
    ) -> None:
        self._settings = settings
        self._generation = generation
        self.keeps_ms: int | None = settings.ttl_days * 86_400_000
        self._client: Any = AsyncIOMotorClient(
            uri,
            tz_aware=True,
            serverSelectionTimeoutMS=int(timeout_seconds * 1000),
            connectTimeoutMS=int(timeout_seconds * 1000),
            # A tally of millions of documents is one command.
            socketTimeoutMS=300_000,
        )
        self._database = self._client.get_database(
            database, write_concern=WriteConcern(w="majority", j=settings.journal or None)
        )
        self._events = self._database[f"events_{generation}"]
        self._positions = self._database["positions"]

    async def open(self) -> None:
        ttl_seconds = self._settings.ttl_days * 86_400
        with self._reaching():
            await self._events.create_index("metadata.uid")
            await self._events.create_index([("metadata.correlation_uid", 1), ("time", DESCENDING)])
            await self._events.create_index([("_seen", 1), ("time", DESCENDING)])
            try:
                await self._events.create_index("_at", expireAfterSeconds=ttl_seconds)
            except OperationFailure as error:
                if error.code not in INDEX_CONFLICTS:
                    raise
                index = {"keyPattern": {"_at": 1}, "expireAfterSeconds": ttl_seconds}
                await self._database.command("collMod", self._events.name, index=index)

    async def aclose(self) -> None:
        self._client.close()

    async def position(self, cell: str) -> Position | None:
        with self._reaching():
            stored = await self._positions.find_one({"_id": self._position_id(cell)})
        if stored is None:
            return None
        return Position(
            stream=stored["stream"],
            created=stored["created"],
            sequence=stored["sequence"],
            count=stored["count"],
            digest=int(stored["digest"]),
            frame_digest=int(stored["frame_digest"]) if stored.get("frame_digest") else None,
            left_out=stored.get("left_out", 0),
        )

    def project(self, frames: Sequence[Recorded]) -> list[RawBSONDocument]:
        return documents_of(frames)

    async def apply(self, cell: str, writes: list[RawBSONDocument], expected: Position | None, new: Position) -> None:
        """Not one transaction, and yet exactly once to whoever reads the position:

        1. Compare the stored position with `expected`: a writer that was overtaken does no work.
        2. Insert the documents, unordered, with majority and journal. One that is there already, from an attempt
           that did not come to step 3, has the same `_id` and the same content: its duplicate key error is ignored.
        3. Move the position with a condition on the old one, with majority and journal. Of two writers that passed
           step 1 together only one passes here; the other is fenced, and what it wrote are records of the log that
           the winner or its successor writes too, under the same `_id`.

        So documents beyond the position may be seen early, none is ever doubled, and none up to it is missing.
        """
        with self._reaching():
            if not _same(await self.position(cell), expected):
                raise FencedError(cell, "the warm position has been moved by another writer")
            try:
                if writes:
                    await self._events.insert_many(writes, ordered=False)
            except BulkWriteError as error:
                if error.details["writeConcernErrors"] or any(
                    one["code"] != DUPLICATE_KEY for one in error.details["writeErrors"]
                ):
                    raise
            await self._move(cell, expected, new)

    async def _move(self, cell: str, expected: Position | None, new: Position) -> None:
        fields = {
            "stream": new.stream,
            "created": new.created,
            "sequence": new.sequence,
            "count": new.count,
            # Unsigned, 64 bits: more than BSON's integers hold.
            "digest": str(new.digest),
            "frame_digest": None if new.frame_digest is None else str(new.frame_digest),
            "left_out": new.left_out,
        }
        key = {"_id": self._position_id(cell)}
        if expected is None:
            try:
                await self._positions.insert_one({**key, **fields})
            except DuplicateKeyError as error:
                raise FencedError(cell, "another writer has stored the first warm position") from error
            return
        before = {"stream": expected.stream, "created": expected.created, "sequence": expected.sequence}
        result = await self._positions.update_one({**key, **before}, {"$set": fields})
        if result.matched_count == 0:
            raise FencedError(cell, "the warm position has been moved by another writer")

    async def tally(self) -> Tally:
        """Counts the documents, and sums their `_crc`, on the server. Documents past their time are gone from both."""
        total = {"_id": None, "count": {"$sum": 1}, "digest": {"$sum": "$_crc"}}
        with self._reaching():
            found = await self._events.aggregate([{"$group": total}]).to_list(1)
        if not found:
            return Tally(count=0, digest=0)
        return Tally(count=found[0]["count"], digest=int(found[0]["digest"]) % 2**64)

    async def frames(self, first: int, last: int, *, deep: bool = True) -> dict[int, Tally]:
        """Counted from the documents themselves: one that was changed counts with another CRC (`bsoned.crc_of`)."""
        counts: Counter[int] = Counter()
        digests: Counter[int] = Counter()
        async for records in self._within(first, last):
            for sequence, one in records:
                counts[sequence] += 1
                digests[sequence] += one.crc
        return {sequence: Tally(count=count, digest=digests[sequence]) for sequence, count in counts.items()}

    async def records(self, sequence: int) -> list[Record]:
        found = [one async for records in self._within(sequence, sequence) for _, one in records]
        return sorted(found, key=lambda one: one.index)

    async def _within(self, first: int, last: int) -> AsyncIterator[list[tuple[int, Record]]]:
        """The records of these frames, each with its sequence, some at a time."""
        query = {"_id": {"$gte": record_id(first, 0), "$lt": record_id(last + 1, 0)}}
        cursor = self._events.find(query, batch_size=_READ)
        while True:
            with self._reaching():
                documents = await cursor.to_list(_READ)
            if not documents:
                return
            yield await anyio.to_thread.run_sync(_records_of, documents)

    async def repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        with self._reaching():
            for sequence in [*extra, *(one.sequence for one in frames)]:
                query = {"_id": {"$gte": record_id(sequence, 0), "$lt": record_id(sequence + 1, 0)}}
                await self._events.delete_many(query)
            if frames:
                await self._events.insert_many(documents_of(frames), ordered=False)

    async def generations(self) -> list[int]:
        with self._reaching():
            names = await self._database.list_collection_names()
        return sorted(int(name[7:]) for name in names if name.startswith("events_") and name[7:].isdecimal())

    async def drop(self) -> None:
        with self._reaching():
            await self._positions.delete_many({"_id": self._position_id("all")})
            await self._events.drop()

    async def get(self, event_id: str) -> bytes | None:
        """The JSON of the newest event with this id."""
        with self._reaching():
            found = await self._events.find({"metadata.uid": event_id}).sort("_id", DESCENDING).limit(1).to_list(1)
        return json_of(found[0]) if found else None

    async def get_many(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The JSON of the newest event with each of these ids, as far as they are there, with one call."""
        with self._reaching():
            found = await self._events.find({"metadata.uid": {"$in": list(ids)}}).sort("_id", 1).to_list(None)
        return {one["metadata"]["uid"]: json_of(one) for one in found}

    async def sequence_of(self, event_id: str) -> int | None:
        """The log sequence of the frame that the newest event with this id stands in."""
        with self._reaching():
            found = await self._events.find_one({"metadata.uid": event_id}, {"_id": 1}, sort=[("_id", DESCENDING)])
        return found["_id"] >> 16 if found else None

    async def by_correlation(self, correlation_id: str, limit: int = 100) -> list[bytes]:
        """The JSON of the latest events with this correlation id, newest first by event time."""
        with self._reaching():
            return await self._latest({"metadata.correlation_uid": correlation_id}, "time", limit)

    async def by_observable(
        self, value: str, limit: int = 100, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[bytes]:
        """The JSON of the latest events in which `value` was observed, with since <= event time < until, newest first
        by event time."""
        within = {"$gte": since_ms, "$lt": until_ms}
        bounds = {operator: bound for operator, bound in within.items() if bound is not None}
        with self._reaching():
            return await self._latest(
                {"_seen": normalise(value), **({"time": bounds} if bounds else {})}, "time", limit
            )

    async def find(self, query: Mapping[str, Any], limit: int = 100) -> list[bytes]:
        """The JSON of the events that match a MongoDB filter, latest in the log first.

        Raises QueryError for a filter that would run code, that the server does not understand, or that takes longer
        than ten seconds.
        """
        _refuse_code(query)
        with self._reaching():
            try:
                return await self._latest(query, "_id", limit, max_seconds=FIND_SECONDS)
            except ExecutionTimeout as error:
                raise QueryError(f"the query took longer than {FIND_SECONDS} s; narrow it down") from error
            except OperationFailure as error:
                raise QueryError(f"MongoDB refused the query: {error.details or error}") from error

    async def _latest(
        self, query: Mapping[str, Any], field: str, limit: int, *, max_seconds: int | None = None
    ) -> list[bytes]:
        if limit < 1:  # to MongoDB 0 means: all of them
            return []
        cursor = self._events.find(query).sort(field, DESCENDING).limit(limit)
        if max_seconds is not None:
            cursor = cursor.max_time_ms(max_seconds * 1000)
        return [json_of(one) for one in await cursor.to_list(limit)]

    def _position_id(self, cell: str) -> str:
        return f"{self._generation}:{cell}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except UNAVAILABLE as error:
            raise TierUnavailableError(self.name, f"{type(error).__name__}: {error}") from error


def _records_of(documents: list[dict[str, Any]]) -> list[tuple[int, Record]]:
    found = []
    for one in documents:
        metadata = one.get("metadata")
        event_id = str(metadata.get("uid") or "") if isinstance(metadata, dict) else ""
        found.append((one["_id"] >> 16, Record(index=one["_id"] & 0xFFFF, crc=crc_of(one), event_id=event_id)))
    return found


def _same(stored: Position | None, expected: Position | None) -> bool:
    if stored is None or expected is None:
        return stored is expected
    return (stored.stream, stored.created, stored.sequence) == (expected.stream, expected.created, expected.sequence)


def _refuse_code(query: Any) -> None:
    """Raises QueryError when an operator that runs code on the server stands anywhere in the filter."""
    if isinstance(query, Mapping):
        for key, value in query.items():
            if key in RUNS_CODE:
                raise QueryError(f"{key} is not allowed: it runs code on the server")
            _refuse_code(value)
    elif isinstance(query, list):
        for value in query:
            _refuse_code(value)
