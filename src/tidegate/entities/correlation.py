"""Correlations: what the events that share a `metadata.correlation_uid` add up to, and how serious that is.

Invariant: the counts, the first and last event and the status of one that has not been closed depend on the events and
their order alone, and not on how they were cut into frames.

A correlation is `new`; `active` from the n-th event on; `escalated` once its worst severity, its distinct classes or
its events reach a rule, or because somebody says so; `closed` when event time has passed its last event by the
timeout, or because somebody says so; forgotten some time later. An event later than all before reopens a closed one,
unless event time has already passed that event by the timeout. Later than that, events are counted and change nothing
else, except that those which make the rules escalate it always do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import ClassVar, Literal, NamedTuple

from msgspec import Struct

from tidegate.actor.entity import Context, Entity, Reaction
from tidegate.bus import Stored
from tidegate.config import CorrelationRules
from tidegate.errors import CommandRefusedError
from tidegate.head import EventHead, decode_heads, normalise
from tidegate.log import recorded

__all__ = [
    "Activated",
    "Close",
    "Closed",
    "Correlation",
    "CorrelationRules",
    "Correlations",
    "Escalate",
    "Escalated",
    "Forgotten",
    "Observed",
    "Reopened",
    "Seen",
]

Status = Literal["new", "active", "escalated", "closed"]

OTHER = 99
"""OCSF's severity `Other`: not above the rest."""

_SHORT = 100
"""Characters of an observable that is certainly no overlong one, even in lower case."""

_time = attrgetter("time")


