"""Tests of entities without any server: `given(Counters(), Added(n=1)).when(Add(n=2)).then(Added(n=2))`.

Invariant: events go through the same JSON that the log would hold, so what passes here can be stored and read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidegate.actor.entity import Change, Codec, Context, Entity
from tidegate.errors import CommandRefusedError

__all__ = ["Scenario", "given"]


class Scenario:
    """One entity, what has happened to it, and what the last command or moment made happen."""

    def __init__(self, entity: Entity[Any, Any, Any], entity_id: str, time_ms: int) -> None:
        self._entity = entity
        self._codec = Codec(entity)
        self._id = entity_id
        self._time_ms = time_ms
        self._version = 0
        self._state: Any = None
        self.events: list[Any] = []
        """What the last `when` or `at` made happen."""
        self.refusal: CommandRefusedError | None = None

    @property
    def state(self) -> Any:
        """The state now."""
        return self._entity.initial(self._id) if self._state is None else self._state

    def having(self, *events: Any) -> Scenario:
        """These events have happened."""
        self._take(events)
        return self

    def when(self, command: Any) -> Scenario:
        """The command is decided on, and what it makes happen, happens."""
        self.events, self.refusal = [], None
        decoded = self._codec.command(msgspec.json.encode(command))
        try:
            self._take(self._entity.decide(self.state, decoded, self._context()), note=True)
        except CommandRefusedError as error:
            self.refusal = error
        return self

    def at(self, time_ms: int) -> Scenario:
        """Event time comes to `time_ms`, through every moment that the entity waits for."""
        self.events, self.refusal = [], None
        for _ in range(1000):
            due = self._entity.due_ms(self.state)
            if due is None or due > time_ms:
                break
            self._time_ms = due
            self._take(self._entity.on_time(self.state, self._context()), note=True)
        else:
            raise AssertionError("the entity asks for the same moment again and again")
        self._time_ms = time_ms
        return self

    def then(self, *events: Any) -> Scenario:
        """Exactly these events have happened, in order."""
        assert self.refusal is None, f"refused: {self.refusal}"
        assert self.events == list(events), f"\nhappened: {self.events}\nexpected: {list(events)}"
        return self

    def then_refused(self, code: str) -> Scenario:
        """The command was refused with this code, and nothing has happened."""
        assert self.refusal is not None, f"not refused; happened: {self.events}"
        assert self.refusal.code == code, f"refused as {self.refusal.code!r}: {self.refusal}"
        return self

    def _context(self) -> Context:
        return Context(id=self._id, version=self._version, time_ms=self._time_ms, cause=f"test/{self._version}")

    def _take(self, events: Sequence[Any], *, note: bool = False) -> None:
        if not events:
            return
        line = msgspec.json.encode(Change(self._id, self._version + 1, self._time_ms, list(events)))
        change = self._codec.change(line)
        if note:
            self.events += change.events
        self._state = self._codec.fold(self._id, self._state, change.events)
        self._version += 1


def given(
    entity: Entity[Any, Any, Any], *events: Any, entity_id: str = "one", time_ms: int = 1_700_000_000_000
) -> Scenario:
    """An entity of which `events` are known; `time_ms` is when the first command comes."""
    return Scenario(entity, entity_id, time_ms).having(*events)
