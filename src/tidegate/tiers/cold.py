"""Cold: the archive on S3, one object for each batch of LOG frames.

Invariant: the newest object of a shard is the shard's position, so data and position are one PUT.

`cold_objects` says how objects are named and found, `cold_index` what is inside.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

import anyio.to_thread
import msgspec
import zstandard

from tidegate import frame
from tidegate.config import S3
from tidegate.errors import FencedError, FrameError, TierUnavailableError
from tidegate.head import EventHead, decode_heads, listed, normalise, seen_in
from tidegate.projection import Position, Record, Recorded, Tally
from tidegate.tiers import cold_index
from tidegate.tiers.cold_index import Content, FrameEntry, ObjectIndex, Summary
from tidegate.tiers.cold_objects import ColdObjects

__all__ = ["ColdTier", "Found"]

_READ_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_SKEW_MS = 86_400_000


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search came upon, and how far it went."""

    events: list[bytes]
    """JSON, latest event time first."""
    objects_scanned: int
    """Objects whose fingerprints were read, as their times fit."""
    frames_read: int
    complete: bool
    """False when the limits ended the search before the archive did."""


class ColdTier:
    """The cold read model. `generation` keeps several of them apart in one bucket."""

    name = "cold"
    by_shard = True
    keeps_ms: int | None = None

    def __init__(self, endpoint: str, settings: S3, *, generation: int = 1, timeout_seconds: float = 10.0) -> None:
        self._objects = ColdObjects(endpoint, settings, generation, timeout_seconds)
        self._known: dict[str, list[Summary]] = {}
        self._lost: dict[tuple[str, int], dict[int, Recorded]] = {}
        """Shard and name of a lost object -> the frames of it that are at hand."""

    async def open(self) -> None:
        await self._objects.open()

    async def aclose(self) -> None:
        await self._objects.aclose()

    async def position(self, cell: str) -> Position | None:
        async with self._objects.reaching():
            newest = await self._objects.newest(cell)
        return newest[1] if newest else None

    def project(self, frames: Sequence[Recorded]) -> Content:
        return cold_index.content_of(frames)

    async def apply(self, cell: str, writes: Content, expected: Position | None, new: Position) -> None:
        """1. The newest object must stand for `expected`. 2. Add its successor, which nobody else may have done."""
        async with self._objects.reaching():
            newest = await self._objects.newest(cell)
            stored = newest[1] if newest else None
            if stored != expected:
                raise FencedError(cell, f"the archive stands at {stored}, not at {expected}")
            known = self._known.get(cell, [])
            if newest and (not known or known[0].after != newest[0]):
                known = await self._objects.with_those_before(cell, newest[0])
            elif not newest:
                known = []
            after = expected.sequence if expected else 0
            body, summary = cold_index.build(writes, after, new, known)
            await self._objects.add(cell, after, body, new)
            self._known[cell] = [summary, *known][: cold_index.MAX_BEFORE]

    async def tally(self) -> Tally:
        """Reads and inflates everything, a megabyte at a time."""
        count = digest = 0
        async with self._objects.reaching():
            for shard in await self._objects.shards():
                async for after in self._objects.names(shard):
                    counter = _Counter()
                    try:
                        async for chunk in self._objects.chunks(shard, after, _CHUNK_BYTES):
                            await anyio.to_thread.run_sync(counter.feed, chunk)
                    except zstandard.ZstdError as error:
                        key = self._objects.key(shard, after)
                        raise TierUnavailableError(self.name, f"{key} is damaged: {error}") from error
                    count += counter.count
                    digest += counter.digest
        return Tally(count=count, digest=digest % 2**64)

    async def generations(self) -> list[int]:
        async with self._objects.reaching():
            return await self._objects.generations()

    async def drop(self) -> None:
        await self._objects.open()
        async with self._objects.reaching():
            for shard in await self._objects.shards():
                await self._objects.remove(shard)

    async def shards(self) -> list[str]:
        """The shards that have objects."""
        async with self._objects.reaching():
            return await self._objects.shards()

    async def objects(self, shard: str) -> AsyncIterator[Summary]:
        """What the archive of a shard consists of, latest first."""
        async with self._objects.reaching():
            async for one in self._objects.latest_first(shard):
                yield one

    async def frames(self, first: int, last: int, *, deep: bool = True) -> dict[int, Tally]:
        """Inflates every frame; one that cannot be counts as nothing."""
        found = {}
        for shard in await self.shards():
            async for one in self._range(shard, first, last, gaps=True):
                lines = await anyio.to_thread.run_sync(_lines, one)
                found[one.sequence] = Tally(count=len(lines), digest=frame.digest_of(lines))
        return found

    async def records(self, sequence: int) -> list[Record]:
        return [
            record
            for shard in await self.shards()
            async for one in self.get_range(shard, sequence, sequence)
            for record in listed(_lines(one))
        ]

    async def repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        """An object is never changed, except to become again what it was: its frames, byte by byte as logged.

        One that is lost is made again once all its frames have been given, ascending, in one call or in several.
        """
        if extra:
            raise TierUnavailableError(self.name, f"the archive has frames that the log has not: {extra[:10]}")
        for one in frames:
            await self._put_back(one)

    async def _put_back(self, one: Recorded) -> None:
        shard = str(one.shard)
        async with self._objects.reaching():
            after = await self._objects.floor(shard, one.sequence - 1)
            found = await self._objects.index(shard, after) if after is not None else None
            if after is None or found is None or found[0].position.sequence < one.sequence:
                await self._gather(shard, found[0] if found else None, one)
                return
            entry = next((entry for entry in found[0].frames if entry.sequence == one.sequence), None)
            if entry is None or entry.length != len(one.payload):
                raise TierUnavailableError(
                    self.name, f"frame {one.sequence} has no place in the archive: restore the object from a backup"
                )
            await self._objects.mend(shard, after, entry.offset, one.payload)

    async def _gather(self, shard: str, before: ObjectIndex | None, one: Recorded) -> None:
        """A frame of an object that is lost: with the last of its frames, it is made again as it was."""
        start = before.position.sequence if before else 0
        following = await self._objects.following(shard, start)
        after = await self._objects.index(shard, following) if following is not None else None
        if following is None or after is None:
            # Nothing lies beyond it: then it is not lost, but the archive has not come to it yet.
            return
        # Those after it know where it ended. If none does, all that is missing there becomes one object.
        end = next((known.last for known in after[0].before if known.after == start), following)
        frames = self._lost.setdefault((shard, start), {})
        frames[one.sequence] = one
        if one.sequence < end:
            return
        del self._lost[shard, start]
        content = cold_index.content_of(list(frames.values()))
        position = (
            before.position if before else msgspec.structs.replace(after[0].position, sequence=0, count=0, digest=0)
        )
        position = position.after(list(frames.values()))
        known = await self._objects.with_those_before(shard, before.after) if before else []
        body, _ = cold_index.build(content, start, position, known)
        await self._objects.add(shard, start, body, position)

    def get_range(self, shard: str, first: int, last: int) -> AsyncIterator[Recorded]:
        """The frames of a shard with first <= sequence <= last, ascending, without a gap, up to the archive's end."""
        return self._range(shard, first, last, gaps=False)

    async def _range(self, shard: str, first: int, last: int, *, gaps: bool) -> AsyncIterator[Recorded]:
        """With `gaps`, lost objects are passed over; else the first one is the end."""
        async with self._objects.reaching():
            after = await self._objects.floor(shard, max(first - 1, 0))
            if after is None and gaps:
                after = await self._objects.following(shard, -1)
            while after is not None and after < last:
                found = await self._objects.index(shard, after)
                if found is None:
                    after = await self._objects.following(shard, after) if gaps else None
                    continue
                index = found[0]
                for run in _runs([one for one in index.frames if first <= one.sequence <= last]):
                    start = run[0].offset
                    data = await self._objects.read(shard, after, start, run[-1].offset + run[-1].length)
                    for one in run:
                        yield Recorded(
                            sequence=one.sequence,
                            shard=index.shard,
                            time_ms=one.time_ms,
                            count=one.count,
                            digest=one.digest,
                            payload=data[one.offset - start : one.offset - start + one.length],
                        )
                after = index.position.sequence

    async def get(self, event_id: str, *, max_objects: int = 1000) -> Found:
        """The event with this id; if several have it, one in the latest object that holds any."""
        return await self._find(event_id, lambda head: head.metadata.uid == event_id, None, None, 1, max_objects)

    async def by_correlation(
        self,
        correlation_id: str,
        limit: int = 100,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        max_objects: int = 1000,
    ) -> Found:
        """Events with this correlation id and since <= event time < until."""

        def matches(head: EventHead) -> bool:
            return head.metadata.correlation_uid == correlation_id

        return await self._find(correlation_id, matches, since_ms, until_ms, limit, max_objects)

    async def by_observable(
        self,
        value: str,
        limit: int = 100,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        max_objects: int = 1000,
    ) -> Found:
        """Events in which `value` was observed, with since <= event time < until."""
        key = normalise(value)
        return await self._find(key, lambda head: key in seen_in(head), since_ms, until_ms, limit, max_objects)

    async def _find(
        self,
        key: str,
        matches: Callable[[EventHead], bool],
        since_ms: int | None,
        until_ms: int | None,
        limit: int,
        max_objects: int,
    ) -> Found:
        """Goes back through all shards side by side, in the order of the log, until there are `limit` events.

        Objects logged more than a day before `since` end it too: an event is not logged before it happens, and no clock
        is taken to be more than a day fast.
        """
        since = -math.inf if since_ms is None else since_ms
        until = math.inf if until_ms is None else until_ms
        wanted = cold_index.fingerprint(key)
        events: list[tuple[int, bytes]] = []
        scanned = frames_read = 0
        cut = False
        async with self._objects.reaching(), AsyncExitStack() as stack:
            ahead: dict[str, Summary] = {}
            walks = {}
            for shard in await self._objects.shards():
                walks[shard] = await stack.enter_async_context(aclosing(self._objects.latest_first(shard)))
                ahead[shard] = await anext(walks[shard])
            while ahead and len(events) < limit and scanned < max_objects:
                shard = max(ahead, key=lambda name: ahead[name].logged_ms)
                one = ahead.pop(shard)
                if one.logged_ms < since - _SKEW_MS:
                    continue
                following = await anext(walks[shard], None)
                if following is not None:
                    ahead[shard] = following
                if one.last_ms < since or one.first_ms >= until:
                    continue
                scanned += 1
                for entry in reversed(await self._frames_with(shard, one, wanted)):
                    if len(events) >= limit:
                        cut = True
                        break
                    payload = await self._objects.read(shard, one.after, entry.offset, entry.offset + entry.length)
                    frames_read += 1
                    lines = frame.inflate(payload, "zstd", 2**31).split(b"\n")[:-1]
                    events += [
                        (head.time, line)
                        for head, line in zip(decode_heads(lines), lines, strict=True)
                        if since <= head.time < until and matches(head)
                    ]
        events.sort(key=lambda one: one[0], reverse=True)
        return Found(
            events=[line for _, line in events[:limit]],
            objects_scanned=scanned,
            frames_read=frames_read,
            complete=not (ahead or cut) and len(events) <= limit,
        )

    async def _frames_with(self, shard: str, one: Summary, wanted: int) -> list[FrameEntry]:
        found = await self._objects.index(shard, one.after, one.index_bytes)
        if found is None:
            return []
        index = found[0]
        size = 4 * sum(entry.fingerprints for entry in index.frames)
        start = index.fingerprints_at
        return cold_index.frames_with(index, await self._objects.read(shard, one.after, start, start + size), wanted)


def _lines(one: Recorded) -> list[bytes]:
    """The events of an archived frame, none when it is damaged."""
    try:
        return one.lines()
    except FrameError:
        return []


class _Counter:
    """Counts the lines of a zstd stream that comes in pieces."""

    def __init__(self) -> None:
        self._inflate = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
        self._rest = b""
        self.count = 0
        self.digest = 0

    def feed(self, chunk: bytes) -> None:
        lines = (self._rest + self._inflate.decompress(chunk)).split(b"\n")
        self._rest = lines.pop()
        self.count += len(lines)
        self.digest += frame.digest_of(lines)


def _runs(entries: Sequence[FrameEntry]) -> list[list[FrameEntry]]:
    """`entries` in runs of a few megabytes, each for one read."""
    runs: list[list[FrameEntry]] = []
    size = 0
    for one in entries:
        if not runs or size + one.length > _READ_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(one)
        size += one.length
    return runs
