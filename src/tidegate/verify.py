"""Comparing a read model with the log, frame by frame, and repairing just the frames that differ.

Invariant: what is compared is read from the data on both sides; a position says only how far to compare.

A read model that forgets (hot, warm) may lack what is past its time, and only that; it may still have it, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from tidegate import history
from tidegate.head import records_of
from tidegate.history import Archive, Entry
from tidegate.log import Log
from tidegate.projection import Rebuildable, Tally

__all__ = ["Compared", "Difference", "Shard", "compare", "repair"]

_NOTHING = Tally(count=0, digest=0)
_MARGIN_MS = 120_000
"""An event that goes so soon is not missed: servers expire within a minute, and the comparison itself takes time."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that is not in the read model as it is in the log, with the ids of its events that are not."""

    sequence: int
    logged: Tally
    found: Tally
    missing: list[str] = []
    extra: list[str] = []
    differing: list[str] = []

    def text(self) -> str:
        parts = [
            f"{name} {', '.join(ids[:10])}"
            for name, ids in (("missing", self.missing), ("extra", self.extra), ("differing", self.differing))
            if ids
        ]
        return f"LOG/{self.sequence} has {self.logged.count} events, {self.found.count} found: {'; '.join(parts)}"


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One shard of the log, and what of it is in the read model."""

    shard: int
    last: int
    """How far the read model has come: what is beyond is not missing, but not yet due."""
    frames: int
    expected: Tally
    """By the log, without what the read model may have forgotten and has."""
    found: Tally


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A read model beside the log."""

    tier: str
    first: int
    """The log's sequence from which on they were compared."""
    shards: list[Shard]
    differences: list[Difference]

    @property
    def events(self) -> int:
        return sum(one.expected.count for one in self.shards)


async def compare(
    log: Log,
    model: Rebuildable,
    *,
    since_ms: int | None = None,
    archive: Archive | None = None,
    ids: int = 100,
    deep: bool = True,
) -> Compared:
    """Names events of the first `ids` frames that differ; of the others only their sequence and counts.

    `deep` as for `Rebuildable.frames`.
    """
    lasts = await _lasts(log, model)
    end = max(lasts.values())
    entries = await history.ledger(log, "all", 1, end, archive)
    # Before the log's beginning, what is extra cannot be told apart from what was trimmed.
    first = 1 if archive is not None else (await log.state()).first_sequence
    if since_ms is not None:
        first = next((one.sequence for one in entries if one.time_ms >= since_ms), end + 1)
    known = {one.sequence: one for one in entries if one.sequence >= first}
    there = await model.frames(first, end, deep=deep)
    due_ms = 0 if model.keeps_ms is None else time.time_ns() // 1_000_000 - model.keeps_ms + _MARGIN_MS
    wrong = [
        one.sequence
        for one in known.values()
        if one.sequence <= lasts[one.shard] and not _equal(one, there.get(one.sequence), due_ms)
    ]
    extra = [sequence for sequence in there if sequence not in known]
    differences: list[Difference] = []
    for sequence in sorted([*wrong, *extra]):
        entry = known.get(sequence)
        logged = Tally(count=entry.count, digest=entry.digest) if entry else _NOTHING
        named = await _named(log, model, sequence, archive) if len(differences) < ids else {}
        differences.append(Difference(sequence=sequence, logged=logged, found=there.get(sequence, _NOTHING), **named))
    shards = [_shard(shard, last, known, there, due_ms) for shard, last in lasts.items()]
    return Compared(tier=model.name, first=first, shards=shards, differences=differences)


async def _lasts(log: Log, model: Rebuildable) -> dict[int, int]:
    """How far each shard is in the read model. Raises PositionError when that is of another log."""
    lasts = {}
    for cell in history.cells_of(model, log.shards):
        position = await model.position(cell)
        await log.check(position)
        for shard in range(log.shards) if cell == "all" else (int(cell),):
            lasts[shard] = position.sequence if position else 0
    return lasts


def _shard(shard: int, last: int, known: Mapping[int, Entry], there: Mapping[int, Tally], due_ms: int) -> Shard:
    mine = [one for one in known.values() if one.shard == shard and one.sequence <= last]
    due = [one for one in mine if one.time_ms >= due_ms or one.sequence in there]
    found = [there[one.sequence] for one in mine if one.sequence in there]
    return Shard(shard=shard, last=last, frames=len(mine), expected=_sum(due), found=_sum(found))


def _sum(parts: Sequence[Entry] | Sequence[Tally]) -> Tally:
    return Tally(count=sum(one.count for one in parts), digest=sum(one.digest for one in parts) % 2**64)


def _equal(logged: Entry, found: Tally | None, due_ms: int) -> bool:
    if found is not None and (found.count, found.digest) == (logged.count, logged.digest):
        return True
    # What is just about to be forgotten may be so in part.
    return logged.time_ms < due_ms and (found is None or found.count <= logged.count)


async def _named(log: Log, model: Rebuildable, sequence: int, archive: Archive | None) -> dict[str, list[str]]:
    logged = {
        record.index: record
        async for one in history.frames(log, "all", sequence, sequence, archive)
        for record in records_of(one)
    }
    seen: set[int] = set()
    extra, differing = [], []
    for record in await model.records(sequence):
        here = logged.get(record.index)
        if here is None or record.index in seen:
            extra.append(record.event_id)
        elif here.crc != record.crc:
            differing.append(here.event_id)
        seen.add(record.index)
    missing = [one.event_id for index, one in logged.items() if index not in seen]
    return {"missing": missing, "extra": extra, "differing": differing}


async def repair(
    log: Log, model: Rebuildable, differences: Sequence[Difference], archive: Archive | None = None
) -> int:
    """Replay just these frames, and take out those that are not in the log; returns how many events were put in."""
    events = 0
    for difference in differences:
        sequence = difference.sequence
        frames = [one async for one in history.frames(log, "all", sequence, sequence, archive)]
        await model.repair(frames, [] if frames else [sequence])
        events += sum(one.count for one in frames)
    return events
