"""Windows: counts, sums, extremes, averages, distinct and most frequent values of events, by key and event time.

Invariant: every event that a definition is about is either counted in the windows that it belongs to, or recorded as
late; what is counted does not depend on how frames were taken together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from tidegate import subject
from tidegate.actor.entity import Context, Entity, Reaction
from tidegate.bus import Stored
from tidegate.entities import sketches
from tidegate.entities.fields import Fields
from tidegate.entities.panes import Pane, Plan, merged, next_end, sessions, slides, window_at, with_more
from tidegate.entities.sketches import Part
from tidegate.entities.window_definition import Scalar, WindowDefinition
from tidegate.errors import CommandRefusedError, ConfigError
from tidegate.log import recorded
from tidegate.projection import Recorded

__all__ = ["Closed", "Counted", "Late", "Observe", "WindowState", "Windows"]


class Observe(Struct, frozen=True, tag="window.observe"):
    """The events of one frame with the entity's key."""

    rows: list[list[Any]]
    """For each event its time, then the values of `WindowDefinition.fields`."""


class Counted(Struct, frozen=True, tag="window.counted.v1"):
    """Events have come: what to add to which pane. A session's swallows the sessions that begin within it."""

    panes: list[Pane]
    closed_ms: int
    """Windows that end until then had closed."""


class Closed(Struct, frozen=True, tag="window.closed.v1"):
    """A window is complete. Windows without events are never opened, and so never closed."""

    definition: str
    key: list[Any]
    """Values of `group_by`, in order."""
    start_ms: int
    end_ms: int
    count: int
    """Events in it."""
    results: dict[str, Any]
    """By the aggregate's label; `min`, `max` and `average` are null where there was no number."""


class Late(Struct, frozen=True, tag="window.late.v1"):
    """Events have come for windows that had closed; those windows do not have them."""

    count: int
    """Events that are in no window at all."""
    partly: int
    """Events that are in the later ones of their sliding windows only."""
    first_ms: int
    last_ms: int


class WindowState(Struct, frozen=True):
    definition: str
    panes: list[Pane] = []
    """Ascending by start."""
    closed_ms: int = -1
    """Windows that end until then have closed."""


class Windows(Entity[WindowState, Observe, Counted | Closed | Late]):
    """The windows of each key of each definition; an entity's id is `<definition>/<JSON array of the key's values>`."""

    kind: ClassVar[str] = "window"
    state: ClassVar[Any] = WindowState
    commands: ClassVar[Any] = Observe
    events: ClassVar[Any] = Counted | Closed | Late
    follows: ClassVar[Sequence[str]] = ("event",)
    all_shards: ClassVar[bool] = True
    idle_seconds: ClassVar[float | None] = 10.0

    def __init__(self, definitions: Iterable[WindowDefinition] = ()) -> None:
        """Raises ConfigError for a definition that cannot be computed, and for two with one name."""
        self._definitions: dict[str, WindowDefinition] = {}
        for one in definitions:
            one.check()
            if one.name in self._definitions:
                raise ConfigError(f'window "{one.name}"', "is defined twice")
            self._definitions[one.name] = one
        paths = {path for one in self._definitions.values() for path in (*one.group_by, *one.where, *one.fields)}
        self._fields = Fields(paths)
        self._selectors = [_Selector(one) for one in self._definitions.values()]
        self._plans = {one.name: Plan(one) for one in self._definitions.values()}
        # Where one process has the cells of several shards, each of them gets the same frames at about the same time.
        self._grouped = functools.lru_cache(16)(self._group)

    def initial(self, entity_id: str) -> WindowState:
        return WindowState(entity_id.partition("/")[0])

    def react(self, message: Stored, shard: int, shards: int) -> Reaction:
        if not self._selectors:
            return Reaction(commands=())
        time_ms, commands = self._grouped(recorded(message), shards)
        return Reaction(commands=commands[shard], time_ms=time_ms)

    def _group(self, frame: Recorded, shards: int) -> tuple[int, list[list[tuple[str, Observe]]]]:
        """The time of the frame's last event, and for each shard what its entities have to decide on."""
        events = self._fields.read(frame.lines(), frame.time_ms)
        commands: list[list[tuple[str, Observe]]] = [[] for _ in range(shards)]
        for selector in self._selectors:
            for entity_id, command in selector.commands(events):
                commands[subject.shard_of(entity_id, shards)].append((entity_id, command))
        return max((event.f_time for event in events), default=0), commands

    def decide(self, state: WindowState, command: Observe, context: Context) -> Sequence[Counted | Closed | Late]:
        definition = self._definitions.get(context.id.partition("/")[0])
        if definition is None:
            raise CommandRefusedError("unknown_definition", f"no window is defined for {context.id!r}")
        plan, rows = self._plans[definition.name], command.rows
        if not ({len(row) for row in rows} <= {plan.width} and {type(row[0]) for row in rows} <= {int}):
            raise CommandRefusedError("invalid", f"a row has a time and {plan.width - 1} values")
        if not state.panes:
            _check_key(context.id)
        closed_ms = context.watermark_ms - definition.lateness_ms
        # The host may take frames together, and let event time go on only after them.
        overdue = self._closings(state, context.id, context.watermark_ms)
        known: WindowState | None = state
        for event in overdue:
            known = self.evolve(known or state, event)
        open_panes = known.panes if known else []
        if definition.kind == "session":
            panes, late = sessions(definition, plan, open_panes, rows, closed_ms)
            partly: list[int] = []
        else:
            panes, late, partly = slides(definition, plan, open_panes, rows, closed_ms)
        events: list[Counted | Closed | Late] = [*overdue]
        if panes:
            events.append(Counted(panes, closed_ms))
        if times := [*late, *partly]:
            events.append(Late(len(late), len(partly), min(times), max(times)))
        return events

    def evolve(self, state: WindowState, event: Counted | Closed | Late) -> WindowState | None:
        panes, closed_ms = state.panes, state.closed_ms
        match event:
            case Counted():
                closed_ms = max(closed_ms, event.closed_ms)
                for one in event.panes:
                    panes = with_more(panes, one)
            case Closed():
                closed_ms = max(closed_ms, event.end_ms)
                panes = [one for one in panes if one.until_ms > event.end_ms]
            case Late():
                pass
        return WindowState(state.definition, panes, closed_ms) if panes else None

    def due_ms(self, state: WindowState) -> int | None:
        if not state.panes:
            return None
        definition = self._definitions.get(state.definition)
        if definition is None:
            return min(one.until_ms for one in state.panes)
        return next_end(definition, state.panes, state.closed_ms) + definition.lateness_ms

    def on_time(self, state: WindowState, context: Context) -> Sequence[Counted | Closed | Late]:
        return self._closings(state, context.id, context.time_ms)

    def _closings(self, state: WindowState, entity_id: str, time_ms: int) -> list[Closed]:
        """The windows that close now that event time has reached `time_ms`, in the order of their ends."""
        due = self.due_ms(state)
        if due is None or due > time_ms:
            return []
        name, _, key = entity_id.partition("/")
        definition = self._definitions.get(name)
        panes, closed_ms = state.panes, state.closed_ms
        found: list[Closed] = []
        while panes:
            if definition is None:
                # It was taken away: each pane closes by itself, with what it has.
                end = min(one.until_ms for one in panes)
                start = min(one.start_ms for one in panes if one.until_ms == end)
                within = [one for one in panes if one.until_ms == end]
                lateness_ms = 0
            else:
                end, lateness_ms = next_end(definition, panes, closed_ms), definition.lateness_ms
                start, within = window_at(definition, panes, end)
            if end + lateness_ms > time_ms:
                break
            found.append(_closed(name, msgspec.json.decode(key), start, end, within))
            closed_ms = end
            panes = [one for one in panes if one.until_ms > end]
        return found


