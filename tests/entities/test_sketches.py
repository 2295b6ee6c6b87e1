"""What sketches promise: exact for few values, within the stated error for many, in whatever order they are merged."""

from __future__ import annotations

import functools
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.entities.sketches import Count, Distinct, Mean, Sum, Top, merged

PIECES = st.lists(st.lists(st.integers(0, 900), max_size=400), min_size=1, max_size=5)


@given(PIECES, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_distinct_is_the_same_however_values_come(pieces: list[list[int]], dice: random.Random) -> None:
    whole = Distinct.of([value for piece in pieces for value in piece])
    parts = [Distinct.of(piece) for piece in pieces]
    dice.shuffle(parts)
    assert functools.reduce(Distinct.plus, parts, Distinct()) == whole
    known = parts[0]
    for part in parts[1:]:
        assert known.plus(part.beyond(known)) == known.plus(part)
        known = known.plus(part)
    values = {value for piece in pieces for value in piece}
    if len(values) < 256:
        assert whole.result() == len(values)


@pytest.mark.parametrize("count", [255, 256, 1_000, 20_000])
def test_distinct_is_exact_below_256_and_close_beyond(count: int) -> None:
    errors = []
    for seed in range(8):
        found = Distinct()
        for first in range(0, count, 700):
            found = found.plus(Distinct.of([f"{seed}/{n}" for n in range(first, min(count, first + 700))]))
        assert len(found.hashes) <= 2048
        errors.append(found.result() / count - 1)
    if count < 256:
        assert errors == [0] * 8
    # Four standard errors for each, and for their mean.
    assert max(map(abs, errors)) < 4 * 0.063
    assert abs(sum(errors) / 8) < 4 * 0.063 / 8**0.5


def test_distinct_keeps_types_apart() -> None:
    assert Distinct.of([1, 1.0, True, "1", "true", "x" * 500, "x" * 500]).result() == 6


@pytest.mark.parametrize("piece", [1, 50, 1000])
def test_top_stays_within_its_room_and_its_error(piece: int) -> None:
    dice = random.Random(piece)
    values = [f"v{int(dice.paretovariate(0.9))}" for _ in range(3000)]
    true = Counter(values)
    found = Top(k=5)
    for first in range(0, len(values), piece):
        found = found.plus(Top.of(values[first : first + piece], 5))
        found = msgspec.json.decode(msgspec.json.encode(found), type=Top)
        assert len(found.counts) <= found.room
    assert 0 < found.error <= len(values) / (found.room + 1)
    for text, count in found.counts.items():
        assert count <= true[msgspec.json.decode(text)] <= count + found.error
    assert all(n <= found.error for value, n in true.items() if f'"{value}"' not in found.counts)
    assert [one["value"] for one in found.result()][:3] == [value for value, _ in true.most_common(3)]


def test_top_is_exact_for_few_values_and_breaks_ties_by_value() -> None:
    found = Top.of(["b", "a", 3, 3, "c"], 3).plus(Top.of(["c"], 3))
    assert [(one["value"], one["count"], one["error"]) for one in found.result()] == [
        ("c", 2, 0),
        (3, 2, 0),
        ("a", 1, 0),
    ]


def test_a_part_of_another_kind_replaces_the_old_one() -> None:
    assert merged(Count(3), Sum(4)) == Sum(4)
    assert merged(Mean(3, 1), Mean(5, 1)).result() == 4
