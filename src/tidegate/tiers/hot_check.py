"""Whether what leads to the events in hot (ids, lists, counts by minute) fits those that are there; and mending it.

Invariant: looking never takes for damage what time, a full list or a writer at work explain.

Checked against the blocks that are there: each event can be found by its id, and in each list that it belongs in unless
that is full (which events others have pushed out depends on the order in which shards came to them); a list has nothing
of a block that is not in it, and nothing twice; minutes count no fewer events than the blocks have, and no more where
that can be known: while nothing has expired yet, and nobody writes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import WatchError

from tidegate.head import EventHead, lenient_heads, seen_in
from tidegate.projection import Position, Recorded

__all__ = ["BLOCK", "MINUTE_MS", "Check", "mend_counts", "mend_lists", "place_of"]

MINUTE_MS = 60_000
BLOCK = 32
_KEYS = 500
"""Lists that are read at once."""

Field = tuple[int, str]
"""Minute in ms, and "<class_uid> <severity_id>"."""


def place_of(entry: bytes) -> tuple[int, int, int]:
    """Sequence, block and line, of a list's entry or an id's value; zeros for what is neither."""
    parts = entry.rpartition(b" ")[2].split(b":")
    if len(parts) != 3 or not all(map(bytes.isdigit, parts)):
        return 0, 0, 0
    return int(parts[0]), int(parts[1]), int(parts[2])


def keys_of(head: EventHead) -> list[str]:
    """The lists that the event belongs in."""
    found = [f"o:{value}" for value in seen_in(head)]
    return [*found, f"c:{head.metadata.correlation_uid}"] if head.metadata.correlation_uid else found


def field_of(head: EventHead) -> Field:
    return head.time // MINUTE_MS * MINUTE_MS, f"{head.class_uid} {head.severity_id}"


class Check:
    """One look at everything, block after block."""

    def __init__(self, redis: Redis, prefix: str, cap: int, *, counts: bool) -> None:
        self._redis = redis
        self._prefix = prefix
        self._cap = cap
        self._counts = counts
        """Whether counts are kept for as long as events at least."""
        self.wrong: defaultdict[int, set[int]] = defaultdict(set)
        """Sequence -> places in the frame of events that something does not lead to, or wrongly."""
        self.counts: dict[Field, int] = {}
        """By how much a count is wrong."""
        self.unknown: list[str] = []
        """Counts of events that there are none of."""
        self._expected: Counter[Field] = Counter()
        self._newest: dict[Field, tuple[int, int]] = {}
        self._before: list[bytes] = []

    async def begin(self) -> None:
        self._before = sorted(await _result(self._redis.hvals(f"{self._prefix}positions")))

    async def look(self, blocks: Sequence[tuple[int, int, list[bytes]]]) -> None:
        """At what leads to the events of these blocks: sequence, block and lines of each."""
        wanted: defaultdict[str, set[bytes]] = defaultdict(set)
        ids: defaultdict[str, set[tuple[int, int, int]]] = defaultdict(set)
        here = {(sequence, block) for sequence, block, _ in blocks}
        for sequence, block, lines in blocks:
            for line, head in enumerate(lenient_heads(lines)):
                place = (sequence, block, line)
                ids[head.metadata.uid].add(place)
                for key in keys_of(head):
                    wanted[key].add(b"%d %d:%d:%d" % (head.time, *place))
                field = field_of(head)
                self._expected[field] += 1
                self._newest[field] = max((sequence, block * BLOCK + line), self._newest.get(field, (0, 0)))
        await self._look_at_ids(ids, here)
        names = list(wanted)
        for first in range(0, len(names), _KEYS):
            part = names[first : first + _KEYS]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in part:
                    pipeline.lrange(self._prefix + key, 0, self._cap - 1)
                for key, entries in zip(part, await pipeline.execute(), strict=True):
                    self._look_at_list(wanted[key], entries, here)

    async def _look_at_ids(self, ids: dict[str, set[tuple[int, int, int]]], here: set[tuple[int, int]]) -> None:
        names = list(ids)
        for first in range(0, len(names), 1000):
            part = names[first : first + 1000]
            values = await _result(self._redis.mget([f"{self._prefix}e:{one}" for one in part]))
            for name, value in zip(part, values, strict=True):
                place = place_of(value or b"")
                # It may lead to another event with the same id, elsewhere.
                if place not in ids[name] and (not place[0] or place[:2] in here):
                    self._mark(max(ids[name]))

    def _look_at_list(self, wanted: set[bytes], entries: list[bytes], here: set[tuple[int, int]]) -> None:
        found = set(entries)
        missing = wanted - found
        if len(entries) >= self._cap:
            missing = set()
        stray = [one for one in found - wanted if place_of(one)[:2] in here]
        doubled = [one for one, count in Counter(entries).items() if count > 1 and one in wanted]
        for one in (*missing, *stray, *doubled):
            self._mark(place_of(one))

    def _mark(self, place: tuple[int, int, int]) -> None:
        self.wrong[place[0]].add(place[1] * BLOCK + place[2])

    async def look_at_counts(self) -> None:
        """After all blocks."""
        if not self._counts:
            return
        known = sorted(map(int, await _result(self._redis.zrange(f"{self._prefix}minutes", 0, -1))))
        minutes = sorted({*known, *(minute for minute, _ in self._expected)})
        found: dict[Field, int] = {}
        for first in range(0, len(minutes), _KEYS):
            part = minutes[first : first + _KEYS]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for minute in part:
                    pipeline.hgetall(f"{self._prefix}m:{minute}")
                for minute, fields in zip(part, await pipeline.execute(), strict=True):
                    found |= {(minute, name.decode()): int(count) for name, count in fields.items()}
        stored = sorted(await _result(self._redis.hvals(f"{self._prefix}positions")))
        taken_in = sum(msgspec.json.decode(one, type=Position).count for one in stored)
        exact = stored == self._before and taken_in == sum(self._expected.values())
        for field in found.keys() | self._expected.keys():
            off = found.get(field, 0) - self._expected[field]
            if off < 0 or (off and exact):
                self.counts[field] = off
                if field in self._newest:
                    sequence, index = self._newest[field]
                    self.wrong[sequence].add(index)
                else:
                    self.unknown.append(f"minute {field[0]} class and severity {field[1]}")


async def mend_lists(redis: Redis, prefix: str, cap: int, ttl: int, frames: Sequence[Recorded]) -> None:
    """Put the events of `frames` into the lists that they belong in, and what else names these frames out of them."""
    wanted: defaultdict[str, set[bytes]] = defaultdict(set)
    for one in frames:
        for index, head in enumerate(lenient_heads(one.lines())):
            for key in keys_of(head):
                wanted[key].add(b"%d %d:%d:%d" % (head.time, one.sequence, index // BLOCK, index % BLOCK))
    sequences = {one.sequence for one in frames}
    for key, entries in wanted.items():
        await _mend_list(redis, prefix + key, cap, ttl, entries, sequences)


async def _mend_list(redis: Redis, key: str, cap: int, ttl: int, wanted: set[bytes], sequences: set[int]) -> None:
    """In the order of the log, newest first; again when a writer has added to the list meanwhile."""
    while True:
        async with redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch(key)
            entries = await _result(pipeline.lrange(key, 0, -1))
            kept = {one for one in entries if place_of(one)[0] not in sequences}
            mended = sorted(kept | wanted, key=place_of, reverse=True)[:cap]
            if mended == entries:
                return
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.delete(key)
            pipeline.rpush(key, *mended)
            pipeline.expire(key, ttl * 5 // 4)
            try:
                await pipeline.execute()
            except WatchError:
                continue
            return


async def mend_counts(redis: Redis, prefix: str, ttl: int, counts: dict[Field, int]) -> None:
    """Take off by how much each is wrong; what writers add meanwhile stays."""
    now = int((await _result(redis.time()))[0])
    async with redis.pipeline(transaction=True) as pipeline:
        for (minute, name), off in counts.items():
            key = f"{prefix}m:{minute}"
            pipeline.hincrby(key, name, -off)
            pipeline.expire(key, ttl)
            pipeline.zadd(f"{prefix}minutes", {str(minute): now + ttl})
        await pipeline.execute()


async def _result(answer: Any) -> Any:
    """The driver types some commands as `Awaitable[T] | T`; with the asyncio client they are always awaitable."""
    return await answer