class _Selector:
    """Which events a definition is about, what of them, and whose they are."""

    def __init__(self, definition: WindowDefinition) -> None:
        self._name = definition.name
        self._where: list[tuple[Callable[[Any], Any], frozenset[tuple[Any, bool]]]] = []
        for path, wanted in definition.where.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            # Python holds 1 and True to be equal.
            self._where.append((Fields.getter([path]), frozenset((one, type(one) is bool) for one in values)))
        self._key = Fields.getter(definition.group_by) if definition.group_by else lambda event: ()
        self._row = Fields.getter(["time", *definition.fields])
        self._bare = not definition.fields

    def commands(self, events: Iterable[Any]) -> list[tuple[str, Observe]]:
        """What entities have to decide on, in the order of each one's first event."""
        rows: dict[str | bytes, list[Any] | None] = {}
        ids: dict[str, list[Any]] = {}
        key_of, row_of = self._key, self._row
        for event in self._selected(events) if self._where else events:
            key = key_of(event)
            token = key if type(key) is str else msgspec.json.encode(key)
            try:
                found = rows[token]
            except KeyError:
                text = _key_text(key)
                found = rows[token] = ids.setdefault(f"{self._name}/{text}", []) if text else None
            if found is not None:
                found.append(row_of(event))
        if self._bare:
            return [(entity_id, Observe([[time] for time in found])) for entity_id, found in ids.items()]
        return [(entity_id, Observe(list(map(list, found)))) for entity_id, found in ids.items()]

    def _selected(self, events: Iterable[Any]) -> Iterable[Any]:
        for take, allowed in self._where:
            events = [one for one in events if _among(take(one), allowed)]
        return events


def _among(value: Any, allowed: frozenset[tuple[Any, bool]]) -> bool:
    return not isinstance(value, (dict, list)) and (value, value is True or value is False) in allowed


def _check_key(entity_id: str) -> None:
    try:
        msgspec.json.decode(entity_id.partition("/")[2], type=list[Scalar])
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise CommandRefusedError("invalid", f"the id {entity_id!r} has no JSON array of the key's values") from error


def _key_text(key: Any) -> str:
    """The key as a JSON array; empty where a value is missing or is not a single one."""
    values = key if isinstance(key, tuple) else (key,)
    texts = ["" if isinstance(one, (dict, list)) else sketches.text_of(one) for one in values]
    return f"[{','.join(texts)}]" if all(texts) else ""


def _closed(name: str, key: list[Any], start_ms: int, end_ms: int, panes: list[Pane]) -> Closed:
    parts: dict[str, Part] = {}
    for one in panes:
        parts = merged(parts, one.parts)
    results = {label: part.result() for label, part in parts.items()}
    return Closed(name, key, start_ms, end_ms, sum(one.count for one in panes), results)
