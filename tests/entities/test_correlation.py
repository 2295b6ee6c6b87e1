"""Correlations: their rules, their timeouts, and the same end however the events are cut into frames."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tidegate.actor.entity import Change, Codec, Context
from tidegate.bus import Stored
from tidegate.entities.correlation import (
    Activated,
    Close,
    Closed,
    Correlation,
    CorrelationRules,
    Correlations,
    Escalate,
    Escalated,
    Forgotten,
    Observed,
    Reopened,
)
from tidegate.log import event_messages
from tidegate.testing import Scenario, given

NOW = 1_700_000_000_000
MINUTE = 60_000
RULES = CorrelationRules()


def event(uid: str, number: int, *, time: int = NOW, **more: Any) -> dict[str, Any]:
    observables = [{"name": "x", "type_id": 1, "value": one} for one in more.pop("observables", [])]
    source = more.pop("source", "zeek")
    return {
        "class_uid": 4001,
        "severity_id": 1,
        "time": time,
        "metadata": {"uid": f"e{number}", "correlation_uid": uid, "log_source": source},
        "observables": observables,
        **more,
    }


def stored(events: Sequence[dict[str, Any]], sequence: int = 1, time_ms: int = NOW + 1000 * MINUTE) -> Stored:
    message = event_messages(2, [msgspec.json.encode(one) for one in events], "test")[0]
    return Stored(message.subject, sequence, time_ms, message.payload, message.headers)


class Shard:
    """All correlations of a shard, hosted as a cell does it: event time passes after each frame."""

    def __init__(self, rules: CorrelationRules = RULES) -> None:
        self.entity = Correlations(rules)
        self.codec = Codec(self.entity)
        self.states: dict[str, tuple[int, Any]] = {}
        self.watermark = 0
        self.events: list[Any] = []

    def frame(self, events: Sequence[dict[str, Any]], sequence: int = 1, time_ms: int = NOW + 1000 * MINUTE) -> None:
        reaction = self.entity.react(stored(events, sequence, time_ms), 2, 4)
        for uid, command in reaction.commands:
            self._decide(uid, command, time_ms)
        self.watermark = max(self.watermark, reaction.time_ms)
        while True:
            due = [
                (at, uid) for uid, (_, state) in self.states.items() if (at := self.entity.due_ms(state)) is not None
            ]
            at, uid = min(due, default=(self.watermark + 1, ""))
            if at > self.watermark:
                return
            self._take(uid, self.entity.on_time(self.states[uid][1], self._context(uid, at)), at)

    def _decide(self, uid: str, command: Any, time_ms: int) -> None:
        state = self.states.get(uid, (0, self.entity.initial(uid)))[1]
        self._take(uid, self.entity.decide(state, command, self._context(uid, time_ms)), time_ms)

    def _context(self, uid: str, time_ms: int) -> Context:
        version = self.states.get(uid, (0, None))[0]
        return Context(id=uid, version=version, time_ms=time_ms, watermark_ms=self.watermark, cause="test")

    def _take(self, uid: str, events: Sequence[Any], time_ms: int) -> None:
        version, state = self.states.get(uid, (0, None))
        change = self.codec.change(self.codec.encode(Change(uid, version + 1, time_ms, list(events))))
        assert change.events == list(events)
        self.events += change.events
        state = self.codec.fold(uid, state, change.events)
        if state is None:
            del self.states[uid]
        else:
            self.states[uid] = (version + 1, state)

    def state(self, uid: str = "a") -> Correlation:
        found: Correlation = self.states[uid][1]
        return found

    def status(self, uid: str = "a") -> str:
        return self.state(uid).status

    def kinds(self) -> list[type]:
        found = [type(one) for one in self.events]
        self.events = []
        return found


def test_a_frame_is_one_command_for_each_correlation_and_events_without_one_are_passed_over() -> None:
    frame = stored([event("a", 1), event("", 2, time=NOW + 5), event("b", 3), event("a", 4)])
    reaction = Correlations().react(frame, 2, 4)
    assert [(uid, [head.event_id for head in seen.heads]) for uid, seen in reaction.commands] == [
        ("a", ["e1", "e4"]),
        ("b", ["e3"]),
    ]
    assert reaction.time_ms == NOW + 5


def test_a_clock_ahead_of_the_log_moves_neither_event_time_nor_the_correlation() -> None:
    frame = stored([event("a", 1), event("a", 2, time=NOW + 10**12), event("a", 3, time=0)], time_ms=NOW + 7)
    assert Correlations().react(frame, 2, 4).time_ms == NOW
    shard = Shard()
    shard.frame([event("a", 1), event("a", 2, time=NOW + 10**12), event("a", 3, time=-4)], time_ms=NOW + 7)
    state = shard.state()
    assert (state.first_id, state.first_ms, state.last_id, state.last_ms) == ("e1", NOW, "e3", NOW + 7)


def test_the_state_tells_what_was_seen() -> None:
    shard = Shard()
    shard.frame(
        [
            event("a", 1, observables=["Host-1", "10.0.0.1"], source="zeek"),
            event("a", 2, time=NOW + 5, class_uid=4003, observables=["host-1", "", "x" * 300], source="suricata"),
            event("a", 3, time=NOW - 5, severity_id=99),
        ],
        time_ms=NOW + 100,
    )
    state = shard.state()
    assert state == Correlation(
        count=3,
        status="active",
        since_ms=NOW + 5,
        severity=1,
        first_id="e3",
        first_ms=NOW - 5,
        last_id="e2",
        last_ms=NOW + 5,
        classes={4001: 2, 4003: 1},
        severities={1: 2, 99: 1},
        sources=("zeek", "suricata"),
        observables=dict.fromkeys(["host-1", "10.0.0.1", [*state.observables][2]], NOW + 100),
        event_id="e3",
        published_ms=NOW + 100,
        topic="log.event.2",
    )
    assert [*state.observables][2].startswith("blake2b:")
    shard.frame([event("a", 4, time=NOW + 6, observables=["10.0.0.1"])], time_ms=NOW + 200)
    observed = shard.events[-1]
    assert observed == Observed("e4", NOW + 200, {4001: 1}, {1: 1}, last_ms=NOW + 6)
    assert b"topic" not in msgspec.json.encode(observed)
    assert shard.state().published_ms == NOW + 200


@pytest.mark.parametrize(
    ("frames", "happened"),
    [
        ([[{}]], [Observed]),
        ([[{}], [{}]], [Observed, Observed, Activated]),
        ([[{}, {}]], [Observed, Activated]),
        ([[{}], [{}], [{}]], [Observed, Observed, Activated, Observed]),
        ([[{"severity_id": 4}]], [Observed, Escalated]),
        ([[{"severity_id": 99}]], [Observed]),
        ([[{"severity_id": 6}], [{"severity_id": 5}]], [Observed, Escalated, Observed]),
        ([[{"class_uid": 1}, {"class_uid": 2}, {"class_uid": 3}]], [Observed, Activated]),
        ([[{"class_uid": 1}, {"class_uid": 2}, {"class_uid": 3}, {"class_uid": 4}, {}]], [Observed, Escalated]),
        ([[{}] * 9999, [{}]], [Observed, Activated, Observed, Escalated]),
    ],
)
def test_the_rules_make_the_status(frames: list[list[dict[str, Any]]], happened: list[type]) -> None:
    shard = Shard()
    for frame in frames:
        shard.frame([event("a", number, **more) for number, more in enumerate(frame)])
    assert shard.kinds() == happened


def test_rules_can_be_switched_off() -> None:
    shard = Shard(CorrelationRules(escalate_severity=0, escalate_classes=0, escalate_events=0, active_events=9))
    shard.frame([event("a", number, class_uid=number, severity_id=6) for number in range(8)])
    assert shard.kinds() == [Observed]


def test_it_is_closed_after_the_timeout_and_then_forgotten() -> None:
    shard = Shard()
    shard.frame([event("a", 1)])
    shard.frame([event("b", 2, time=NOW + 30 * MINUTE - 1)])
    assert shard.status() == "new"
    shard.frame([event("b", 3, time=NOW + 30 * MINUTE)])
    assert (shard.status(), shard.state().reason, shard.state().since_ms) == ("closed", "timeout", NOW + 30 * MINUTE)
    shard.frame([event("b", n, time=NOW + n * MINUTE) for n in range(31, 90)])
    assert "a" in shard.states
    shard.frame([event("b", 4, time=NOW + 90 * MINUTE)])
    assert "a" not in shard.states
    assert shard.events[-1] == Forgotten()
    shard.frame([event("a", 5, time=NOW + 91 * MINUTE)])
    assert shard.state().count == 1


def closed_shard() -> Shard:
    shard = Shard()
    shard.frame([event("a", 1)])
    shard.frame([event("b", 2, time=NOW + 40 * MINUTE)])
    assert shard.status() == "closed"
    shard.events = []
    return shard


def test_a_later_event_reopens_it() -> None:
    shard = closed_shard()
    shard.frame([event("a", 3, time=NOW + 41 * MINUTE)])
    assert shard.kinds() == [Observed, Reopened]
    assert (shard.status(), shard.state().reopened, shard.state().count, shard.state().reason) == ("active", 1, 2, "")


def test_an_event_that_is_too_late_is_counted_and_does_not_reopen_it() -> None:
    shard = closed_shard()
    shard.frame([event("a", 3, time=NOW + 10 * MINUTE), event("a", 4, time=NOW - 1)])
    assert shard.kinds() == [Observed]
    assert (shard.status(), shard.state().count, shard.state().last_id) == ("closed", 3, "e3")


def test_however_late_what_escalates_it_does_and_it_is_closed_again() -> None:
    shard = closed_shard()
    shard.frame([event("a", 3, time=NOW - 1, severity_id=5)])
    assert shard.kinds() == [Observed, Reopened, Escalated, Closed]
    shard.frame([event("a", 4, time=NOW - 2, severity_id=5)])
    assert shard.kinds() == [Observed]


def test_reopened_it_is_escalated_again_if_it_ever_was_by_the_rules() -> None:
    seen = [Observed("e1", NOW, {4001: 2}, {5: 2}, 2, last_ms=NOW), Escalated(NOW, "severity", 5, 2)]
    scenario = given(Correlations(), *seen)
    assert scenario.at(NOW + 30 * MINUTE).events == [Closed(NOW + 30 * MINUTE, "timeout")]
    shard = Shard()
    shard.states["a"] = (3, scenario.state)
    shard.frame([event("a", 9, time=NOW + 31 * MINUTE)])
    assert shard.kinds() == [Observed, Reopened, Escalated]


def seen() -> Scenario:
    first = Observed("e1", NOW, {4001: 2}, {1: 2}, 2, last_ms=NOW, first_ms=NOW)
    return given(Correlations(), first, Activated(NOW))


def test_people_escalate_and_close() -> None:
    seen().when(Escalate("odd", "ann")).then(Escalated(NOW, "odd", 1, 2, "ann"))
    seen().when(Close("known scan", "ann")).then(Closed(NOW, "known scan", "ann"))
    state = seen().having(Escalated(NOW, "odd", 1, 2, "ann")).when(Close("ok", "bob")).state
    assert (state.status, state.reason, state.by) == ("closed", "ok", "bob")


def test_pointless_commands_are_refused() -> None:
    given(Correlations()).when(Escalate("odd", "ann")).then_refused("unknown")
    given(Correlations()).when(Close("odd", "ann")).then_refused("unknown")
    seen().having(Closed(NOW, "timeout")).when(Close("odd", "ann")).then_refused("closed")
    seen().having(Closed(NOW, "timeout")).when(Escalate("odd", "ann")).then_refused("closed")
    seen().having(Escalated(NOW, "severity")).when(Escalate("odd", "ann")).then_refused("escalated")
    seen().when(Escalate(" ", "ann")).then_refused("invalid")
    seen().when(Close("odd", "")).then_refused("invalid")


# -- however the events are cut ---------------------------------------------------------------------------------------


def random_events(dice: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        event(
            dice.choice("abcde"),
            number,
            time=NOW + number * 1000 + dice.randrange(-20_000, 20_000),
            class_uid=dice.randrange(4001, 4005),
            severity_id=dice.choice([0, 1, 1, 1, 1, 2, 3, 99, 99, dice.choice([1, 4, 5])]),
            source=dice.choice(["zeek", "suricata", ""]),
            observables=[f"Host-{dice.randrange(12)}" for _ in range(dice.randrange(4))],
        )
        for number in range(count)
    ]


def expected(events: Sequence[dict[str, Any]], rules: CorrelationRules) -> Correlation:
    """What must have been seen, found from all events at once."""
    kept: list[str] = []
    left_out = 0
    for value in (one["value"].lower() for entry in events for one in entry["observables"]):
        if value not in kept:
            kept.append(value)
            if len(kept) > rules.observables:
                kept.pop(0)
                left_out += 1
    first = min(events, key=lambda one: one["time"])
    last = max(reversed(events), key=lambda one: one["time"])
    classes = Counter(one["class_uid"] for one in events)
    severities = Counter(one["severity_id"] for one in events)
    worst = max((one for one in severities if one != 99), default=0)
    escalated = worst >= 4 or len(classes) >= rules.escalate_classes or len(events) >= rules.escalate_events
    return Correlation(
        count=len(events),
        status="escalated" if escalated else "active" if len(events) >= rules.active_events else "new",
        severity=worst,
        first_id=first["metadata"]["uid"],
        first_ms=first["time"],
        last_id=last["metadata"]["uid"],
        last_ms=last["time"],
        classes=classes,
        severities=severities,
        sources=tuple(dict.fromkeys(s for one in events if (s := one["metadata"]["log_source"]))),
        observables=dict.fromkeys(kept, 0),
        left_out=left_out,
        event_id=events[-1]["metadata"]["uid"],
        topic="log.event.2",
    )


def without_frames(state: Correlation) -> Correlation:
    """The state without what is told by frame."""
    return msgspec.structs.replace(
        state, since_ms=0, reason="", published_ms=0, observables=dict.fromkeys(state.observables, 0)
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_same_end_however_the_events_are_cut_into_frames(seed: int) -> None:
    dice = random.Random(seed)
    rules = CorrelationRules(
        active_events=dice.randrange(1, 5),
        escalate_classes=dice.choice([4, 5]),
        escalate_events=dice.choice([10, 1000]),
        observables=dice.choice([0, 1, 3, 5, 64]),
    )
    events = random_events(dice, dice.randrange(1, 120))
    wanted: dict[str, list[dict[str, Any]]] = {}
    for one in events:
        wanted.setdefault(one["metadata"]["correlation_uid"], []).append(one)
    for _ in range(4):
        shard = Shard(rules)
        first = 0
        while first < len(events):
            size = dice.choice([1, 2, 3, 10, 1000])
            shard.frame(events[first : first + size], first)
            first += size
        assert shard.states.keys() == wanted.keys()
        for uid, own in wanted.items():
            state = without_frames(shard.state(uid))
            assert state == expected(own, rules)
            assert list(state.observables) == list(expected(own, rules).observables)


def test_states_survive_json() -> None:
    shard = Shard()
    shard.frame([event("a", 1, observables=["x"]), event("a", 2, severity_id=4)])
    state = shard.state()
    assert msgspec.json.decode(msgspec.json.encode(state), type=Correlation) == state
