"""Windows against an oracle that computes them from all events at once, and the promises at their edges."""

from __future__ import annotations

import math
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from tidegate.actor.entity import Change, Codec, Context
from tidegate.bus import Stored
from tidegate.entities.window import Closed, Counted, Late, Observe, Windows
from tidegate.entities.window_definition import Aggregate, WindowDefinition
from tidegate.errors import CommandRefusedError, ConfigError
from tidegate.log import event_messages
from tidegate.testing import given

STORED = 1_700_000_000_000
END_OF_TIME = 2**60

Event = dict[str, Any]

AGGREGATES = [
    Aggregate(function="count"),
    Aggregate(function="count", field="traffic.bytes", name="with bytes"),
    Aggregate(function="sum", field="traffic.bytes"),
    Aggregate(function="min", field="traffic.bytes"),
    Aggregate(function="max", field="traffic.bytes"),
    Aggregate(function="average", field="traffic.bytes"),
    Aggregate(function="distinct", field="dst_endpoint.port"),
    Aggregate(function="top", field="dst_endpoint.port", k=2),
]


def definition(**changes: Any) -> WindowDefinition:
    values: dict[str, Any] = {
        "name": "w",
        "kind": "tumbling",
        "size_ms": 100,
        "group_by": ["src_endpoint.ip"],
        "aggregates": AGGREGATES,
    }
    return WindowDefinition(**(values | changes))


def event(time: int, ip: str = "a", port: Any = 80, size: Any = 1) -> Event:
    return {"time": time, "src_endpoint": {"ip": ip}, "dst_endpoint": {"port": port}, "traffic": {"bytes": size}}


def stored(events: Iterable[Any], sequence: int = 1, time_ms: int = STORED) -> Stored:
    lines = [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in events]
    (message,) = event_messages(0, lines, "test")
    return Stored(message.subject, sequence, time_ms, message.payload, message.headers)


class Host:
    """Runs windows over frames as a cell does: everything through JSON; event time goes on after each batch."""

    def __init__(self, windows: Windows, shard: int = 0, shards: int = 1) -> None:
        self.windows, self.shard, self.shards = windows, shard, shards
        self.codec = Codec(windows)
        self.states: dict[str, Any] = {}
        self.happened: list[tuple[str, Any]] = []
        self.time_ms = 0

    def take(self, batch: Sequence[Sequence[Any]]) -> None:
        reached = self.time_ms
        for frame in batch:
            reaction = self.windows.react(stored(frame), self.shard, self.shards)
            for entity_id, command in reaction.commands:
                self.decide(entity_id, command, reached)
            reached = max(reached, reaction.time_ms)
        self.go_on_to(reached)

    def decide(self, entity_id: str, command: Any, watermark_ms: int) -> None:
        state = self.states.get(entity_id)
        context = Context(id=entity_id, version=0, time_ms=STORED, cause="test", watermark_ms=watermark_ms)
        decided = self.codec.command(msgspec.json.encode(command))
        known = self.windows.initial(entity_id) if state is None else state
        self.fold(entity_id, self.windows.decide(known, decided, context))

    def go_on_to(self, time_ms: int) -> None:
        self.time_ms = time_ms
        for entity_id in list(self.states):
            while (state := self.states.get(entity_id)) is not None:
                due = self.windows.due_ms(state)
                if due is None or due > time_ms:
                    break
                context = Context(id=entity_id, version=0, time_ms=due, cause="test")
                events = self.windows.on_time(state, context)
                assert events, "it was due, but nothing happened"
                self.fold(entity_id, events)

    def fold(self, entity_id: str, events: Sequence[Any]) -> None:
        if not events:
            return
        change = self.codec.change(msgspec.json.encode(Change(entity_id, 1, STORED, list(events))))
        self.happened += [(entity_id, one) for one in change.events]
        state = self.codec.fold(entity_id, self.states.get(entity_id), change.events)
        state = msgspec.json.decode(msgspec.json.encode(state), type=self.windows.state | None)
        if state is None:
            self.states.pop(entity_id, None)
        else:
            self.states[entity_id] = state

    def closed(self) -> list[Closed]:
        found = [one for _, one in self.happened if isinstance(one, Closed)]
        return sorted(found, key=lambda one: (msgspec.json.encode(one.key), one.end_ms))

    def late(self) -> tuple[int, int]:
        found = [one for _, one in self.happened if isinstance(one, Late)]
        return sum(one.count for one in found), sum(one.partly for one in found)


