"""What an entity is: state that changes only by events, which one pure function decides on and another folds in.

Invariant: `decide`, `evolve`, `react` and `on_time` see nothing but their arguments, so state follows from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Struct

from tidegate.bus import Stored
from tidegate.errors import CommandRefusedError, PositionError

__all__ = ["NO_COMMAND", "Change", "Codec", "Command", "Context", "Entity", "Reaction"]

NO_COMMAND = msgspec.Raw(b"null")

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")


class Context(Struct, frozen=True, kw_only=True):
    """What is known of the moment of a decision."""

    id: str
    """Of the entity."""
    version: int
    """Changes that the entity has been through."""
    time_ms: int
    """When the log stored the input, milliseconds since 1970: the only clock there is. For `on_time`, event time."""
    watermark_ms: int = 0
    """How far event time had come before the input."""
    cause: str
    """Names the input, and no other: what new ids can be made from."""


class Reaction(Struct, frozen=True, kw_only=True):
    """What a message of the log means to entities."""

    commands: Sequence[tuple[str, Any]]
    """Ids, and what to decide on for each, in order."""
    time_ms: int = 0
    """How far event time has come with it; 0: not at all. It never comes further than when the log stored it."""


class Entity(Generic[S, C, E]):
    """A kind of entity. To be derived from; one object of it serves all entities of the kind.

    States are frozen Structs; commands and events are frozen Structs with a tag of their own, such as
    `tag="alert.raised.v1"`, or unions of them.
    """

    kind: ClassVar[str]
    """Its name: in subjects, cells and commands."""
    state: ClassVar[Any]
    commands: ClassVar[Any]
    events: ClassVar[Any]
    upcasters: ClassVar[Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """Old tag -> what turns such an event, as JSON objects, into one of a newer tag."""
    follows: ClassVar[Sequence[str]] = ()
    """What it reacts to: kinds in the log, `event` for normalised events."""
    all_shards: ClassVar[bool] = False
    """Whether it reacts to messages of every shard, and not only to those of its own."""
    idle_seconds: ClassVar[float | None] = None
    """After so long without anything to react to, event time goes on with the clock; None: it stands still."""
    snapshot_every: ClassVar[int] = 50_000
    """Changes of a cell after which its states are stored."""

    def initial(self, entity_id: str) -> S:
        """The state before the first event."""
        state: S = self.state()
        return state

    def decide(self, state: S, command: C, context: Context) -> Sequence[E]:
        """What happens because of the command; nothing is an answer too. Raises CommandRefusedError."""
        raise CommandRefusedError("unknown", f"{self.kind} takes no commands")

    def evolve(self, state: S, event: E) -> S | None:
        """The state after the event; None once nothing needs to be known of the entity any more."""
        raise NotImplementedError

    def react(self, message: Stored, shard: int, shards: int) -> Reaction:
        """What a message of the log that the kind follows means to the entities of `shard`."""
        return Reaction(commands=())

    def asked(self, events: Sequence[E]) -> Sequence[C]:
        """The commands of people that made these events happen: what cannot be derived from what the kind follows."""
        return ()

    def due_ms(self, state: S) -> int | None:
        """The event time at which `on_time` is to be asked."""
        return None

    def on_time(self, state: S, context: Context) -> Sequence[E]:
        """What happens because event time has reached `due_ms`."""
        return ()


class Change(Struct, frozen=True, omit_defaults=True):
    """What one command did to one entity: a line of `log.<kind>.<shard>`."""

    id: str
    version: int
    """After it; the first change makes version 1."""
    time_ms: int
    events: Any
    """List of the kind's events, each with its tag in `type`."""
    command: str = ""
    """Id of the command, where it came with one."""


class Command(Struct, frozen=True, omit_defaults=True):
    """A line of `cmd.<kind>.<shard>`."""

    id: str
    """Of the entity."""
    command: msgspec.Raw = msgspec.field(default_factory=lambda: NO_COMMAND)
    """One of the kind's commands, with its tag in `type`; null asks for the state only."""
    command_id: str = ""
    """A repeated command with the same id is answered like the first, and does nothing. The last 10,000 are known."""
    expected_version: int | None = None
    """Refuse unless the entity has this version."""


class Codec:
    """JSON of one kind: its commands, its changes with old tags brought up to date, its states."""

    def __init__(self, entity: Entity[Any, Any, Any]) -> None:
        self._entity = entity
        self._command = msgspec.json.Decoder(entity.commands)
        changes = msgspec.defstruct(
            "Changed",
            [
                ("id", str),
                ("version", int),
                ("time_ms", int),
                ("events", list[entity.events]),  # type: ignore[name-defined]
                ("command", str, ""),
            ],
            frozen=True,
        )
        self._change = msgspec.json.Decoder(changes)
        self.encode = msgspec.json.Encoder().encode

    def command(self, raw: bytes | msgspec.Raw) -> Any:
        """Raises CommandRefusedError."""
        try:
            return self._command.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise CommandRefusedError("invalid", f"not a command of {self._entity.kind}: {error}") from error

    def change(self, line: bytes) -> Any:
        """A Change. Raises PositionError for one that this version of the program cannot read."""
        try:
            return self._change.decode(line)
        except msgspec.ValidationError as error:
            old = msgspec.json.decode(line, type=Change)
            try:
                events = [msgspec.convert(self._upcast(event), self._entity.events) for event in old.events]
            except msgspec.ValidationError:
                raise PositionError(
                    f"an event of {self._entity.kind} {old.id!r} cannot be read ({error}); it was written by a newer"
                    " version, or its upcaster is missing"
                ) from error
            return msgspec.structs.replace(old, events=events)

    def _upcast(self, event: Any) -> Any:
        while isinstance(event, dict) and (upcast := self._entity.upcasters.get(event.get("type", ""))):
            event = upcast(event)
        return event

    def fold(self, entity_id: str, state: Any, events: Iterable[Any]) -> Any:
        """The state after `events`; None, before and after, is that of an entity of which nothing is known."""
        entity = self._entity
        for event in events:
            state = entity.evolve(entity.initial(entity_id) if state is None else state, event)
        return state
