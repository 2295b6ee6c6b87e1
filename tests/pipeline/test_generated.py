"""The built-in generator and the shipped rules, together: what the demo and the benchmarks stand on."""

from __future__ import annotations

import pytest

from tests.pipeline.data import run
from tests.pipeline.schema import problem_of
from tidegate.generator import SOURCES, Generator
from tidegate.pipeline.runner import Pipeline


@pytest.mark.parametrize("source", SOURCES)
def test_good_records_become_valid_events_and_malformed_ones_dead_letters(source: str, pipeline: Pipeline) -> None:
    records = Generator(5, sources=[source]).records(1500)
    events, dead = run(pipeline, source, [one.data for one in records if not one.malformed])
    assert not dead
    assert not [problem for problem in map(problem_of, events) if problem]
    assert sum(event["class_uid"] == 0 for event in events) < len(events) / 10
    malformed = [one.data for one in records if one.malformed]
    events, dead = run(pipeline, source, malformed)
    assert len(dead) == len(malformed) > 0
    assert not events