class Expected(NamedTuple):
    closed: list[Closed]
    late: tuple[int, int]


def results(events: Sequence[Event]) -> dict[str, Any]:
    sizes = [one["traffic"]["bytes"] for one in events if one["traffic"]["bytes"] is not None]
    numbers = [one for one in sizes if not isinstance(one, (str, bool))]
    ports = Counter(one["dst_endpoint"]["port"] for one in events)
    top = sorted(ports.items(), key=lambda item: (-item[1], msgspec.json.encode(item[0])))[:2]
    return {
        "count": len(events),
        "with bytes": len(sizes),
        "sum traffic.bytes": sum(numbers),
        "min traffic.bytes": min(numbers, default=None),
        "max traffic.bytes": max(numbers, default=None),
        "average traffic.bytes": sum(numbers) / len(numbers) if numbers else None,
        "distinct dst_endpoint.port": len(ports),
        "top dst_endpoint.port": [{"value": value, "count": n, "error": 0} for value, n in top],
    }


def closed(ip: str, start: int, end: int, events: Sequence[Event]) -> Closed:
    return Closed("w", [ip], start, end, len(events), results(events))


def fixed_oracle(one: WindowDefinition, frames: Sequence[Sequence[Event]]) -> Expected:
    """Each event in each window that contains it, unless that had closed before the event's frame."""
    windows: dict[tuple[str, int], list[Event]] = defaultdict(list)
    watermark = late = partly = 0
    step = one.slide_ms or one.size_ms
    for frame in frames:
        for each in frame:
            starts = [
                start for start in range(-one.size_ms, 10_000, step) if start <= each["time"] < start + one.size_ms
            ]
            taken = [start for start in starts if start + one.size_ms + one.lateness_ms > watermark]
            for start in taken:
                windows[each["src_endpoint"]["ip"], start].append(each)
            late += not taken
            partly += 0 < len(taken) < len(starts)
        watermark = max([watermark, *(each["time"] for each in frame)])
    found = [closed(ip, start, start + one.size_ms, events) for (ip, start), events in sorted(windows.items())]
    return Expected(found, (late, partly))


def sessions_of(one: WindowDefinition, events: Sequence[Event]) -> list[list[Event]]:
    found: list[list[Event]] = []
    for each in sorted(events, key=lambda event: event["time"]):
        if found and each["time"] < found[-1][-1]["time"] + one.gap_ms:
            found[-1].append(each)
        else:
            found.append([each])
    return found


def session_oracle(one: WindowDefinition, frames: Sequence[Sequence[Event]]) -> Expected:
    """All sessions anew after each frame, from the events of those that had not closed before it."""
    waiting: dict[str, list[Event]] = defaultdict(list)
    done: list[Closed] = []
    watermark = late = 0

    def close(until: int) -> None:
        for ip, events in waiting.items():
            kept: list[Event] = []
            for session in sessions_of(one, events):
                end = session[-1]["time"] + one.gap_ms
                if end + one.lateness_ms <= until:
                    done.append(closed(ip, session[0]["time"], end, session))
                else:
                    kept += session
            waiting[ip] = kept

    for frame in frames:
        for ip in {each["src_endpoint"]["ip"] for each in frame}:
            kept: list[Event] = []
            for session in sessions_of(one, waiting[ip] + [each for each in frame if each["src_endpoint"]["ip"] == ip]):
                if session[-1]["time"] + one.gap_ms + one.lateness_ms <= watermark:
                    late += len(session)
                else:
                    kept += session
            waiting[ip] = kept
        watermark = max([watermark, *(each["time"] for each in frame)])
        close(watermark)
    close(END_OF_TIME)
    return Expected(sorted(done, key=lambda each: (each.key, each.end_ms)), (late, 0))


KINDS = {
    "tumbling": definition(),
    "tumbling, late": definition(lateness_ms=70),
    "sliding": definition(kind="sliding", size_ms=100, slide_ms=25),
    "sliding, late": definition(kind="sliding", size_ms=60, slide_ms=20, lateness_ms=50),
    "session": definition(kind="session", size_ms=0, gap_ms=30),
    "session, late": definition(kind="session", size_ms=0, gap_ms=30, lateness_ms=60),
}


