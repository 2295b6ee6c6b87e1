"""Subscriptions: who reads events of the log on from where, with what success, and what becomes of what fails.

Invariant: an epoch begins whenever the position is chosen anew (created, sought); progress that was made in another
epoch counts in the totals and moves no position. A subscription is never forgotten, so that no epoch comes twice.

The members of a group share a durable consumer on the server, which `tidegate.subscriptions` derives from this state.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from tidegate import subject
from tidegate.actor.entity import Context, Entity
from tidegate.entities.selection import EventFilter, EventType
from tidegate.errors import CommandRefusedError

__all__ = [
    "Create",
    "Created",
    "Definition",
    "Delete",
    "Deleted",
    "ErrorPolicy",
    "Failure",
    "Pause",
    "Paused",
    "Redefined",
    "Report",
    "Reported",
    "Resume",
    "Resumed",
    "Seek",
    "Sought",
    "Start",
    "Subscription",
    "Subscriptions",
    "Totals",
    "recovery",
]

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class ErrorPolicy(Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of a batch that the handler fails on."""

    retries: Count = 3
    """Attempts after the first; 0: none."""
    backoff_seconds: Seconds = 0.5
    """Before the first retry; it doubles with each, up to ..."""
    max_backoff_seconds: Seconds = 30.0
    then: Literal["dead_letter", "skip", "pause"] = "dead_letter"
    """When all attempts have failed: one dead letter for each event of the batch and on; on without; stop all members
    until somebody resumes the subscription, which then begins with this batch."""

    def delay_seconds(self, attempt: int) -> float:
        """How long to wait after the failed `attempt`, counted from 1."""
        return min(self.backoff_seconds * 2.0 ** min(attempt - 1, 60), self.max_backoff_seconds)


