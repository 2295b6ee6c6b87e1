"""Windows: counts, sums, extremes, averages, distinct and most frequent values of events, by key and event time.

Invariant: every event that a definition is about is either counted in the windows that it belongs to, or recorded as
late; what is counted does not depend on how frames were taken together.

Time is in milliseconds since 1970, and windows are half open: their end is the first moment outside. A tumbling window
begins at a multiple of its size; sliding ones begin at each multiple of the slide; a session goes on until there was no
event for `gap_ms`. A window closes when event time reaches its end plus `lateness_ms`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from tidegate import subject
from tidegate.actor.entity import Context, Entity, Reaction
from tidegate.bus import Stored
from tidegate.entities import sketches
from tidegate.entities.fields import Fields, check_path
from tidegate.entities.sketches import Part
from tidegate.errors import CommandRefusedError, ConfigError
from tidegate.log import recorded
from tidegate.projection import Recorded

__all__ = ["Aggregate", "Closed", "Counted", "Late", "Observe", "Pane", "WindowDefinition", "WindowState", "Windows"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_SLIDES = 1440
_MAX_KEY_FIELDS = 8
_PLAIN = frozenset((str, int, bool))

Scalar = str | int | float | bool
Milliseconds = Annotated[int, Meta(ge=0, le=400 * 86_400_000)]
Function = Literal["count", "sum", "min", "max", "average", "distinct", "top"]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Aggregate(_Table, frozen=True):
    """One figure of a window, computed over the field's values; events without the field add nothing to it."""

    function: Function
    """`sum`, `min`, `max` and `average` take numbers only; `distinct` and `top` are exact for few values only."""
    field: str = ""
    """Path of the field, such as `dst_endpoint.port`; for `count` it may be left out: then it counts events."""
    k: Annotated[int, Meta(ge=1, le=100)] = 10
    """How many values `top` names."""
    name: str = ""
    """In results; by default the function, with the field where there is one: `distinct dst_endpoint.port`."""

    @property
    def label(self) -> str:
        return self.name or f"{self.function} {self.field}".rstrip()