def oracle(one: WindowDefinition, frames: Sequence[Sequence[Event]]) -> Expected:
    return session_oracle(one, frames) if one.kind == "session" else fixed_oracle(one, frames)


def random_frames(dice: random.Random, disorder: int) -> list[list[Event]]:
    frames = []
    now = 0
    for _ in range(dice.randrange(1, 25)):
        frame = []
        for _ in range(dice.randrange(1, 6)):
            now += dice.choice((0, 1, 5, 10, 30, 45))
            time = max(0, now - dice.randrange(disorder + 1))
            size = dice.choice((None, 0, 7, -3, 2**60, 2**53 + 1, "12", True))
            frame.append(event(time, dice.choice("ab"), dice.choice((22, 80, "80", 443)), size))
        frames.append(frame)
    return frames


def cut(dice: random.Random, frames: Sequence[Any]) -> list[Sequence[Any]]:
    batches = []
    at = 0
    while at < len(frames):
        step = dice.randrange(1, 6)
        batches.append(frames[at : at + step])
        at += step
    return batches


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("disorder", [0, 20, 150])
def test_windows_are_those_of_all_events_at_once_however_frames_are_cut(kind: str, disorder: int) -> None:
    one = KINDS[kind]
    windows = Windows([one])
    for seed in range(8):
        dice = random.Random(f"{kind}/{disorder}/{seed}")
        frames = random_frames(dice, disorder)
        expected = oracle(one, frames)
        ends = []
        for batches in ([[frame] for frame in frames], cut(dice, frames), cut(dice, frames), [frames]):
            host = Host(windows)
            for batch in batches:
                host.take(batch)
            ends.append(dict(host.states))
            host.go_on_to(END_OF_TIME)
            assert host.closed() == expected.closed
            assert host.late() == expected.late
            assert host.states == {}
        assert all(end == ends[0] for end in ends)


@pytest.mark.parametrize("kind", ["tumbling", "sliding", "session"])
def test_without_late_events_frames_may_be_anything(kind: str) -> None:
    one = msgspec.structs.replace(KINDS[kind], lateness_ms=100_000)
    windows = Windows([one])
    for seed in range(10):
        dice = random.Random(seed)
        events = [each for frame in random_frames(dice, 300) for each in frame]
        found = []
        for _ in range(3):
            dice.shuffle(events)
            host = Host(windows)
            host.take(cut(dice, events))
            host.go_on_to(END_OF_TIME)
            found.append(host.closed())
        assert found[0] == found[1] == found[2] == oracle(one, [events]).closed


def observe(*times: int) -> Observe:
    return Observe([[time] for time in times])


def bare(**changes: Any) -> WindowDefinition:
    return definition(aggregates=[Aggregate(function="count")], **changes)


def taken(one: WindowDefinition, *frames: Sequence[Any]) -> list[Closed]:
    host = Host(Windows([one]))
    host.take(frames)
    host.go_on_to(END_OF_TIME)
    return host.closed()


def test_a_window_closes_once_event_time_reaches_its_end_and_lateness_and_nothing_is_left() -> None:
    windows = Windows([bare(lateness_ms=30)])
    scenario = given(windows, entity_id='w/["a"]').when(observe(105, 190))
    assert [type(one) for one in scenario.events] == [Counted]
    scenario.at(229).then()
    scenario.at(230).then(Closed("w", ["a"], 100, 200, 2, {"count": 2}))
    assert scenario.state == windows.initial('w/["a"]')


def test_event_time_goes_on_without_events_too() -> None:
    assert Windows.idle_seconds is not None
    windows = Windows([bare()])
    assert windows.due_ms(windows.initial("w/[]")) is None


def test_an_event_for_a_closed_window_is_recorded_as_late_though_no_state_is_left() -> None:
    host = Host(Windows([bare()]))
    for frame in ([event(10)], [event(500, "b")], [event(20), event(30), event(510)]):
        host.take([frame])
    host.go_on_to(END_OF_TIME)
    assert host.late() == (2, 0)
    assert ('w/["a"]', Late(2, 0, 20, 30)) in host.happened
    assert [(one.key, one.start_ms, one.count) for one in host.closed()] == [
        (["a"], 0, 1),
        (["a"], 500, 1),
        (["b"], 500, 1),
    ]


