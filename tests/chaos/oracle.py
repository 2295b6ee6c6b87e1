"""What the log holds, against what was asked and told, in numbers; of which those that name a fault shall be 0.

Invariant: everything is recomputed from the payloads; no count, digest or position that Tidegate keeps is believed,
except where just that is what is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from tidegate import subject
from tidegate.entities.alert import RAISED
from tidegate.entities.effects import KIND, EffectProgress
from tidegate.log import Log, lines_of

__all__ = ["Alerts", "Commands", "Counts", "Entities", "Logged", "alerts", "commands", "counts", "entities", "read"]


class _Metadata(Struct):
    correlation_uid: str = ""


class _Event(Struct):
    metadata: _Metadata


class _Happened(Struct):
    type: str
    count: int = 1


class Changed(Struct, frozen=True):
    """A change of an entity, as the log has it."""

    id: str
    version: int
    events: list[_Happened]
    command: str = ""

    def has(self, tag: str) -> bool:
        return any(one.type == tag for one in self.events)


class Logged(Struct, kw_only=True):
    """What the log holds, besides the ids of events."""

    correlated: Counter[str]
    """Correlation id -> events."""
    changes: dict[str, list[Changed]]
    """Kind -> changes, in order."""
    due: int
    """Effects of alerts, as the cells that have them count them."""


class Counts(Struct, frozen=True, kw_only=True):
    """Events as correlations count them, against events."""

    events: int
    missing: int = 0
    surplus: int = 0


class Entities(Struct, frozen=True, kw_only=True):
    """The versions of the entities of one kind."""

    changes: int
    repeated: int = 0
    gaps: int = 0


class Alerts(Struct, frozen=True, kw_only=True):
    """Alerts raised, against the effects that they had."""

    raised: int
    raised_again: int = 0
    """Raised anew without having been forgotten."""
    not_due: int = 0
    """Raised, but counted by no effects cell; below 0: counted without having been raised."""
    told_again: int = 0
    told_unraised: int = 0
    unheard: int = 0
    """Not wrong: an effect comes at most once, and messages that are not stored are lost with a connection."""


class Commands(Struct, frozen=True, kw_only=True):
    """Commands that were answered, against their changes."""

    answered: int
    lost: int = 0
    doubled: int = 0


_EVENT = msgspec.json.Decoder(_Event)
_CHANGE = msgspec.json.Decoder(Changed)


async def read(log: Log, kinds: Iterable[str]) -> Logged:
    """All of it."""
    correlated: Counter[str] = Counter()
    async for message in log.read(subject.event("*")):
        correlated.update(_EVENT.decode(line).metadata.correlation_uid for line in lines_of(message))
    correlated.pop("", None)
    changes: dict[str, list[Changed]] = {kind: [] for kind in kinds}
    for kind, found in changes.items():
        async for message in log.read(subject.entity(kind, "*")):
            found += [_CHANGE.decode(line) for line in lines_of(message)]
    due = 0
    for shard in range(log.shards):
        _, progress = await log.newest(KIND, shard, EffectProgress)
        due += progress.effects if progress else 0
    return Logged(correlated=correlated, changes=changes, due=due)


def counts(changes: Iterable[Changed], correlated: Mapping[str, int]) -> Counts:
    """Each event is counted exactly once, by its own correlation."""
    counted: Counter[str] = Counter()
    for change in changes:
        for one in change.events:
            if one.type == "correlation.observed.v1":
                counted[change.id] += one.count
    expected = Counter(correlated)
    return Counts(events=expected.total(), missing=(expected - counted).total(), surplus=(counted - expected).total())


def entities(kind: str, changes: Sequence[Changed]) -> Entities:
    """Versions go up by one; after an entity was forgotten they begin again."""
    versions: dict[str, int] = {}
    repeated = gaps = 0
    for change in changes:
        before = versions.get(change.id, 0)
        repeated += change.version <= before
        gaps += change.version > before + 1
        versions[change.id] = 0 if change.has(f"{kind}.forgotten.v1") else max(before, change.version)
    return Entities(changes=len(changes), repeated=repeated, gaps=gaps)


def alerts(changes: Iterable[Changed], due: int, told: Counter[str]) -> Alerts:
    """Each alert is raised once, due to be told once, and told at most once."""
    raised: Counter[str] = Counter(change.id for change in changes if change.has(RAISED))
    return Alerts(
        raised=raised.total(),
        raised_again=raised.total() - len(raised),
        not_due=raised.total() - due,
        told_again=told.total() - len(told),
        told_unraised=len(told.keys() - raised.keys()),
        unheard=len(raised.keys() - told.keys()),
    )


def commands(changes: Iterable[Changed], answered: set[str]) -> Commands:
    """Each command that was answered took effect, and none did twice."""
    found = Counter(change.command for change in changes if change.command)
    return Commands(answered=len(answered), lost=len(answered - found.keys()), doubled=found.total() - len(found))
