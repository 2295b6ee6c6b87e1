"""The oracle sees each kind of fault: it is fed histories with one in them. And equal seeds give equal schedules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.chaos import oracle
from tests.chaos.faults import Target, schedule
from tests.chaos.oracle import Changed
from tests.chaos.report import Report
from tests.system.hole import Hole
from tests.system.load import Found, Published


@pytest.fixture
def published() -> Published:
    """Six events, frames of two: 1, 2, 5 and 6 in partition 0, 3 and 4 in partition 1."""
    one = Published("load-1")
    one.acknowledged = {f"load-1-{number}" for number in range(1, 7)}
    sequences = {1: (0, 10), 2: (0, 10), 3: (1, 11), 4: (1, 11), 5: (0, 12), 6: (0, 12)}
    one.places = {f"load-1-{number}": place for number, place in sequences.items()}
    return one


@pytest.mark.parametrize(
    ("shards", "found"),
    [
        ([[1, 2, 5], [3, 4, 6]], Found(acknowledged=6)),
        ([[1, 3, 2, 4, 5, 6], []], Found(acknowledged=6)),
        ([[1, 2, 5], [3, 4]], Found(acknowledged=6, lost=1)),
        ([[1, 2, 5], [3, 4, 6, 6]], Found(acknowledged=6, doubled=1)),
        ([[1, 2, 5], [3, 4, 6, 5]], Found(acknowledged=6, doubled=1, reordered=1)),
        ([[1, 2, 5], [3, 4, 6, 7]], Found(acknowledged=6, strangers=1)),
        ([[1, 5, 2], [3, 4, 6]], Found(acknowledged=6, reordered=1)),
        ([[2, 1, 5], [4, 3, 6]], Found(acknowledged=6, reordered=2)),
    ],
)
def test_a_lost_a_doubled_a_strange_and_a_reordered_event_are_counted(
    published: Published, shards: list[list[int]], found: Found
) -> None:
    ids = [[f"load-1-{number}" for number in shard] for shard in shards]
    counted = Counter(name for shard in ids for name in shard)
    assert published.compare(counted, published.acknowledged, ids) == found


def test_what_is_uncertain_may_be_there_once(published: Published) -> None:
    published.uncertain = {"load-1-7"}
    counted = Counter(published.acknowledged)
    assert published.compare(counted, published.acknowledged) == Found(acknowledged=6)
    counted["load-1-7"] += 1
    assert published.compare(counted, published.acknowledged) == Found(acknowledged=6)
    counted["load-1-7"] += 1
    assert published.compare(counted, published.acknowledged) == Found(acknowledged=6, doubled=1)


def changed(entity_id: str, version: int, *tags: str, count: int = 1, command: str = "") -> Changed:
    events = [{"type": tag, "count": count} for tag in tags]
    return msgspec.convert({"id": entity_id, "version": version, "events": events, "command": command}, Changed)


def test_an_event_that_a_correlation_has_missed_or_counted_twice_is_counted() -> None:
    correlated = {"a": 3, "b": 2}
    seen = [changed("a", 1, "correlation.observed.v1"), changed("a", 2, "correlation.observed.v1", count=2)]
    right = changed("b", 1, "correlation.observed.v1", "correlation.activated.v1", count=2)
    assert oracle.counts([*seen, right], correlated) == oracle.Counts(events=5)
    assert oracle.counts(seen, correlated) == oracle.Counts(events=5, missing=2)
    assert oracle.counts([*seen, right, right], correlated) == oracle.Counts(events=5, surplus=2)
    elsewhere = changed("c", 1, "correlation.observed.v1", count=2)
    assert oracle.counts([*seen, elsewhere], correlated) == oracle.Counts(events=5, missing=2, surplus=2)


def test_a_version_that_is_missing_or_there_twice_is_counted() -> None:
    def found(*versions: int) -> oracle.Entities:
        return oracle.entities("alert", [changed("a", version, "alert.raised.v1") for version in versions])

    assert found(1, 2, 3) == oracle.Entities(changes=3)
    assert found(1, 3) == oracle.Entities(changes=2, gaps=1)
    assert found(1, 2, 2, 3) == oracle.Entities(changes=4, repeated=1)
    assert found(1, 2, 1) == oracle.Entities(changes=3, repeated=1)
    again = [
        changed("a", 1, "alert.raised.v1"),
        changed("a", 2, "alert.forgotten.v1"),
        changed("a", 1, "alert.raised.v1"),
    ]
    assert oracle.entities("alert", again) == oracle.Entities(changes=3)


def test_alerts_that_are_raised_or_told_twice_or_not_due_are_counted() -> None:
    raised = [
        changed("a", 1, "alert.raised.v1"),
        changed("b", 1, "alert.raised.v1"),
        changed("b", 2, "alert.repeated.v1"),
    ]
    assert oracle.alerts(raised, 2, Counter(["a", "b"])) == oracle.Alerts(raised=2)
    assert oracle.alerts(raised, 1, Counter(["a"])) == oracle.Alerts(raised=2, not_due=1, unheard=1)
    assert oracle.alerts(raised, 3, Counter(["a", "b", "b"])) == oracle.Alerts(raised=2, not_due=-1, told_again=1)
    assert oracle.alerts(raised, 2, Counter(["a", "b", "c"])) == oracle.Alerts(raised=2, told_unraised=1)
    twice = [*raised, changed("a", 2, "alert.raised.v1")]
    assert oracle.alerts(twice, 3, Counter(["a", "b"])) == oracle.Alerts(raised=3, raised_again=1)


def test_a_command_without_effect_or_with_two_is_counted() -> None:
    found = [changed("a", 1, "alert.raised.v1", command="one"), changed("a", 2, "alert.acknowledged.v1", command="two")]
    assert oracle.commands(found, {"one"}) == oracle.Commands(answered=1)
    assert oracle.commands(found, {"one", "three"}) == oracle.Commands(answered=2, lost=1)
    assert oracle.commands([*found, found[0]], {"one", "two"}) == oracle.Commands(answered=2, doubled=1)


PERFECT = Report(
    seed=1,
    seconds=1,
    faults={},
    published=6,
    acknowledged=5,
    uncertain=1,
    overtaken=0,
    found={"log": Found(acknowledged=5)},
    differing={"hot": 0},
    correlations=oracle.Counts(events=5),
    entities={"alert": oracle.Entities(changes=2)},
    alerts=oracle.Alerts(raised=2, unheard=1),
    commands=oracle.Commands(answered=1),
    unanswered=1,
    wrong_versions=0,
    wrong_states=0,
    settled_seconds=1.0,
    unsettled="",
    errors={},
    unruly=[],
)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"found": {"log": Found(acknowledged=5, **{name: 1})}}
            for name in ("lost", "doubled", "strangers", "reordered")
        ),
        *({"correlations": oracle.Counts(events=5, **{name: 1})} for name in ("missing", "surplus")),
        *({"entities": {"alert": oracle.Entities(changes=2, **{name: 1})}} for name in ("repeated", "gaps")),
        *({"alerts": oracle.Alerts(raised=2, **{name: 1})} for name in ("raised_again", "told_again", "told_unraised")),
        *({"alerts": oracle.Alerts(raised=2, not_due=number)} for number in (1, -1)),
        *({"commands": oracle.Commands(answered=1, **{name: 1})} for name in ("lost", "doubled")),
        *({name: 1} for name in ("overtaken", "wrong_versions", "wrong_states")),
        {"differing": {"hot": 1}},
        {"unsettled": "intake"},
        {"errors": {"intake.0: ValueError": 1}},
        {"unruly": ["nats"]},
    ],
)
def test_whatever_is_wrong_shows_in_the_sum(changes: dict[str, Any]) -> None:
    assert PERFECT.wrong == 0
    assert replace(PERFECT, **changes).wrong == 1


def test_a_seed_decides_what_happens() -> None:
    targets = {name: Target(hole=Hole(1)) for name in ("a", "b", "c")}
    plan = schedule(1, 60, targets, pin_seconds=3.0)
    assert plan == schedule(1, 60, targets, pin_seconds=3.0) != schedule(2, 60, targets, pin_seconds=3.0)
    assert len(plan) > 10
    assert max(one.at + one.lasts for one in plan) < 60