def test_an_event_that_is_late_by_itself_still_joins_an_open_session() -> None:
    host = Host(Windows([bare(kind="session", size_ms=0, gap_ms=50, lateness_ms=20)]))
    for frame in ([event(100)], [event(169, "b")], [event(60), event(20)]):
        host.take([frame])
    host.go_on_to(END_OF_TIME)
    found = [(one.start_ms, one.end_ms, one.count) for one in host.closed() if one.key == ["a"]]
    assert found == [(20, 150, 3)]
    assert host.late() == (0, 0)


def test_a_session_ends_when_it_has_gone_on_for_long_enough() -> None:
    one = bare(kind="session", size_ms=0, gap_ms=30, max_ms=100)
    times = [*range(0, 250, 10), 400]
    for frames in ([[event(time)] for time in times], [[event(time) for time in times]]):
        found = [(each.start_ms, each.end_ms, each.count) for each in taken(one, *frames)]
        assert found == [(0, 100, 10), (100, 200, 10), (200, 270, 5), (400, 430, 1)]


def test_an_earlier_event_does_not_make_a_session_longer_than_its_maximum() -> None:
    one = bare(kind="session", size_ms=0, gap_ms=40, max_ms=90, lateness_ms=500)
    for first, expected in ((75, [(75, 165, 4)]), (65, [(65, 105, 1), (100, 190, 3)])):
        found = taken(one, [event(100), event(130), event(160)], [event(first)])
        assert [(each.start_ms, each.end_ms, each.count) for each in found] == expected


@pytest.mark.parametrize(("reached", "late"), [(129, 0), (130, 1)])
@pytest.mark.parametrize("kind", ["tumbling", "session"])
def test_a_window_is_closed_from_the_very_moment_of_its_end_and_lateness(kind: str, reached: int, late: int) -> None:
    one = bare(lateness_ms=30) if kind == "tumbling" else bare(kind="session", size_ms=0, gap_ms=1, lateness_ms=30)
    host = Host(Windows([one]))
    host.take([[event(reached, "b")]])
    host.take([[event(99)]])
    assert host.late() == (late, 0)


@hypothesis_given(st.lists(st.lists(st.integers(0, 600), min_size=1, max_size=4), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_sessions_never_exceed_their_maximum_and_lose_nothing(frames: list[list[int]]) -> None:
    one = bare(kind="session", size_ms=0, gap_ms=40, max_ms=90, lateness_ms=10_000)
    found = taken(one, *([event(time) for time in frame] for frame in frames))
    assert sum(each.count for each in found) == sum(map(len, frames))
    assert all(each.end_ms - each.start_ms <= 90 for each in found)


def test_numbers_survive_json_and_nothing_else_is_a_number() -> None:
    sizes = [2**53 + 1, 2**62, "12", True, None, [1], {"a": 1}, math.inf, math.nan, -1]
    windows = Windows([definition(group_by=[])])
    scenario = given(windows, entity_id="w/[]").when(Observe([[5, size, None] for size in sizes])).at(END_OF_TIME)
    (found,) = scenario.events
    assert found.results["sum traffic.bytes"] == 2**53 + 2**62
    assert found.results["min traffic.bytes"] == -1
    assert found.results["max traffic.bytes"] == 2**62
    assert found.results["with bytes"] == 5
    assert found.results["distinct dst_endpoint.port"] == 0
    assert found.results["top dst_endpoint.port"] == []


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ([2**63, 2**63 - 1], 2**64 - 1),
        ([2**64 - 1, 2**64 - 1], 2.0**65),
        ([10**30, 1], 1e30),
        ([10**400], 1.7976931348623157e308),
        ([-1.7e308, -1.7e308], -1.7976931348623157e308),
        ([], 0),
    ],
)
def test_sums_stay_within_what_json_can_hold(sizes: list[Any], total: float) -> None:
    for frames in (
        [[event(5, size=size) for size in [None, *sizes]]],
        [[event(5, size=size)] for size in [None, *sizes]],
    ):
        (found,) = taken(definition(), *frames)
        assert found.results["sum traffic.bytes"] == total
        assert (found.results["average traffic.bytes"] is None) == (not sizes)