class Definition(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the subscription is for, the same for all members."""

    stream: str = subject.LOG
    types: tuple[EventType, ...] = ()
    """Empty: all."""
    where: EventFilter = EventFilter()
    auto_commit: bool = True
    """Whether a batch is committed when its handler returns; otherwise the handler calls `commit`."""
    max_batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 100
    processing_timeout_seconds: Seconds = 30.0
    """A handler that takes longer is cancelled, and has failed."""
    member_timeout_seconds: Annotated[float, Meta(ge=1)] = 15.0
    """What a member has in hand goes to another one after it has been silent for so long."""
    on_error: ErrorPolicy = ErrorPolicy()


class Start(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where to begin: at the first frame at or after a sequence, or stored at or after a time."""

    sequence: Annotated[int, Meta(ge=1)] = 1
    time_ms: Count = 0
    """Milliseconds since 1970; 0: the sequence counts."""


class Totals(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Of events whose fate is decided: processed + failed + filtered is what was read."""

    processed: Count = 0
    """Committed."""
    failed: Count = 0
    """Given up after all attempts: dead letters, or skipped."""
    filtered: Count = 0
    """Not wanted."""
    batches: Count = 0
    """Calls of the handler, the failed ones included."""
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    """Spent in the handler."""

    def plus(self, more: Totals) -> Totals:
        """The sums."""
        return Totals(**{name: getattr(self, name) + getattr(more, name) for name in self.__struct_fields__})


class Failure(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The last thing that went wrong: what was tried, and what happens next."""

    member: str
    """Who reports it: host and process."""
    at: str
    """The first event of the batch: `LOG/<sequence>#<index>`."""
    events: Count
    error: str
    attempt: Count = 0
    attempts: Count = 0
    """So many are allowed; 0: it was no attempt."""
    next: Literal["retry", "redelivery", "alone", "dead_letter", "skip", "pause", "recovered", "committed"]
    """`recovered`: the next attempt has succeeded. `committed`: nothing, it was committed before the handler failed.
    `alone`: the event is tried by itself, as members may have died of it; if this one does too, it is given up."""
    next_seconds: float = 0.0
    """From `time_ms` on."""
    time_ms: int = 0
    """When the log stored the report of it."""


class Subscription(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The state; the entity's id is `<name>/<group>`. Times in milliseconds since 1970."""

    status: Literal["", "active", "paused", "deleted"] = ""
    """Empty: it was never created."""
    definition: Definition = Definition()
    epoch: int = 0
    start: Start = Start()
    """Where the epoch began."""
    created: str = ""
    """Creation time of the stream that positions are of."""
    floor: int = 0
    """Sequence up to which all frames are settled, as of the last report of a member."""
    places: dict[int, int] = {}
    """Frame above the floor -> index of its first event that is not settled: how far whoever had it last has come."""
    totals: Totals = Totals()
    since_ms: int = 0
    """Of the status."""
    reason: str = ""
    """Why it is paused."""
    last_failure: Failure | None = None


class Create(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.create.v1"):
    """Make it, or give the one there is this definition; one that exists keeps its position."""

    definition: Definition
    start: Start
    created: str


class Pause(Struct, frozen=True, omit_defaults=True, tag="subscription.pause.v1"):
    reason: str = ""


class Resume(Struct, frozen=True, tag="subscription.resume.v1"):
    pass


class Seek(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.seek.v1"):
    start: Start
    created: str


class Delete(Struct, frozen=True, tag="subscription.delete.v1"):
    pass


class Report(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.report.v1"):
    """What a member has done since its last report."""

    epoch: int
    totals: Totals = Totals()
    floor: int = 0
    places: dict[int, int] = {}
    failure: Failure | None = None


class Created(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.created.v1"):
    time_ms: int
    definition: Definition
    start: Start
    created: str


class Redefined(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.redefined.v1"):
    definition: Definition


class Paused(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.paused.v1"):
    time_ms: int
    reason: str = ""


class Resumed(Struct, frozen=True, kw_only=True, tag="subscription.resumed.v1"):
    time_ms: int


class Sought(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.sought.v1"):
    start: Start
    created: str


class Deleted(Struct, frozen=True, kw_only=True, tag="subscription.deleted.v1"):
    time_ms: int


class Reported(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="subscription.reported.v1"):
    totals: Totals = Totals()
    floor: int = 0
    places: dict[int, int] = {}
    failure: Failure | None = None


Commands = Create | Pause | Resume | Seek | Delete | Report
Events = Created | Redefined | Paused | Resumed | Sought | Deleted | Reported


class Subscriptions(Entity[Subscription, Commands, Events]):
    """One entity for each name and group. Every command may be given again: it then changes nothing."""

    kind: ClassVar[str] = "subscription"
    state = Subscription
    commands = Commands
    events = Events

    def decide(self, state: Subscription, command: Commands, context: Context) -> Sequence[Events]:
        now = context.time_ms
        alive = state.status in ("active", "paused")
        match command:
            case Create(definition=definition, start=start, created=created):
                if not alive:
                    return (Created(time_ms=now, definition=definition, start=start, created=created),)
                return () if definition == state.definition else (Redefined(definition=definition),)
            case Delete() if state.status == "deleted":
                return ()
            case _ if not alive:
                what = "was deleted" if state.status else "does not exist; `subscribe_to_stream` makes one"
                raise CommandRefusedError("unknown", f"subscription {context.id} {what}")
            case Pause(reason=reason):
                return () if state.status == "paused" else (Paused(time_ms=now, reason=reason),)
            case Resume():
                return () if state.status == "active" else (Resumed(time_ms=now),)
            case Seek(start=start, created=created):
                return (Sought(start=start, created=created),)
            case Delete():
                return (Deleted(time_ms=now),)
            case Report():
                return _reported(state, command, now)

    def evolve(self, state: Subscription, event: Events) -> Subscription:
        match event:
            case Created(time_ms=now, definition=definition, start=start, created=created):
                return Subscription(
                    status="active",
                    definition=definition,
                    epoch=state.epoch + 1,
                    start=start,
                    created=created,
                    since_ms=now,
                )
            case Redefined(definition=definition):
                return replace(state, definition=definition)
            case Paused(time_ms=now, reason=reason):
                return replace(state, status="paused", since_ms=now, reason=reason)
            case Resumed(time_ms=now):
                failure = state.last_failure
                if failure is not None and failure.next == "pause":
                    failure = replace(failure, next="redelivery")
                return replace(state, status="active", since_ms=now, reason="", last_failure=failure)
            case Sought(start=start, created=created):
                return replace(state, epoch=state.epoch + 1, start=start, created=created, floor=0, places={})
            case Deleted(time_ms=now):
                return replace(state, status="deleted", since_ms=now, reason="", places={})
            case Reported(totals=totals, floor=floor, places=places, failure=failure):
                floor = max(floor, state.floor)
                places = {at: place for at, place in (state.places | places).items() if at > floor}
                return replace(
                    state,
                    totals=state.totals.plus(totals),
                    floor=floor,
                    places=places,
                    last_failure=failure or state.last_failure,
                )


def _reported(state: Subscription, report: Report, now: int) -> Sequence[Events]:
    current = report.epoch == state.epoch
    failure = replace(report.failure, time_ms=now) if report.failure is not None else None
    reported = Reported(
        totals=report.totals,
        floor=max(report.floor, state.floor) if current else state.floor,
        places=report.places if current else {},
        failure=failure,
    )
    if reported == Reported(floor=state.floor):
        return ()
    if failure is not None and failure.next == "pause" and current and state.status == "active":
        return (reported, Paused(time_ms=now, reason=f"attempt {failure.attempt} of {failure.attempts} failed"))
    return (reported,)


def recovery(state: Subscription) -> str:
    """One line for people about the last failure: what was tried, and what happens next; "" when nothing failed."""
    failure = state.last_failure
    if failure is None:
        return ""
    when = _clock(failure.time_ms)
    if failure.attempts:
        tried = f"{when} attempt {failure.attempt} of {failure.attempts} of {failure.at} ({failure.events} events)"
    else:
        tried = f"{when} {failure.at} ({failure.events} events)"
    match failure.next:
        case "retry":
            at = _clock(failure.time_ms + int(failure.next_seconds * 1000))
            then = f"next: attempt {failure.attempt + 1} at {at} by {failure.member}"
        case "redelivery":
            then = "next: delivered again to a member of the group"
        case "alone":
            then = "next: this event is tried alone; if the process ends again, it is given up"
        case "dead_letter":
            then = "its events are dead letters (`tidegate dead list --stage subscription`); the following go on"
        case "skip":
            then = "its events were skipped; the following go on"
        case "pause":
            then = "paused; `tidegate subscriptions resume` tries it again, `seek` goes elsewhere"
        case "recovered":
            then = f"attempt {failure.attempt + 1} succeeded"
        case "committed":
            then = "the batch had been committed; the following go on"
    return f"{tried}: {failure.error}; {then}"


def _clock(time_ms: int) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).strftime("%H:%M:%SZ")
