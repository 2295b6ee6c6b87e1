"""Hot: the latest events in Redis, by id, correlation id and observable, and counts by minute.

Invariant: one Lua script call writes the events of a batch and the position, so both are there or neither is.

A server with `appendfsync everysec` that loses power may come back up to a second in the past, data and position alike;
therefore the position is always read from the server and never remembered. The script touches keys that it derives
from its arguments: a single primary (with replicas), not a cluster. Evicting keys (`maxmemory-policy allkeys-*`) would
take positions away too; use `noeviction` or a `volatile-*` policy.

Keys, below `tg:<generation>:`, all but the first with a time to live that starts at arrival, however old the event is:

    positions                    hash    cell -> Position as JSON
    b:<sequence>:<block>         string  32 events of the frame at that sequence of the log, zstd NDJSON
    e:<event id>                 string  "<sequence>:<block>:<line>"; of events with the same id, the newest to arrive
    c:<correlation id>           list    "<time ms> <sequence>:<block>:<line>", newest arrival first; readers see the
                                         first `recent_per_key`, and none whose block has expired
    o:<observable>               list    the same; observables are normalised (`head.normalise`): lower case
    m:<minute ms>                hash    "<class_uid> <severity_id>" -> events of that minute, by event time
    minutes                      zset    minute ms -> when its hash expires, seconds since 1970

Blocks, because 32 events together take a quarter of the memory and of the append-only file that they take one by one,
and were taken in half as fast again (80,000 events/s instead of 53,000, server and client on two cores).
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from tidegate.config import Hot
from tidegate.errors import FencedError, TierUnavailableError
from tidegate.frame import digest_of
from tidegate.head import decode_heads, listed, normalise, seen_in
from tidegate.projection import Position, Record, Recorded, Tally
from tidegate.tiers.hot_check import BLOCK, MINUTE_MS, Check, mend_counts, mend_lists

__all__ = ["HotTier", "Lookups", "MinuteCount"]

# Away, starting (BusyLoadingError is a ConnectionError), slow, or refusing writes: demoted, full, without its primary.
UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.MasterDownError,
    OSError,
)

# ARGV: prefix, cell, the expected stream, creation time and sequence ("" for no position), the new position,
# ttl, counts ttl, recent per key; then three runs, each after its length: key and value; key, number of entries
# and entries; minute, field and count. The position is compared first, so a fenced call writes nothing.
SCRIPT = """
local prefix, cell = ARGV[1], ARGV[2]
local stored = redis.call('HGET', prefix .. 'positions', cell)
if stored then
  local position = cjson.decode(stored)
  if position.stream ~= ARGV[3] or position.created ~= ARGV[4] or position.sequence ~= tonumber(ARGV[5]) then
    return 0
  end
elseif ARGV[5] ~= '' then
  return 0
end
local ttl, counts_ttl, cap = ARGV[7], ARGV[8], tonumber(ARGV[9])
local at = 11
for _ = 1, tonumber(ARGV[10]) do
  redis.call('SET', prefix .. ARGV[at], ARGV[at + 1], 'EX', ttl)
  at = at + 2
end
local keys = tonumber(ARGV[at])
at = at + 1
for _ = 1, keys do
  local key, last = prefix .. ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  at = at + 2
  while at <= last do
    -- unpack() is bounded by Lua's stack, about 8,000 values
    local upto = math.min(last, at + 999)
    if redis.call('LPUSH', key, unpack(ARGV, at, upto)) > cap * 1.25 then
      redis.call('LTRIM', key, 0, cap - 1)
    end
    at = upto + 1
  end
  -- Reading is cheap, what is written goes through the append-only file too: trim and prolong only now and then.
  if redis.call('TTL', key) < tonumber(ttl) then
    redis.call('EXPIRE', key, math.ceil(ttl * 1.25))
  end
end
local cells = tonumber(ARGV[at])
at = at + 1
local now = tonumber(redis.call('TIME')[1])
local seen = {}
for _ = 1, cells do
  local minute = ARGV[at]
  local key = prefix .. 'm:' .. minute
  redis.call('HINCRBY', key, ARGV[at + 1], ARGV[at + 2])
  if not seen[minute] then
    seen[minute] = true
    redis.call('EXPIRE', key, counts_ttl)
    redis.call('ZADD', prefix .. 'minutes', now + counts_ttl, minute)
  end
  at = at + 3