def test_events_with_odd_types_are_read_as_far_as_they_can_be() -> None:
    odd: list[Any] = [
        {"time": "soon", "src_endpoint": {"ip": "a"}, "traffic": 5},
        {"time": 5, "src_endpoint": "a"},
        {"time": True, "src_endpoint": {"ip": "a"}, "traffic": None},
        {"time": 5, "src_endpoint": {"ip": {"x": 1}}},
        {"time": 5, "src_endpoint": {"ip": ["a"]}},
        b"5",
        b'{"time":1e999,"src_endpoint":{"ip":"a"}}',
        {"time": -7, "src_endpoint": {"ip": "a"}},
        event(6),
    ]
    found = taken(bare(), odd)
    assert [(one.key, one.start_ms, one.count) for one in found] == [(["a"], 0, 1), (["a"], STORED, 3)]


def test_an_event_from_the_future_counts_as_of_when_it_was_stored() -> None:
    windows = Windows([bare()])
    reaction = windows.react(stored([event(STORED * 2)]), 0, 1)
    assert reaction.time_ms == STORED
    assert reaction.commands == [('w/["a"]', observe(STORED))]


def test_without_definitions_frames_are_not_even_opened() -> None:
    message = stored([event(1)])._replace(payload=b"not zstd")
    reaction = Windows().react(message, 0, 1)
    assert list(reaction.commands) == []


def test_each_shard_has_the_commands_of_its_own_entities() -> None:
    windows = Windows([bare(), bare(name="all", group_by=[])])
    message = stored([event(time, f"10.0.0.{time % 20}") for time in range(60)])
    whole = windows.react(message, 0, 1)
    parts = [windows.react(message, shard, 4) for shard in range(4)]
    assert sorted(entity_id for part in parts for entity_id, _ in part.commands) == sorted(
        entity_id for entity_id, _ in whole.commands
    )
    assert len(whole.commands) == 21
    for shard, part in enumerate(parts):
        assert part.time_ms == whole.time_ms == 59
        assert all(zlib.crc32(entity_id.encode()) % 4 == shard for entity_id, _ in part.commands)


def test_keys_keep_their_types_and_long_ones_are_hashed() -> None:
    one = bare(group_by=["src_endpoint.ip", "dst_endpoint.port"])
    frame = [event(1, "a", 1), event(1, "a", "1"), event(1, "a", True), event(1, "a", 1), event(1, "a", None)]
    keys = [(each.key, each.count) for each in taken(one, frame) if len(each.key) == 2]
    assert sorted(keys, key=repr) == sorted([(["a", 1], 2), (["a", "1"], 1), (["a", True], 1)], key=repr)
    (found,) = taken(bare(), [event(1, "x" * 5000)])
    assert found.key[0].startswith("blake2b:")
    assert [each.key for each in taken(bare(), [event(1, 'a/"\u00e9')])] == [['a/"\u00e9']]


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({"dst_endpoint.port": 1}, 2),
        ({"dst_endpoint.port": True}, 1),
        ({"dst_endpoint.port": [22, "x"]}, 2),
        ({"dst_endpoint.port": 1, "src_endpoint.ip": "b"}, 1),
    ],
)
def test_only_events_with_the_values_asked_for_are_counted(where: dict[str, Any], count: int) -> None:
    ports: list[Any] = [1, True, 22, "x", [1], None]
    frame = [*(event(1, "a", port) for port in ports), event(1, "b", 1)]
    found = taken(bare(where=where, group_by=[]), frame)
    assert [one.count for one in found] == [count]


def test_what_a_definition_has_left_open_closes_when_it_is_gone() -> None:
    host = Host(Windows([bare()]))
    host.take([[event(10)], [event(120)]])
    host.windows = Windows()
    host.go_on_to(END_OF_TIME)
    assert [(one.start_ms, one.end_ms, one.count) for one in host.closed()] == [(0, 100, 1), (100, 200, 1)]


@pytest.mark.parametrize("kind", ["tumbling", "sliding", "session"])
@pytest.mark.parametrize("then", ["tumbling", "sliding", "session"])
def test_changed_times_leave_nothing_open_for_ever(kind: str, then: str) -> None:
    host = Host(Windows([KINDS[kind]]))
    host.take([[event(10), event(55), event(130)]])
    changed = KINDS[then]
    if changed.size_ms:
        changed = msgspec.structs.replace(changed, size_ms=changed.size_ms * 3)
    host.windows = Windows([changed])
    host.take([[event(140)]])
    host.go_on_to(END_OF_TIME)
    assert host.states == {}