class Correlation(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is known of the events that share a correlation id."""

    count: int = 0
    """Events; 0 for one of which nothing is known."""
    status: Status = "new"
    since_ms: int = 0
    """Event time at which it got its status, as precisely as a frame: the last event of the one that changed it."""
    severity: int = 0
    """The worst OCSF severity, `Other` left aside."""
    first_id: str = ""
    """The earliest event; of several at one time, the one that came first."""
    first_ms: int = 0
    """Its time, milliseconds since 1970. An event without a time, or with one in the future, has the time at which the
    log stored it."""
    last_id: str = ""
    """The latest event; of several at one time, the one that came last."""
    last_ms: int = 0
    classes: dict[int, int] = {}
    """OCSF class_uid -> events."""
    severities: dict[int, int] = {}
    """OCSF severity_id -> events."""
    sources: tuple[str, ...] = ()
    """Distinct, in order of appearance."""
    observables: dict[str, int] = {}
    """The newest distinct values of the events' observables, oldest first -> when the log stored the event that brought
    it, milliseconds since 1970. Normalised like the keys of read models."""
    left_out: int = 0
    """Observables that gave way to newer ones; one that comes back is counted again."""
    reason: str = ""
    """Why it was escalated or closed."""
    by: str = ""
    """Who did it; empty: the rules."""
    reopened: int = 0
    """How often."""
    event_id: str = ""
    """The event that came last, whatever its time."""
    published_ms: int = 0
    """When the log stored it, milliseconds since 1970."""
    topic: str = ""
    """The subject that it came on."""


class Escalate(Struct, frozen=True, tag="correlation.escalate.v1"):
    reason: str
    by: str


class Close(Struct, frozen=True, tag="correlation.close.v1"):
    reason: str
    by: str


class Seen(NamedTuple):
    """The events of one frame that belong to one correlation. Not a command that anybody could send."""

    heads: Sequence[EventHead]
    published_ms: int
    topic: str


class Observed(Struct, frozen=True, omit_defaults=True, gc=False, tag="correlation.observed.v1"):
    """Events of one frame: only what they add and change."""

    event_id: str
    """The last of them."""
    published_ms: int
    classes: dict[int, int]
    severities: dict[int, int]
    count: int = 1
    first_ms: int = 0
    """The new time of the earliest event; 0: as before."""
    first_id: str = ""
    """The new earliest event; empty: `event_id`."""
    last_ms: int = 0
    last_id: str = ""
    sources: tuple[str, ...] = ()
    """New ones."""
    observables: list[str] = []
    """New ones, in order; of more than are kept, the last."""
    left_out: int = 0
    keep: int = 64
    """Of all observables, so many stay."""
    topic: str = ""
    """Empty: as before."""


class Activated(Struct, frozen=True, omit_defaults=True, gc=False, tag="correlation.activated.v1"):
    """There are enough events for it to be active."""

    time_ms: int
    """Here and below: event time, milliseconds since 1970."""


class Escalated(Struct, frozen=True, omit_defaults=True, gc=False, tag="correlation.escalated.v1"):
    time_ms: int
    reason: str
    """`severity`, `classes` or `events`, or a person's words."""
    severity: int = 0
    """The worst so far."""
    count: int = 0
    """Events so far."""
    by: str = ""
    """Empty: the rules."""


class Closed(Struct, frozen=True, omit_defaults=True, gc=False, tag="correlation.closed.v1"):
    time_ms: int
    reason: str
    """`timeout`, or a person's words."""
    by: str = ""
    """Empty: the rules."""


class Reopened(Struct, frozen=True, omit_defaults=True, gc=False, tag="correlation.reopened.v1"):
    """It is active again."""

    time_ms: int


class Forgotten(Struct, frozen=True, gc=False, tag="correlation.forgotten.v1"):
    """Nothing needs to be known of it any more."""


Commands = Escalate | Close
Events = Observed | Activated | Escalated | Closed | Reopened | Forgotten

_NOTHING = Correlation()


class Correlations(Entity[Correlation, Commands | Seen, Events]):
    """One entity for each correlation id; it lives in the shard that its events are in."""

    kind: ClassVar[str] = "correlation"
    state = Correlation
    commands = Commands
    events = Events
    follows: ClassVar[Sequence[str]] = ("event",)
    idle_seconds: ClassVar[float | None] = 10.0

    def __init__(self, rules: CorrelationRules | None = None) -> None:
        self.rules = rules or CorrelationRules()

    def initial(self, entity_id: str) -> Correlation:
        return _NOTHING

    def react(self, message: Stored, shard: int, shards: int) -> Reaction:
        """The events of a frame by correlation id, which are all of this shard; those without one are passed over."""
        heads = decode_heads(recorded(message).lines())
        groups: defaultdict[str, list[EventHead]] = defaultdict(list)
        for head in heads:
            if uid := head.metadata.correlation_uid:
                groups[uid].append(head)
        stored, topic = message.time_ms, message.subject
        latest = max(map(_time, heads), default=0)
        if latest > stored:
            # A clock that is ahead shall not close what others still write to.
            latest = max((time for time in map(_time, heads) if time <= stored), default=0)
        return Reaction(
            commands=[(uid, Seen(group, stored, topic)) for uid, group in groups.items()], time_ms=max(latest, 0)
        )

    def decide(self, state: Correlation, command: Commands | Seen, context: Context) -> Sequence[Events]:
        if type(command) is Seen:
            return self._observe(state, command, context)
        if not state.count:
            raise CommandRefusedError("unknown", f"nothing is known of a correlation {context.id!r}")
        if state.status == "closed":
            raise CommandRefusedError("closed", f"already closed{_by(state.by)}: {state.reason}")
        now = max(context.watermark_ms, state.last_ms)
        match command:
            case Escalate(reason, by):
                _check(reason, by)
                if state.status == "escalated":
                    raise CommandRefusedError("escalated", f"already escalated{_by(state.by)}: {state.reason}")
                return (Escalated(now, reason, state.severity, state.count, by),)
            case Close(reason, by):
                _check(reason, by)
                return (Closed(now, reason, by),)
        raise CommandRefusedError("unknown_command", f"not a command of {self.kind}")

    def _observe(self, state: Correlation, seen: Seen, context: Context) -> Sequence[Events]:
        """What the events add, and what status that makes; written to be fast, as it runs for every event."""
        heads, stored, topic = seen
        first_ms = state.first_ms or stored + 1
        last_ms = before_last = state.last_ms
        first = last = None
        classes: dict[int, int] = {}
        severities: dict[int, int] = {}
        known = sources = state.sources
        for head in heads:
            time = head.time
            if not 0 < time <= stored:
                time = stored
            if time < first_ms:
                first_ms, first = time, head
            if time >= last_ms:
                last_ms, last = time, head
            key = head.class_uid
            classes[key] = classes[key] + 1 if key in classes else 1
            key = head.severity_id
            severities[key] = severities[key] + 1 if key in severities else 1
            metadata = head.metadata
            source = metadata.log_source or metadata.log_name
            if source not in sources and source:
                sources = (*sources, source)
        newest = heads[-1]
        fresh, left_out = self._fresh(state.observables, heads)
        observed = Observed(
            newest.metadata.uid,
            stored,
            classes,
            severities,
            len(heads),
            first_ms if first is not None else 0,
            first.metadata.uid if first is not None and first is not newest else "",
            last_ms if last is not None else 0,
            last.metadata.uid if last is not None and last is not newest else "",
            sources[len(known) :] if sources is not known else (),
            fresh,
            left_out,
            self.rules.observables,
            topic if topic != state.topic else "",
        )
        if state.status == "escalated":
            return (observed,)
        return self._judge(state, observed, last_ms, last_ms > before_last, context)

    def _judge(
        self, state: Correlation, observed: Observed, last_ms: int, later: bool, context: Context
    ) -> Sequence[Events]:
        """The status that the rules give, with what was observed counted in."""
        rules = self.rules
        count = state.count + observed.count
        severity = _worst(state.severity, observed.severities)
        classes = len(observed.classes)
        if before := state.classes:
            classes = len(before) + sum([key not in before for key in observed.classes])
        why = rules.verdict(count, severity, classes)
        happened: list[Events] = [observed]
        if state.status == "closed":
            timely = later and last_ms + rules.timeout_ms > context.watermark_ms
            if not timely and not (why and not rules.verdict(state.count, state.severity, len(state.classes))):
                return happened
            happened.append(Reopened(last_ms))
        elif not why and state.status == "new" and count >= rules.active_events:
            happened.append(Activated(last_ms))
        if why:
            happened.append(Escalated(last_ms, why, severity, count))
        return happened

    def _fresh(self, known: dict[str, int], heads: Sequence[EventHead]) -> tuple[list[str], int]:
        """The observables that get in, in order, and how many leave: the oldest make room for new ones."""
        values: Iterable[str | None] = {one.value: None for head in heads for one in head.observables}
        if known:
            # Most are known, and known ones are in lower case.
            values = [value for value in values if value not in known]
            if not values:
                return [], 0
        fresh = [value.lower() if len(value) < _SHORT else normalise(value) for value in values if value]
        if known:
            fresh = [value for value in fresh if value not in known]
        fresh = list(dict.fromkeys(fresh))
        most = self.rules.observables
        if len(known) + len(fresh) <= most:
            return fresh, 0
        # One that makes room may come again within the same frame, so this is done one by one.
        kept = dict.fromkeys(known)
        fresh = []
        for value in [_key(one.value) for head in heads for one in head.observables]:
            if value and value not in kept:
                fresh.append(value)
                kept[value] = None
                while len(kept) > most:
                    del kept[next(iter(kept))]
        return fresh[-most:] if most else [], len(known) + len(fresh) - len(kept)

    def evolve(self, state: Correlation, event: Events) -> Correlation | None:
        if type(event) is Observed:
            return _add(state, event)
        match event:
            case Activated(time_ms):
                return _to(state, "active", time_ms)
            case Reopened(time_ms):
                return _to(state, "active", time_ms, reopened=1)
            case Escalated(time_ms, reason, by=by):
                return _to(state, "escalated", time_ms, reason, by)
            case Closed(time_ms, reason, by):
                return _to(state, "closed", time_ms, reason, by)
        return None

    def asked(self, events: Sequence[Events]) -> Sequence[Commands]:
        found: list[Commands] = []
        for event in events:
            match event:
                case Escalated(reason=reason, by=by) if by:
                    found.append(Escalate(reason, by))
                case Closed(reason=reason, by=by) if by:
                    found.append(Close(reason, by))
        return found

    def due_ms(self, state: Correlation) -> int | None:
        if state.status == "closed":
            return state.since_ms + self.rules.keep_ms
        return state.last_ms + self.rules.timeout_ms if state.count else None

    def on_time(self, state: Correlation, context: Context) -> Sequence[Events]:
        due = self.due_ms(state)
        if due is None or context.time_ms < due:
            return ()
        return (Forgotten(),) if state.status == "closed" else (Closed(due, "timeout"),)


def _add(state: Correlation, event: Observed) -> Correlation:
    """The state with what was observed counted in. Dictionaries are made anew: a state never changes."""
    first_ms = event.first_ms
    last_ms = event.last_ms
    if not state.count:
        classes, severities = event.classes, event.severities
    else:
        classes = state.classes.copy()
        for key, count in event.classes.items():
            classes[key] = classes.get(key, 0) + count
        severities = state.severities.copy()
        for key, count in event.severities.items():
            severities[key] = severities.get(key, 0) + count
    observables = state.observables
    if fresh := event.observables:
        if event.left_out:
            observables = _newest(observables, event)
        elif observables:
            observables = observables | dict.fromkeys(fresh, event.published_ms)
        else:
            observables = dict.fromkeys(fresh, event.published_ms)
    sources = event.sources
    return Correlation(
        state.count + event.count,
        state.status,
        state.since_ms if state.count else last_ms,
        _worst(state.severity, event.severities),
        (event.first_id or event.event_id) if first_ms else state.first_id,
        first_ms or state.first_ms,
        (event.last_id or event.event_id) if last_ms else state.last_id,
        last_ms or state.last_ms,
        classes,
        severities,
        (state.sources + sources) if sources else state.sources,
        observables,
        state.left_out + event.left_out,
        state.reason,
        state.by,
        state.reopened,
        event.event_id,
        event.published_ms,
        event.topic or state.topic,
    )


def _newest(known: dict[str, int], event: Observed) -> dict[str, int]:
    """`known` and the new observables, without the oldest."""
    kept = known.copy()
    for value in event.observables:
        kept.pop(value, None)
        kept[value] = event.published_ms
    while len(kept) > event.keep:
        del kept[next(iter(kept))]
    return kept


def _key(value: str | None) -> str:
    """An observable as `normalise` has it; empty for none."""
    if not value:
        return ""
    return value.lower() if len(value) < _SHORT else normalise(value)


def _worst(severity: int, severities: dict[int, int]) -> int:
    for one in severities:
        if one > severity and one != OTHER:
            severity = one
    return severity


def _to(
    state: Correlation, status: Status, time_ms: int, reason: str = "", by: str = "", reopened: int = 0
) -> Correlation:
    """The state with another status; spelt out, as `structs.replace` takes four times as long."""
    return Correlation(
        state.count,
        status,
        time_ms,
        state.severity,
        state.first_id,
        state.first_ms,
        state.last_id,
        state.last_ms,
        state.classes,
        state.severities,
        state.sources,
        state.observables,
        state.left_out,
        reason,
        by,
        state.reopened + reopened,
        state.event_id,
        state.published_ms,
        state.topic,
    )


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _check(reason: str, by: str) -> None:
    if not reason.strip() or not by.strip():
        raise CommandRefusedError("invalid", "say why (`reason`) and who you are (`by`)")
