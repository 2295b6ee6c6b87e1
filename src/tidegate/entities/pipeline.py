"""Pipelines through their life: which versions were defined, which one is in use, and who or what decided so.

Invariant: only a version that was defined can be activated, and the version before is always known, so that there is a
way back. The texts of the versions are in the log; whoever defines one has compiled it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity
from tidegate.errors import CommandRefusedError

__all__ = [
    "Activate",
    "ConcludeWatch",
    "Define",
    "Defined",
    "PipelineHistory",
    "Pipelines",
    "RecordTrial",
    "RollBack",
    "Version",
    "Watch",
    "version_of",
]

KIND = "pipeline"
MOST_VERSIONS = 50
"""Kept of each pipeline; the oldest that are not in use are forgotten."""
MOST_BYTES = 256 * 1024


def version_of(text: str) -> str:
    """The version of a pipeline with this text: 12 hexadecimal digits."""
    return sha256(text.encode()).hexdigest()[:12]


class Version(Struct, frozen=True, omit_defaults=True):
    """One version of a pipeline."""

    version: str
    text: str
    """The pipeline as TOML."""
    time_ms: int
    origin: str = ""
    """The file, or `command`."""
    by: str = ""
    optimises: str = ""
    """The version that it does the work of, quicker."""
    gain: float = 0.0
    """By how much, as measured: 0.2 is a fifth less time."""


class Watch(Struct, frozen=True, omit_defaults=True):
    """What was seen of a version in use, beside the one before."""

    version: str
    records: int = 0
    differing: int = 0
    gain: float = 0.0
    """0.2 is a fifth less time."""
    rolled_back: str = ""
    """Why; "" where it was not."""


class PipelineHistory(Struct, frozen=True, omit_defaults=True):
    """What is known of a pipeline; its id is its name. Times in milliseconds since 1970."""

    versions: tuple[Version, ...] = ()
    """Oldest first."""
    active: str = ""
    previous: str = ""
    """What a rollback goes back to."""
    activated_ms: int = 0
    activated_by: str = ""
    rejected: tuple[str, ...] = ()
    """Versions that were rolled back, the last 50."""
    watched_until_ms: int = 0
    """Until then what comes is run through the previous version too; 0: it is not watched."""
    watch: Watch | None = None
    """How the last one that was watched did."""

    def find(self, version: str) -> Version | None:
        return next((one for one in self.versions if one.version == version), None)


class Define(Struct, frozen=True, omit_defaults=True, tag="pipeline.define.v1"):
    text: str
    origin: str = "command"
    by: str = ""
    activate: bool = False
    """Use it at once, unless it was defined before."""
    optimises: str = ""
    gain: float = 0.0


class Activate(Struct, frozen=True, omit_defaults=True, tag="pipeline.activate.v1"):
    version: str
    by: str = ""
    watch_seconds: float = 0.0
    """For so long it is compared with the version before, and rolled back if it does otherwise."""


class ConcludeWatch(Struct, frozen=True, tag="pipeline.conclude_watch.v1"):
    """A version was watched long enough; with `rolled_back` it goes. Nothing, where it is not watched any more."""

    watch: Watch


class RollBack(Struct, frozen=True, omit_defaults=True, tag="pipeline.roll_back.v1"):
    by: str = ""
    reason: str = ""


class RecordTrial(Struct, frozen=True, omit_defaults=True, tag="pipeline.record_trial.v1"):
    """What came of trying a version on recorded events."""

    version: str
    records: int
    equal: bool
    seconds_before: float
    seconds_after: float


class Defined(Struct, frozen=True, omit_defaults=True, tag="pipeline.defined.v1"):
    version: str
    text: str
    time_ms: int
    origin: str = ""
    by: str = ""
    optimises: str = ""
    gain: float = 0.0


class Activated(Struct, frozen=True, omit_defaults=True, tag="pipeline.activated.v1"):
    version: str
    previous: str
    time_ms: int
    by: str = ""
    watched_until_ms: int = 0


class Watched(Struct, frozen=True, tag="pipeline.watched.v1"):
    watch: Watch
    time_ms: int


class RolledBack(Struct, frozen=True, omit_defaults=True, tag="pipeline.rolled_back.v1"):
    version: str
    """What is in use again."""
    from_version: str
    time_ms: int
    by: str = ""
    reason: str = ""


class Tried(Struct, frozen=True, omit_defaults=True, tag="pipeline.tried.v1"):
    version: str
    records: int
    equal: bool
    seconds_before: float
    seconds_after: float
    time_ms: int


Commands = Define | Activate | ConcludeWatch | RollBack | RecordTrial
Events = Defined | Activated | Watched | RolledBack | Tried


class Pipelines(Entity[PipelineHistory, Commands, Events]):
    """One entity for each pipeline."""

    kind: ClassVar[str] = KIND
    state = PipelineHistory
    commands = Commands
    events = Events

    def decide(self, state: PipelineHistory, command: Commands, context: Context) -> Sequence[Events]:
        now = context.time_ms
        match command:
            case Define():
                return self._define(state, command, now)
            case Activate(version=version, by=by, watch_seconds=seconds):
                self._known(state, version)
                until = now + round(seconds * 1000) if seconds > 0 and state.active else 0
                return [] if version == state.active else [Activated(version, state.active, now, by, until)]
            case ConcludeWatch(watch=watch):
                if not state.watched_until_ms or watch.version != state.active:
                    return []
                found: list[Events] = [Watched(watch, now)]
                if watch.rolled_back:
                    found.append(RolledBack(state.previous, state.active, now, "optimise", watch.rolled_back))
                return found
            case RollBack(by=by, reason=reason):
                if not state.previous:
                    raise CommandRefusedError("no_previous", "there is no earlier version to go back to")
                return [RolledBack(state.previous, state.active, now, by, reason)]
            case RecordTrial():
                self._known(state, command.version)
                fields = command.records, command.equal, command.seconds_before, command.seconds_after
                return [Tried(command.version, *fields, now)]

    def _define(self, state: PipelineHistory, command: Define, now: int) -> Sequence[Events]:
        if len(command.text.encode()) > MOST_BYTES:
            raise CommandRefusedError("too_large", f"a pipeline has at most {MOST_BYTES} bytes")
        version = version_of(command.text)
        if state.find(version) is not None:
            return []
        fields = command.origin, command.by, command.optimises, command.gain
        found: list[Events] = [Defined(version, command.text, now, *fields)]
        if command.activate:
            found.append(Activated(version, state.active, now, command.by))
        return found

    def _known(self, state: PipelineHistory, version: str) -> None:
        if state.find(version) is None:
            known = ", ".join(one.version for one in state.versions) or "none"
            raise CommandRefusedError("unknown_version", f"version {version!r} was never defined; known are: {known}")

    def evolve(self, state: PipelineHistory, event: Events) -> PipelineHistory:
        match event:
            case Defined():
                fields = event.origin, event.by, event.optimises, event.gain
                versions = (*state.versions, Version(event.version, event.text, event.time_ms, *fields))
                if len(versions) > MOST_VERSIONS:
                    oldest = next(one for one in versions if one.version not in (state.active, state.previous))
                    versions = tuple(one for one in versions if one is not oldest)
                return replace(state, versions=versions)
            case Activated():
                return replace(
                    state,
                    active=event.version,
                    previous=event.previous,
                    activated_ms=event.time_ms,
                    activated_by=event.by,
                    watched_until_ms=event.watched_until_ms,
                    watch=None,
                )
            case Watched():
                return replace(state, watched_until_ms=0, watch=event.watch)
            case RolledBack():
                return replace(
                    state,
                    active=event.version,
                    previous="",
                    activated_ms=event.time_ms,
                    activated_by=event.by,
                    rejected=(*state.rejected, event.from_version)[-MOST_VERSIONS:],
                    watched_until_ms=0,
                )
            case Tried():
                return state