@pytest.mark.parametrize(
    ("entity_id", "command", "code"),
    [
        ('other/["a"]', observe(1), "unknown_definition"),
        ("w/nonsense", observe(1), "invalid"),
        ("w", observe(1), "invalid"),
        ('w/["a"]', Observe([[1, 2]]), "invalid"),
        ('w/["a"]', Observe([["1"]]), "invalid"),
        ('w/["a"]', Observe([[]]), "invalid"),
    ],
)
def test_commands_that_make_no_sense_are_refused(entity_id: str, command: Observe, code: str) -> None:
    given(Windows([bare()]), entity_id=entity_id).when(command).then_refused(code)
    with pytest.raises(CommandRefusedError):
        Codec(Windows()).command(b'{"type":"window.observe"}')


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "a/b"}, "a name has"),
        ({"size_ms": 0}, "needs size_ms"),
        ({"gap_ms": 5}, "has no gap_ms"),
        ({"kind": "sliding"}, "needs slide_ms"),
        ({"kind": "sliding", "slide_ms": 30}, "multiple of slide_ms"),
        ({"kind": "sliding", "size_ms": 10_000, "slide_ms": 1}, "1440 times"),
        ({"kind": "session", "size_ms": 0}, "needs gap_ms"),
        ({"kind": "session", "size_ms": 0, "gap_ms": 10, "max_ms": 5}, "max_ms must not"),
        ({"group_by": ["src_endpoint.hostnam"]}, 'did you mean "hostname"'),
        ({"group_by": ["src_endpoint"]}, "is an object"),
        ({"group_by": ["src_endpoint.ip.x"]}, "src_endpoint.ip is a value"),
        ({"group_by": ["observables.value"]}, "observables is a list"),
        ({"group_by": ["metadata.labels"]}, "is a list"),
        ({"group_by": ["unmapped"]}, "is an object"),
        ({"group_by": ["src_endpoint..ip"]}, "is not a path"),
        ({"group_by": ["time"] * 9}, "8 fields"),
        ({"group_by": ["unmapped.a", "unmapped.a.b"]}, "both a value and an object"),
        ({"where": {"nothing": 1}}, 'no field "nothing"'),
        ({"where": {"severity_id": []}}, "no value"),
        ({"aggregates": [Aggregate(function="sum")]}, "sum needs a field"),
        ({"aggregates": [Aggregate(function="count"), Aggregate(function="count")]}, 'named "count"'),
        ({"aggregates": [Aggregate(function="sum", field="traffic.byte")]}, 'did you mean "bytes"'),
    ],
)
def test_what_cannot_be_computed_is_refused_at_start(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as refused:
        Windows([definition(**changes)])
    assert refused.value.where in ('window "w"', 'window "a/b"', "unmapped.a")


def test_two_definitions_with_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="defined twice"):
        Windows([bare(), bare()])


def test_definitions_are_read_from_toml() -> None:
    text = """
        name = "logins"
        kind = "sliding"
        size_ms = 600_000
        slide_ms = 60_000
        group_by = ["src_endpoint.ip", "unmapped.tenant", "query.class"]
        where = { class_uid = 3002, status_id = [1, 2], "metadata.log_source" = "cloudtrail" }
        aggregates = [{ function = "count" }, { function = "top", field = "user.name", k = 5, name = "users" }]
        lateness_ms = 30_000
    """
    found = msgspec.toml.decode(text, type=WindowDefinition)
    windows = Windows([found])
    one = {"time": 1, "src_endpoint": {"ip": "a"}, "unmapped": {"tenant": "t"}, "query": {"class": "IN"}}
    one |= {"class_uid": 3002, "status_id": 2, "metadata": {"log_source": "cloudtrail"}, "user": {"name": "root"}}
    assert windows.react(stored([one]), 0, 1).commands == [('logins/["a","t","IN"]', Observe([[1, "root"]]))]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.toml.decode(text + "sise_ms = 1", type=WindowDefinition)


def test_a_delta_leaves_out_the_hashes_that_are_known() -> None:
    one = definition(aggregates=[Aggregate(function="distinct", field="dst_endpoint.port")])
    host = Host(Windows([one]))
    host.take([[event(1, port=1), event(1, port=2)], [event(2, port=2), event(2, port=3)]])
    parts = [part for _, each in host.happened for pane in each.panes for part in pane.parts.values()]
    assert [part.result() for part in parts] == [2, 1]
