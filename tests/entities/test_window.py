"""Windows against an oracle that computes them from all events at once, and the promises at their edges."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from tidegate.actor.entity import Change, Codec, Context
from tidegate.bus import Stored
from tidegate.entities.window import Aggregate, Closed, Late, WindowDefinition, Windows
from tidegate.log import event_messages

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
        return sorted(found, key=lambda one: (one.key, one.end_ms))

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
    for seed in range(12):
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
    for seed in range(20):
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
