"""Running raw history through the rules of today, into a set of remade frames that read models are rebuilt with.

Invariant: the log's own events stay as they are. A remade frame stands for the one at the sequence that it names, and
is there only where today's rules give something else. Records whose first frame has left INGEST keep what they became.

What a commit of the intake took in follows from the `Tidegate-Cause` of its frames: `INGEST/<first>-<last>`, of one
partition. Records before it of which nothing had become an event are run with it, so dead letters can become events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from tidegate import frame, reader, subject
from tidegate.actor.pulling import Delivered
from tidegate.bus import Bus, Outgoing, Stored
from tidegate.config import Settings
from tidegate.errors import BusError
from tidegate.intake import IntakeWork
from tidegate.log import Log, Progress, check_position, remade_message
from tidegate.pipeline.runner import Outcome, Pipeline

__all__ = ["Remade", "Reprocessing", "collect", "sets"]

KIND = "reprocess"
_MOST_RECORDS = 20_000
"""Records of a commit here; it is closed by the group that reaches it."""


class Remade(Struct, frozen=True, kw_only=True):
    """How far a set of remade frames has come, and what is in it; sums since its beginning."""

    created: str
    """Creation time of the log."""
    sequence: int = 0
    """Of the last frame of the log that was looked at."""
    finished: bool = False
    versions: dict[str, str] = {}
    """Pipeline -> version."""
    frames: int = 0
    """Frames of the log whose records were run again."""
    remade: int = 0
    """Of these, those that came out otherwise."""
    kept: int = 0
    """Frames whose records are no longer in INGEST."""
    records: int = 0
    events_before: int = 0
    events: int = 0
    dead: int = 0
    filtered: int = 0
    by_partition: dict[int, int] = {}
    """The last sequence of INGEST that was run, of each partition."""
    time_ms: int = 0


class _Group(Struct):
    """The frames of one commit of the intake."""

    first: int
    """Of INGEST."""
    last: int
    frames: list[Stored]


async def sets(bus: Bus, log: Log) -> dict[int, Remade]:
    """All sets that there are, by number."""
    found = {}
    for name in await bus.subjects(subject.LOG, subject.cell(KIND, "*")):
        number = int(name.rsplit(".", 1)[1])
        _, one = await log.newest(KIND, number, Remade)
        if one is not None:
            found[number] = one
    return dict(sorted(found.items()))


class Reprocessing:
    """Makes a set, or carries on one that was left unfinished by the same rules."""

    def __init__(self, bus: Bus, log: Log, rules: Pipeline, settings: Settings) -> None:
        self._bus = bus
        self._log = log
        self._rules = rules
        self._work = IntakeWork(bus, log, lambda: rules, 0, settings)
        self._raw: dict[int, AsyncGenerator[Stored, None]] = {}
        self._ahead: dict[int, Stored | None] = {}
        self.number = 0
        self.progress = Remade(created="")

    async def run(self) -> Remade:
        """Raises PositionError where an unfinished set is of another log, FencedError where another carries it on."""
        state = await self._log.state()
        ingest = await self._bus.stream(subject.INGEST)
        self._work.progress = Progress(stream=subject.INGEST, created=ingest.created, sequence=0)
        versions = {flow.name: flow.definition.version for flow in self._rules.flows}
        known = await sets(self._bus, self._log)
        self.number = max(known, default=0)
        newest = known.get(self.number)
        if newest is None or newest.finished or newest.versions != versions:
            self.number += 1
            newest = Remade(created=state.created, versions=versions)
        check_position(state, newest.created, newest.sequence)
        self.progress = newest
        expected, _ = await self._log.newest(KIND, self.number, Remade)
        messages: list[Outgoing] = []
        records = 0
        try:
            async with contextlib.aclosing(self._groups(newest.sequence + 1, state.last_sequence)) as groups:
                async for group in groups:
                    before = self.progress.records
                    messages += await self._again(group, ingest.first_sequence, ingest.created)
                    records += self.progress.records - before
                    if records >= _MOST_RECORDS or len(messages) >= 500:
                        expected = await self._commit(messages, expected, finished=False)
                        messages, records = [], 0
        finally:
            await self._close()
        self.progress = msgspec.structs.replace(self.progress, sequence=state.last_sequence)
        await self._commit(messages, expected, finished=True)
        return self.progress

    async def _commit(self, messages: list[Outgoing], expected: int, *, finished: bool) -> int:
        self.progress = msgspec.structs.replace(self.progress, finished=finished, time_ms=int(time.time() * 1000))
        return await self._log.append(KIND, self.number, messages, self.progress, expected)

    async def _groups(self, first: int, last: int) -> AsyncGenerator[_Group, None]:
        """The event frames of the log, by the commit that they came with."""
        group: _Group | None = None
        cause = ""
        async with contextlib.aclosing(self._log.read(subject.event("*"), first, last, headers_only=True)) as messages:
            async for message in messages:
                found = message.headers.get(frame.CAUSE, "")
                if group is not None and found == cause:
                    group.frames.append(message)
                    continue
                if group is not None:
                    yield group
                cause, group = found, None
                if found.startswith(f"{subject.INGEST}/"):
                    begin, _, end = found.partition("/")[2].partition("-")
                    group = _Group(int(begin), int(end), [message])
        if group is not None:
            yield group

    async def _again(self, group: _Group, oldest: int, created: str) -> list[Outgoing]:
        """Remade frames for those of `group` that come out otherwise."""
        now = self.progress
        count = sum(int(one.headers[frame.COUNT]) for one in group.frames)
        first = await self._bus.message_at(subject.INGEST, group.first) if group.first >= oldest else None
        # A frame that was stored before INGEST was made anew has another one's records at these sequences.
        if first is None or _seconds(created) * 1000 > group.frames[0].time_ms:
            self.progress = msgspec.structs.replace(
                now, sequence=group.frames[-1].sequence, kept=now.kept + len(group.frames)
            )
            return []
        partition = int(first.subject.rsplit(".", 1)[1])
        outcome = Outcome(self._log.shards)
        async for raw in self._until(partition, now.by_partition.get(partition, group.first - 1) + 1, group.last):
            self._work.take(_delivered(raw), outcome)
        messages = _replacing(self.number, group, outcome)
        self.progress = msgspec.structs.replace(
            now,
            sequence=group.frames[-1].sequence,
            frames=now.frames + len(group.frames),
            remade=now.remade + len(messages),
            records=now.records + outcome.records,
            events_before=now.events_before + count,
            events=now.events + outcome.events,
            dead=now.dead + sum(map(len, outcome.dead)),
            filtered=now.filtered + sum(outcome.filtered.values()),
            by_partition={**now.by_partition, partition: group.last},
        )
        return messages

    async def _until(self, partition: int, first: int, last: int) -> AsyncGenerator[Stored, None]:
        """The messages of a partition from `first` to `last`; each partition is read on where it was left."""
        if partition not in self._raw:
            end = (await self._bus.stream(subject.INGEST)).last_sequence
            self._raw[partition] = reader.read(self._bus, subject.INGEST, f"ingest.*.{partition}", first, end)
            self._ahead[partition] = await anext(self._raw[partition], None)
        while (ahead := self._ahead[partition]) is not None and ahead.sequence <= last:
            if ahead.sequence >= first:
                yield ahead
            self._ahead[partition] = await anext(self._raw[partition], None)

    async def _close(self) -> None:
        for one in self._raw.values():
            with contextlib.suppress(BusError):
                await one.aclose()


def _delivered(raw: Stored) -> Delivered:
    return Delivered(subject.INGEST, raw.subject, raw.sequence, raw.time_ms, 0, 0, raw.payload, raw.headers)


def _replacing(number: int, group: _Group, outcome: Outcome) -> list[Outgoing]:
    """The events of `outcome` in the places of the frames of `group`: of the same shard and read models, if there is
    one; else of the same read models; else of the first."""
    places = [(subject.shard_from(one.subject), one.headers.get(frame.TIERS, ""), one) for one in group.frames]
    found: dict[int, list[bytes]] = {one.sequence: [] for one in group.frames}
    for destination, shards in outcome.groups():
        tiers = destination.headers().get(frame.TIERS, "") if destination else ""
        for shard, lines in enumerate(shards):
            alike = [one for one in places if one[1] == tiers] or places
            place = next((one for one in alike if one[0] == shard), alike[0])[2]
            found[place.sequence] += lines
    return [
        remade_message(number, shard, one.sequence, found[one.sequence], tiers)
        for shard, tiers, one in places
        if (len(found[one.sequence]), frame.digest_of(found[one.sequence]))
        != (int(one.headers[frame.COUNT]), int(one.headers[frame.DIGEST]))
    ]


def _seconds(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()


async def collect(bus: Bus, log: Log, tiers: Sequence[str]) -> list[int]:
    """Forget finished sets that no generation of `tiers` has that serves, is kept or is being built; returns which."""
    used = set()
    for tier in tiers:
        _, state = await log.generation(tier)
        used |= {state.remade.get(one or 0, 0) for one in (state.active, state.previous, state.building)}
    known = await sets(bus, log)
    # The newest may be waiting to be used.
    unused = [number for number, one in known.items() if one.finished and number not in used and number != max(known)]
    for number in unused:
        await log.forget(subject.remade(number, "*"))
        await log.forget(subject.cell(KIND, number))
    return unused
