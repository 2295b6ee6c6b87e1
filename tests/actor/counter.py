"""A kind of entity for tests: it adds up, from commands and from the events of the log."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity, Reaction
from tidegate.bus import Stored
from tidegate.errors import CommandRefusedError
from tidegate.head import decode_heads
from tidegate.log import recorded


class Counter(Struct, frozen=True):
    total: int = 0
    seen: int = 0
    last: str = ""


class Add(Struct, frozen=True, tag="counter.add.v1"):
    n: int


class Note(Struct, frozen=True, tag="counter.note.v1"):
    n: int


class Added(Struct, frozen=True, tag="counter.added.v2"):
    n: int
    cause: str = ""


class Noted(Struct, frozen=True, tag="counter.noted.v1"):
    n: int


class Counters(Entity[Counter, Add | Note, Added | Noted]):
    kind = "counter"
    state = Counter
    commands = Add | Note
    events = Added | Noted
    follows = ("event",)
    upcasters = {"counter.added.v1": lambda old: {"type": "counter.added.v2", "n": old["amount"]}}  # noqa: RUF012
    snapshot_every = 500

    def decide(self, state: Counter, command: Add | Note, context: Context) -> Sequence[Added | Noted]:
        if isinstance(command, Note):
            return [Noted(command.n)]
        if command.n == 0:
            raise ZeroDivisionError("zero")
        if command.n < 0:
            raise CommandRefusedError("negative", "n must not be negative")
        return [Added(command.n, context.cause)]

    def evolve(self, state: Counter, event: Added | Noted) -> Counter:
        if isinstance(event, Noted):
            return replace(state, seen=state.seen + event.n)
        return replace(state, total=state.total + event.n, last=event.cause)

    def react(self, message: Stored, shard: int, shards: int) -> Reaction:
        heads = decode_heads(recorded(message).lines())
        found = Count(head.correlation_id for head in heads)
        return Reaction(
            commands=[(name, Note(n)) for name, n in found.items()], time_ms=max(head.time for head in heads)
        )