class WindowDefinition(_Table, frozen=True):
    """What to compute, over which events, in which windows. To be given a new name when its times are changed."""

    name: str
    kind: Literal["tumbling", "sliding", "session"]
    size_ms: Milliseconds = 0
    """Of tumbling and sliding windows."""
    slide_ms: Milliseconds = 0
    """From the beginning of one sliding window to that of the next; the size is a multiple of it."""
    gap_ms: Milliseconds = 0
    """Ends a session: an event this long after the last one, or longer, belongs to the next."""
    max_ms: Milliseconds = 86_400_000
    """The longest session: one that has gone on for so long ends, and the next event begins another."""
    group_by: list[str] = []
    """Paths whose values make the key; an event without one of them is in no window. Empty: one window for all."""
    where: dict[str, Scalar | list[Scalar]] = {}
    """Path -> the value, or the values of which any one, that an event must have to be counted."""
    aggregates: Annotated[list[Aggregate], Meta(max_length=32)] = []
    lateness_ms: Milliseconds = 0
    """How long after its end, in event time, a window still takes events in."""

    def check(self) -> None:
        """Raises ConfigError for what cannot be computed."""
        where = f'window "{self.name}"'
        if not _NAME.fullmatch(self.name):
            raise ConfigError(where, "a name has 1 to 64 letters, digits, _ and -")
        self._check_times(where)
        if len(self.group_by) > _MAX_KEY_FIELDS:
            raise ConfigError(where, f"group_by takes {_MAX_KEY_FIELDS} fields at most")
        for path in (*self.group_by, *self.where):
            check_path(where, path)
            if self.where.get(path) == []:
                raise ConfigError(where, f'where: no value of "{path}" is allowed, so that no event would be counted')
        labels = set()
        for one in self.aggregates:
            if one.field:
                check_path(where, one.field)
            elif one.function != "count":
                raise ConfigError(where, f"the aggregate {one.function} needs a field")
            if one.label in labels:
                raise ConfigError(where, f'two aggregates are named "{one.label}"; give one a name of its own')
            labels.add(one.label)

    def _check_times(self, where: str) -> None:
        used = {"tumbling": ("size_ms",), "sliding": ("size_ms", "slide_ms"), "session": ("gap_ms", "max_ms")}
        for name in used[self.kind]:
            if not getattr(self, name):
                raise ConfigError(where, f"a {self.kind} window needs {name}, more than 0")
        for name in {"size_ms", "slide_ms", "gap_ms"}.difference(used[self.kind]):
            if getattr(self, name):
                raise ConfigError(where, f"a {self.kind} window has no {name}; it has {' and '.join(used[self.kind])}")
        if self.kind == "sliding" and (self.size_ms % self.slide_ms or self.size_ms // self.slide_ms > _MAX_SLIDES):
            raise ConfigError(where, f"size_ms must be a multiple of slide_ms, {_MAX_SLIDES} times it at most")
        if self.kind == "session" and self.max_ms < self.gap_ms:
            raise ConfigError(where, "max_ms must not be less than gap_ms")

    @property
    def step_ms(self) -> int:
        """The length of a pane: what is counted together, unless the windows are sessions."""
        return self.slide_ms if self.kind == "sliding" else self.size_ms

    @property
    def fields(self) -> list[str]:
        """The paths over which aggregates are computed, each once."""
        return list(dict.fromkeys(one.field for one in self.aggregates if one.field))


class Observe(Struct, frozen=True, tag="window.observe"):
    """The events of one frame with the entity's key."""

    rows: list[list[Any]]
    """For each event its time, then the values of `WindowDefinition.fields`."""


class Pane(Struct, frozen=True, gc=False):
    """What is known of a session, of a tumbling window, or of one slide of sliding windows."""

    start_ms: int
    last_ms: int
    """Time of the last event in it."""
    until_ms: int
    """The end of the last window that it belongs to."""
    count: int
    parts: dict[str, Part] = {}
    """By the aggregate's label."""


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


class _Window(NamedTuple):
    start_ms: int
    end_ms: int
    panes: list[Pane]


class _Cluster:
    """Sessions and new events that belong together."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = self.last_ms = start_ms
        self.rows: list[list[Any]] = []

    def end_ms(self, definition: WindowDefinition) -> int:
        return min(self.last_ms + definition.gap_ms, self.start_ms + definition.max_ms)


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
        self._plans = {one.name: _Plan(one) for one in self._definitions.values()}
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
            panes, late = _sessions(definition, plan, open_panes, rows, closed_ms)
            partly: list[int] = []
        else:
            panes, late, partly = _slides(definition, plan, open_panes, rows, closed_ms)
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
                    panes = _with(panes, one)
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
        return _next_end(definition, state.panes, state.closed_ms) + definition.lateness_ms

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
                end, lateness_ms = _next_end(definition, panes, closed_ms), definition.lateness_ms
                start, within = _window_at(definition, panes, end)
            if end + lateness_ms > time_ms:
                break
            found.append(_closed(name, msgspec.json.decode(key), start, end, within))
            closed_ms = end
            panes = [one for one in panes if one.until_ms > end]
        return found


class _Plan:
    """What a definition computes, made ready."""

    def __init__(self, definition: WindowDefinition) -> None:
        columns = {path: at for at, path in enumerate(definition.fields)}
        self.width = 1 + len(columns)
        self._columns = range(1, self.width)
        self._parts = [
            (one.label, columns[one.field] if one.field else -1, _maker(one), one.function == "distinct")
            for one in definition.aggregates
        ]

    def pane(self, start_ms: int, last_ms: int, until_ms: int, rows: list[list[Any]], open_panes: list[Pane]) -> Pane:
        """What `rows` add to the pane; hashes that are known there already are left out."""
        columns = [_column(rows, at) for at in self._columns]
        parts: dict[str, Part] = {}
        for label, at, make, is_distinct in self._parts:
            part = make(rows if at < 0 else columns[at])
            if is_distinct:
                for pane in open_panes:
                    if start_ms <= pane.start_ms <= last_ms:
                        part = _news(part, pane.parts.get(label))
            parts[label] = part
        return Pane(start_ms, last_ms, until_ms, len(rows), parts)


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


def _slides(
    definition: WindowDefinition, plan: _Plan, open_panes: list[Pane], rows: list[list[Any]], closed_ms: int
) -> tuple[list[Pane], list[int], list[int]]:
    """What to add to which panes; times of events that were late for all, and for some, of their windows."""
    step, size = definition.step_ms, definition.size_ms
    by_start: dict[int, list[list[Any]]] = {}
    late, partly = [], []
    for row in rows:
        time = row[0]
        start = time - time % step
        if start + size <= closed_ms:
            late.append(time)
            continue
        if start + step <= closed_ms:
            partly.append(time)
        by_start.setdefault(start, []).append(row)
    panes = [
        plan.pane(start, max(row[0] for row in found), start + size, found, open_panes)
        for start, found in sorted(by_start.items())
    ]
    return panes, late, partly


def _sessions(
    definition: WindowDefinition, plan: _Plan, open_panes: list[Pane], rows: list[list[Any]], closed_ms: int
) -> tuple[list[Pane], list[int]]:
    """The sessions that the events are in, with what to add; and the times of late events.

    Sessions and events are first joined, in order of time; what then has an end that is past, is late. So an event that
    comes late by itself is still counted where it joins a session that is open.
    """
    items: list[tuple[int, int, int, list[Any] | None]] = [(one.start_ms, 0, one.last_ms, None) for one in open_panes]
    items += [(row[0], 1, row[0], row) for row in rows]
    items.sort(key=lambda item: item[:2])
    clusters: list[_Cluster] = []
    for start_ms, _, last_ms, row in items:
        here = clusters[-1] if clusters else None
        if here is None or start_ms >= here.end_ms(definition) or last_ms - here.start_ms >= definition.max_ms:
            here = _Cluster(start_ms)
            clusters.append(here)
        here.last_ms = max(here.last_ms, last_ms)
        if row is not None:
            here.rows.append(row)
    panes, late = [], []
    for one in clusters:
        end = one.end_ms(definition)
        if end <= closed_ms:
            late += [row[0] for row in one.rows]
        elif one.rows:
            panes.append(plan.pane(one.start_ms, one.last_ms, end, one.rows, open_panes))
    return panes, late


def _news(part: Part, known: Part | None) -> Part:
    if isinstance(part, sketches.Distinct) and isinstance(known, sketches.Distinct):
        return part.beyond(known)
    return part


def _column(rows: list[list[Any]], at: int) -> list[Any]:
    """The values there, without what is missing, or is not a single value that JSON has."""
    values = [row[at] for row in rows]
    if _PLAIN.issuperset(map(type, values)):
        return values
    return [one for one in values if type(one) in _PLAIN or (type(one) is float and math.isfinite(one))]


def _maker(aggregate: Aggregate) -> Callable[[Sequence[Any]], Part]:
    match aggregate.function:
        case "count":
            return sketches.Count.of
        case "sum":
            return sketches.Sum.of
        case "min":
            return sketches.Min.of
        case "max":
            return sketches.Max.of
        case "average":
            return sketches.Mean.of
        case "distinct":
            return sketches.Distinct.of
        case "top":
            return functools.partial(sketches.Top.of, k=aggregate.k)


def _with(panes: list[Pane], more: Pane) -> list[Pane]:
    """`panes` with `more` added to those that begin within it."""
    parts, count, last_ms = more.parts, more.count, more.last_ms
    rest = []
    for one in panes:
        if more.start_ms <= one.start_ms <= more.last_ms:
            parts = _merged(one.parts, parts)
            count, last_ms = count + one.count, max(last_ms, one.last_ms)
        else:
            rest.append(one)
    rest.append(Pane(more.start_ms, last_ms, more.until_ms, count, parts))
    rest.sort(key=lambda one: one.start_ms)
    return rest


def _merged(first: dict[str, Part], second: dict[str, Part]) -> dict[str, Part]:
    if not first:
        return second
    return first | {
        label: sketches.merged(first[label], part) if label in first else part for label, part in second.items()
    }


def _next_end(definition: WindowDefinition, panes: list[Pane], closed_ms: int) -> int:
    """The end of the first window, of those that have not closed, that one of `panes` (at least one) belongs to."""
    if definition.kind != "sliding":
        return min([one.until_ms for one in panes])
    step = definition.slide_ms
    first = closed_ms - closed_ms % step + step
    return min(min(max(one.start_ms + step, first), one.until_ms) for one in panes)


def _window_at(definition: WindowDefinition, panes: list[Pane], end_ms: int) -> tuple[int, list[Pane]]:
    """Start and panes of the window that ends at `end_ms`."""
    if definition.kind == "session":
        within = [one for one in panes if one.until_ms == end_ms]
        return min(one.start_ms for one in within), within
    start = end_ms - definition.size_ms
    return start, [one for one in panes if start <= one.start_ms < end_ms]


def _closed(name: str, key: list[Any], start_ms: int, end_ms: int, panes: list[Pane]) -> Closed:
    parts: dict[str, Part] = {}
    for one in panes:
        parts = _merged(parts, one.parts)
    results = {label: part.result() for label, part in parts.items()}
    return Closed(name, key, start_ms, end_ms, sum(one.count for one in panes), results)
