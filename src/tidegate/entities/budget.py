"""Privacy budgets: how much may be learned of the events of a dataset, and how much was.

Invariant: what is spent never exceeds what was granted. A query that does not fit is refused, and that is noted too.

Epsilon is counted in whole millionths, so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity
from tidegate.errors import CommandRefusedError

__all__ = ["MOST", "Budget", "Budgets", "Grant", "Granted", "Refused", "Spend", "Spent"]

MOST = 1_000_000_000
"""Millionths of epsilon that may be granted or spent at once: far more than protects anybody."""


class Budget(Struct, frozen=True, omit_defaults=True):
    """What is known of a dataset's budget; its id is the dataset. All in millionths of epsilon."""

    granted: int = 0
    spent: int = 0
    queries: int = 0
    """That were answered."""
    refused: int = 0
    """Queries that did not fit."""
    last_ms: int = 0
    """When the log stored the last query, milliseconds since 1970."""

    @property
    def left(self) -> int:
        return self.granted - self.spent


class Grant(Struct, frozen=True, omit_defaults=True, tag="budget.grant.v1"):
    """Adds to what may be spent."""

    millionths: int
    by: str
    note: str = ""


class Spend(Struct, frozen=True, omit_defaults=True, tag="budget.spend.v1"):
    millionths: int
    query: str
    """What is asked, in words."""


class Granted(Struct, frozen=True, omit_defaults=True, tag="budget.granted.v1"):
    time_ms: int
    millionths: int
    by: str
    note: str = ""


class Spent(Struct, frozen=True, tag="budget.spent.v1"):
    time_ms: int
    millionths: int
    query: str


class Refused(Struct, frozen=True, tag="budget.refused.v1"):
    """The query would have spent more than is left."""

    time_ms: int
    millionths: int
    left: int
    query: str


Commands = Grant | Spend
Events = Granted | Spent | Refused


class Budgets(Entity[Budget, Commands, Events]):
    """One entity for each dataset."""

    kind: ClassVar[str] = "budget"
    state = Budget
    commands = Commands
    events = Events

    def decide(self, state: Budget, command: Commands, context: Context) -> Sequence[Events]:
        now, millionths = context.time_ms, command.millionths
        if not 1 <= millionths <= MOST:
            raise CommandRefusedError("invalid", f"{millionths} millionths of epsilon are not from 1 to {MOST}")
        if isinstance(command, Grant):
            if not command.by.strip():
                raise CommandRefusedError("invalid", "say who grants it (`by`)")
            return (Granted(now, millionths, command.by, command.note),)
        if millionths > state.left:
            return (Refused(now, millionths, state.left, command.query),)
        return (Spent(now, millionths, command.query),)

    def evolve(self, state: Budget, event: Events) -> Budget:
        match event:
            case Granted():
                return replace(state, granted=state.granted + event.millionths)
            case Spent():
                spent = state.spent + event.millionths
                return replace(state, spent=spent, queries=state.queries + 1, last_ms=event.time_ms)
            case Refused():
                return replace(state, refused=state.refused + 1, last_ms=event.time_ms)
