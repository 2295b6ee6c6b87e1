"""Which process lets a cell go."""

from __future__ import annotations

import pytest

from tidegate.actor.balancing import _too_many


@pytest.mark.parametrize(
    ("mine", "others", "expected"),
    [
        ({"intake": 4}, {}, []),
        ({"intake": 4}, {"z": {"intake": 0}}, ["intake"]),
        ({"intake": 3}, {"z": {"intake": 1}}, ["intake"]),
        ({"intake": 2}, {"z": {"intake": 1}}, []),
        ({"intake": 1}, {"z": {"intake": 0}}, []),
        ({"intake": 2}, {"y": {"intake": 3}, "z": {"intake": 0}}, []),  # who has more lets go
        ({"intake": 2}, {"n": {"intake": 2}, "z": {"intake": 0}}, []),  # of two alike, one
        ({"intake": 2}, {"a": {"intake": 2}, "z": {"intake": 0}}, ["intake"]),
        ({"intake": 4, "forward": 4}, {"z": {"forward": 0}}, ["forward"]),  # its intake is in trouble
        ({"forward": 4}, {"z": {"intake": 0, "forward": 4}}, []),
    ],
)
def test_one_process_lets_a_cell_go_where_another_runs_two_fewer(
    mine: dict[str, int], others: dict[str, dict[str, int]], expected: list[str]
) -> None:
    assert _too_many("m", mine, others) == expected