end
redis.call('ZREMRANGEBYSCORE', prefix .. 'minutes', '-inf', now)
redis.call('HSET', prefix .. 'positions', cell, ARGV[6])
return 1
"""


class Lookups(msgspec.Struct):
    """How often something was looked up, and how often it was there."""

    lookups: int = 0
    hits: int = 0


class MinuteCount(msgspec.Struct, frozen=True, kw_only=True):
    minute_ms: int
    class_uid: int
    severity_id: int
    count: int


class HotTier:
    """The hot read model. `generation` keeps several of them apart on one server."""

    name = "hot"
    by_shard = True

    def __init__(self, url: str, settings: Hot, *, generation: int = 1, timeout_seconds: float = 10.0) -> None:
        self._settings = settings
        self._prefix = f"tg:{generation}:"
        self.keeps_ms: int | None = settings.ttl_seconds * 1000
        # No retry inside the driver: a call repeated after a lost answer would find its own position and look fenced.
        self._redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_seconds,
            socket_connect_timeout=min(timeout_seconds, 3.0),
        )
        self._script = self._redis.register_script(SCRIPT)
        self._decompress = ZstdDecompressor().decompress
        self._check: Check | None = None
        """What the last `frames` found."""
        self.by_id = Lookups()
        self.by_key = Lookups()

    async def open(self) -> None:
        async with self._reaching():
            await self._redis.ping()

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def position(self, cell: str) -> Position | None:
        async with self._reaching():
            stored = await _result(self._redis.hget(f"{self._prefix}positions", cell))
        return msgspec.json.decode(stored, type=Position) if stored else None

    def project(self, frames: Sequence[Recorded]) -> list[Any]:
        """The arguments of the script from the number of values on."""
        return _writes(frames, self._settings.recent_per_key)

    async def apply(self, cell: str, writes: list[Any], expected: Position | None, new: Position) -> None:
        fence = (expected.stream, expected.created, expected.sequence) if expected else ("", "", "")
        settings = self._settings
        args = [
            *(self._prefix, cell, *fence, msgspec.json.encode(new)),
            *(settings.ttl_seconds, settings.counts_ttl_seconds, settings.recent_per_key),
            *writes,
        ]
        async with self._reaching():
            moved = await self._script(args=args)
        if not moved:
            raise FencedError(cell, "the hot position has been moved by another writer")

    async def tally(self) -> Tally:
        """The sum over the cells of what their positions say was taken in.

        Hot forgets by design, so unlike in other tiers the data itself cannot be counted; `present` probes it.
        """
        async with self._reaching():
            stored = await _result(self._redis.hvals(f"{self._prefix}positions"))
        positions = [msgspec.json.decode(one, type=Position) for one in stored]
        return Tally(count=sum(one.count for one in positions), digest=sum(one.digest for one in positions) % 2**64)

    async def frames(self, first: int, last: int, *, deep: bool = True) -> dict[int, Tally]:
        """Counted from the blocks that are there; what has expired is not.

        With `deep` an event that its id, its lists or the counts by minute do not fit counts as another one
        (`hot_check`), and what fits no event at all as frame 0. That takes several times as long.
        """
        found: dict[int, Tally] = {}
        settings = self._settings
        counts = settings.counts_ttl_seconds >= settings.ttl_seconds
        check = Check(self._redis, self._prefix, settings.recent_per_key, counts=counts)
        self._check = check if deep else None
        async with self._reaching():
            await check.begin()
        async for blocks in self._blocks(f"{self._prefix}b:*", 0, sys.maxsize):
            for sequence, _, lines in blocks:
                before = found.get(sequence, Tally(count=0, digest=0))
                found[sequence] = Tally(count=before.count + len(lines), digest=before.digest + digest_of(lines))
            if deep:
                async with self._reaching():
                    await check.look(blocks)
        if deep:
            async with self._reaching():
                await check.look_at_counts()
        for sequence, indexes in check.wrong.items():
            if sequence in found:
                tally = found[sequence]
                found[sequence] = Tally(count=tally.count, digest=tally.digest + len(indexes))
        if check.unknown:
            found[0] = Tally(count=0, digest=len(check.unknown))
        return {sequence: tally for sequence, tally in found.items() if first <= sequence <= last or sequence == 0}

    async def records(self, sequence: int) -> list[Record]:
        """With what the last `frames` found: an event that something does not fit has another checksum."""
        check = self._check
        if sequence == 0:
            return [Record(index=0, crc=0, event_id=one) for one in check.unknown] if check else []
        wrong = check.wrong.get(sequence, set()) if check else set()
        found = [
            record
            async for blocks in self._blocks(f"{self._prefix}b:{sequence}:*", sequence, sequence)
            for _, block, lines in blocks
            for record in listed(lines, block * BLOCK)
        ]
        return [
            msgspec.structs.replace(one, crc=~one.crc) if one.index in wrong else one
            for one in sorted(found, key=lambda one: one.index)
        ]

    async def _blocks(self, pattern: str, first: int, last: int) -> AsyncIterator[list[tuple[int, int, list[bytes]]]]:
        """Some at a time: sequence, block and events. A damaged block counts as one event that no frame has."""
        cursor, start = 0, len(self._prefix) + 2
        seen: set[bytes] = set()
        while True:
            async with self._reaching():
                cursor, keys = await _result(self._redis.scan(cursor, match=pattern, count=2000))
                places = {key: [int(part) for part in key[start:].split(b":")] for key in keys if key not in seen}
                seen.update(places)
                wanted = [key for key, (sequence, _) in places.items() if first <= sequence <= last]
                values = await _result(self._redis.mget(wanted)) if wanted else []
            there = [(places[key], value) for key, value in zip(wanted, values, strict=True) if value is not None]
            yield [(sequence, block, self._lines(value)) for (sequence, block), value in there]
            if cursor == 0:
                return

    def _lines(self, block: bytes) -> list[bytes]:
        try:
            return self._decompress(block).split(b"\n")
        except ZstdError:
            return [block]

    async def repair(self, frames: Sequence[Recorded], extra: Sequence[int]) -> None:
        """Blocks and ids anew, lists put in order, and the counts set right that the last `frames` found wrong."""
        ttl = self._settings.ttl_seconds
        for sequence in [*extra, *(one.sequence for one in frames)]:
            async with self._reaching():
                stale = [key async for key in self._redis.scan_iter(f"{self._prefix}b:{sequence}:*", count=2000)]
                if stale:
                    await self._redis.delete(*stale)
        for one in frames:
            values = _writes([one], 1)
            async with self._reaching(), self._redis.pipeline(transaction=False) as pipeline:
                for at in range(1, 1 + 2 * values[0], 2):
                    pipeline.set(self._prefix + values[at], values[at + 1], ex=ttl)
                await pipeline.execute()
        async with self._reaching():
            await mend_lists(self._redis, self._prefix, self._settings.recent_per_key, ttl, frames)
            if self._check is not None:
                await mend_counts(self._redis, self._prefix, self._settings.counts_ttl_seconds, self._check.counts)
                self._check.counts = {}

    async def generations(self) -> list[int]:
        async with self._reaching():
            keys = [key async for key in self._redis.scan_iter("tg:*:positions", count=2000)]
        return sorted(int(key.split(b":")[1]) for key in keys)

    async def drop(self) -> None:
        async with self._reaching():
            batch: list[bytes] = []
            async for key in self._redis.scan_iter(f"{self._prefix}*", count=2000):
                # Last of all, so that a drop that was cut short is seen and can be repeated.
                if key != f"{self._prefix}positions".encode():
                    batch.append(key)
                if len(batch) >= 1000:
                    await self._redis.unlink(*batch)
                    batch.clear()
            await self._redis.unlink(*batch, f"{self._prefix}positions")

    async def present(self, ids: Sequence[str]) -> int:
        """How many of the event ids can be looked up (one that is given twice counts twice)."""
        found = 0
        async with self._reaching():
            for first in range(0, len(ids), 1000):
                found += await self._redis.exists(*(f"{self._prefix}e:{one}" for one in ids[first : first + 1000]))
        return found

    async def get(self, event_id: str) -> bytes | None:
        """The JSON of the newest event with this id."""
        async with self._reaching():
            place = await _result(self._redis.get(f"{self._prefix}e:{event_id}"))
            events = await self._events([place] if place else [])
        self.by_id.lookups += 1
        self.by_id.hits += bool(events)
        return events[0] if events else None

    async def get_many(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The JSON of the newest event with each of these ids, as far as they are there: two calls for all of them."""
        async with self._reaching():
            stored = await _result(self._redis.mget([f"{self._prefix}e:{one}" for one in ids]))
            found = await self._events_by_place([place for place in stored if place])
        self.by_id.lookups += len(ids)
        self.by_id.hits += len(found)
        return {one: found[place] for one, place in zip(ids, stored, strict=True) if place in found}

    async def by_correlation(self, correlation_id: str, limit: int = 100) -> list[bytes]:
        """The JSON of the latest events with this correlation id, newest arrival first."""
        return await self._recent(f"c:{correlation_id}", limit, None, None)

    async def by_observable(
        self, value: str, limit: int = 100, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[bytes]:
        """The JSON of the latest events in which `value` was observed, with since <= event time < until, newest
        arrival first."""
        return await self._recent(f"o:{normalise(value)}", limit, since_ms, until_ms)

    async def counts(self, since_ms: int, until_ms: int) -> list[MinuteCount]:
        """Events by minute, class and severity for minutes that begin in since <= minute < until, in this order."""
        async with self._reaching():
            known = sorted(map(int, await _result(self._redis.zrange(f"{self._prefix}minutes", 0, -1))))
            minutes = [minute for minute in known if since_ms <= minute < until_ms]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for minute in minutes:
                    pipeline.hgetall(f"{self._prefix}m:{minute}")
                hashes = await pipeline.execute() if minutes else []
        found = [
            MinuteCount(minute_ms=minute, class_uid=int(class_uid), severity_id=int(severity_id), count=int(count))
            for minute, fields in zip(minutes, hashes, strict=True)
            for (class_uid, severity_id), count in ((field.split(), count) for field, count in fields.items())
            if int(count)
        ]
        return sorted(found, key=lambda one: (one.minute_ms, one.class_uid, one.severity_id))

    async def _recent(self, key: str, limit: int, since_ms: int | None, until_ms: int | None) -> list[bytes]:
        async with self._reaching():
            entries = await _result(self._redis.lrange(self._prefix + key, 0, self._settings.recent_per_key - 1))
            places = [
                place
                for time_ms, place in (entry.split(b" ") for entry in entries)
                if (since_ms is None or int(time_ms) >= since_ms) and (until_ms is None or int(time_ms) < until_ms)
            ]
            events = await self._events(places[: max(limit, 0)])
        self.by_key.lookups += 1
        self.by_key.hits += bool(events)
        return events

    async def _events(self, places: Sequence[bytes]) -> list[bytes]:
        """The events at these places, in order, without those that have expired."""
        found = await self._events_by_place(places)
        return [found[place] for place in places if place in found]

    async def _events_by_place(self, places: Sequence[bytes]) -> dict[bytes, bytes]:
        names = list(dict.fromkeys(place.rpartition(b":")[0] for place in places))
        if not names:
            return {}
        stored = await _result(self._redis.mget([f"{self._prefix}b:".encode() + name for name in names]))
        blocks = {
            name: self._decompress(block).split(b"\n")
            for name, block in zip(names, stored, strict=True)
            if block is not None
        }
        parted = ((place, *place.rpartition(b":")) for place in places)
        return {place: blocks[name][int(line)] for place, name, _, line in parted if name in blocks}

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        try:
            yield
        except UNAVAILABLE as error:
            raise TierUnavailableError(self.name, f"{type(error).__name__}: {error}") from error


async def _result(answer: Any) -> Any:
    """The driver types some commands as `Awaitable[T] | T`; with the asyncio client they are always awaitable."""
    return await answer


def _writes(frames: Sequence[Recorded], cap: int) -> list[Any]:
    """The three runs of arguments of the script, each after its length, with one entry for each distinct key."""
    compress = ZstdCompressor(level=1).compress
    values: dict[str, bytes | str] = {}
    recent: defaultdict[str, list[str]] = defaultdict(list)
    counts: Counter[tuple[int, int, int]] = Counter()
    for one in frames:
        lines = one.lines()
        heads = decode_heads(lines)
        for first in range(0, len(lines), BLOCK):
            block = f"{one.sequence}:{first // BLOCK}"
            values[f"b:{block}"] = compress(b"\n".join(lines[first : first + BLOCK]))
            for line, head in enumerate(heads[first : first + BLOCK]):
                metadata = head.metadata
                values[f"e:{metadata.uid}"] = f"{block}:{line}"
                entry = f"{head.time} {block}:{line}"
                if metadata.correlation_uid:
                    recent[f"c:{metadata.correlation_uid}"].append(entry)
                for value in seen_in(head):
                    recent[f"o:{value}"].append(entry)
                counts[head.time // MINUTE_MS, head.class_uid, head.severity_id] += 1
    args: list[Any] = [len(values)]
    for pair in values.items():
        args += pair
    args.append(len(recent))
    for key, entries in recent.items():
        latest = entries[-cap:]
        args += (key, len(latest), *latest)
    args.append(len(counts))
    for (minute, class_uid, severity_id), count in counts.items():
        args += (minute * MINUTE_MS, f"{class_uid} {severity_id}", count)
    return args
