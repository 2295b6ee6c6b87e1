"""Alerts: what people are to look at, raised by correlations that escalate, and what people did about it.

Invariant: an alert is raised once in its life; raised again it is `repeated` while it is open, and `reopened` once it
was resolved. So whatever follows from `alert.raised.v1` follows once an alert.

Its clock is the log's: times are when the log stored what they are about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidegate import frame
from tidegate.actor.entity import Context, Entity, Reaction
from tidegate.actor.pulling import Delivered
from tidegate.bus import Stored
from tidegate.entities.correlation import Escalated
from tidegate.errors import CommandRefusedError

__all__ = [
    "RAISED",
    "Acknowledge",
    "Acknowledged",
    "Alert",
    "Alerts",
    "Forgotten",
    "Raise",
    "Raised",
    "Reopened",
    "Repeated",
    "Resolve",
    "Resolved",
    "happened",
]

E = TypeVar("E")

RAISED = "alert.raised.v1"
_ESCALATED = "correlation.escalated.v1"
_WHY = {
    "severity": "an event of severity {severity}",
    "classes": "events of many classes",
    "events": "{count} events",
}


class Alert(Struct, frozen=True, omit_defaults=True):
    """What is known of an alert; its id is that of the correlation that raised it. Times in milliseconds since 1970."""

    status: Literal["raised", "acknowledged", "resolved"] = "raised"
    title: str = ""
    severity: int = 0
    """The worst OCSF severity that it was raised with."""
    raisings: int = 0
    """How often it was raised; 0 for one of which nothing is known."""
    raised_ms: int = 0
    """First."""
    raised_by: str = ""
    """Empty: the correlation."""
    last_raised_ms: int = 0
    acknowledged_ms: int = 0
    acknowledged_by: str = ""
    resolved_ms: int = 0
    resolved_by: str = ""
    note: str = ""
    """Of who resolved it."""


class Raise(Struct, frozen=True, omit_defaults=True, tag="alert.raise.v1"):
    title: str
    severity: int = 0
    by: str = ""
    """Empty: the correlation with the same id."""


class Acknowledge(Struct, frozen=True, tag="alert.acknowledge.v1"):
    by: str


class Resolve(Struct, frozen=True, omit_defaults=True, tag="alert.resolve.v1"):
    by: str
    note: str = ""


class Raised(Struct, frozen=True, omit_defaults=True, tag=RAISED):
    """For the first time."""

    time_ms: int
    """Here and below: when the log stored what led to it, milliseconds since 1970."""
    title: str
    severity: int = 0
    by: str = ""


class Repeated(Struct, frozen=True, omit_defaults=True, tag="alert.repeated.v1"):
    """Raised again while it was open; it stays with whom it is."""

    time_ms: int
    title: str
    severity: int = 0
    by: str = ""


class Reopened(Struct, frozen=True, omit_defaults=True, tag="alert.reopened.v1"):
    """Raised again after it was resolved: nobody has acknowledged it any more."""

    time_ms: int
    title: str
    severity: int = 0
    by: str = ""


class Acknowledged(Struct, frozen=True, tag="alert.acknowledged.v1"):
    time_ms: int
    by: str


class Resolved(Struct, frozen=True, omit_defaults=True, tag="alert.resolved.v1"):
    time_ms: int
    by: str
    note: str = ""


class Forgotten(Struct, frozen=True, tag="alert.forgotten.v1"):
    """Nothing needs to be known of it any more."""


Commands = Raise | Acknowledge | Resolve
Events = Raised | Repeated | Reopened | Acknowledged | Resolved | Forgotten


class Alerts(Entity[Alert, Commands, Events]):
    """One entity for each alert, in the shard of the correlation with the same id.

    Resolved ones are forgotten after `keep_ms`, in milliseconds; those nobody has resolved never are.
    """

    kind: ClassVar[str] = "alert"
    state = Alert
    commands = Commands
    events = Events
    follows: ClassVar[Sequence[str]] = ("correlation",)
    idle_seconds: ClassVar[float | None] = 10.0

    def __init__(self, keep_ms: int = 7 * 24 * 3_600_000) -> None:
        self.keep_ms = keep_ms

    def react(self, message: Stored, shard: int, shards: int) -> Reaction:
        """Every escalation raises the alert with the id of its correlation."""
        commands = [
            (entity_id, Raise(_title(event), event.severity, event.by))
            for entity_id, event in happened(message, _ESCALATED, _ESCALATIONS)
        ]
        return Reaction(commands=commands, time_ms=message.time_ms)

    def decide(self, state: Alert, command: Commands, context: Context) -> Sequence[Events]:
        now = context.time_ms
        if isinstance(command, Raise):
            told = (now, command.title, command.severity, command.by)
            if not state.raisings:
                return (Raised(*told),)
            return (Reopened(*told) if state.status == "resolved" else Repeated(*told),)
        if not state.raisings:
            raise CommandRefusedError("unknown", f"nothing is known of an alert {context.id!r}")
        if state.status == "resolved":
            raise CommandRefusedError("resolved", f"already resolved by {state.resolved_by}")
        if not command.by.strip():
            raise CommandRefusedError("invalid", "say who you are (`by`)")
        if isinstance(command, Resolve):
            return (Resolved(now, command.by, command.note),)
        if state.status == "acknowledged":
            raise CommandRefusedError("acknowledged", f"already acknowledged by {state.acknowledged_by}")
        return (Acknowledged(now, command.by),)

    def evolve(self, state: Alert, event: Events) -> Alert | None:
        match event:
            case Raised(time_ms, title, severity, by):
                return Alert("raised", title, severity, 1, time_ms, by, time_ms)
            case Repeated():
                return _again(state, event)
            case Reopened():
                again = _again(state, event)
                return replace(
                    again,
                    status="raised",
                    acknowledged_ms=0,
                    acknowledged_by="",
                    resolved_ms=0,
                    resolved_by="",
                    note="",
                )
            case Acknowledged(time_ms, by):
                return replace(state, status="acknowledged", acknowledged_ms=time_ms, acknowledged_by=by)
            case Resolved(time_ms, by, note):
                return replace(state, status="resolved", resolved_ms=time_ms, resolved_by=by, note=note)
        return None

    def due_ms(self, state: Alert) -> int | None:
        return state.resolved_ms + self.keep_ms if state.status == "resolved" else None

    def on_time(self, state: Alert, context: Context) -> Sequence[Events]:
        return (Forgotten(),)


def happened(message: Stored | Delivered, tag: str, decoder: msgspec.json.Decoder[E]) -> list[tuple[str, E]]:
    """The events with `tag`, which `decoder` reads, in a frame of changes, with the ids of their entities, in order.

    A line without the tag is not looked into; other events may have any form.
    """
    quoted = f'"{tag}"'.encode()
    data = frame.inflate(message.payload, "zstd", 2**31)
    if quoted not in data:
        return []
    found: list[tuple[str, E]] = []
    for line in data.split(b"\n"):
        if quoted not in line:
            continue
        change = _CHANGES.decode(line)
        for raw in change.events:
            if quoted in bytes(raw):
                with contextlib.suppress(msgspec.ValidationError):
                    found.append((change.id, decoder.decode(raw)))
    return found


class _Change(Struct, frozen=True):
    id: str
    events: list[msgspec.Raw]


_CHANGES = msgspec.json.Decoder(_Change)
_ESCALATIONS = msgspec.json.Decoder(Escalated)


def _title(event: Escalated) -> str:
    if event.by:
        return f"Escalated: {event.reason}"
    return "Escalated: " + _WHY.get(event.reason, event.reason).format(severity=event.severity, count=event.count)


def _again(state: Alert, event: Repeated | Reopened) -> Alert:
    return replace(
        state,
        title=event.title,
        severity=max(state.severity, event.severity),
        raisings=state.raisings + 1,
        last_raised_ms=event.time_ms,
    )
