"""Each sample line of a text source becomes the event that it should be, and a valid one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec
import pytest

from tests.pipeline.data import RECEIVED_MS, lost
from tests.pipeline.schema import problem_of
from tests.pipeline.text.data import EXPECTED, essence, lines_of, run_lines
from tests.pipeline.text.samples import SAMPLES
from tidegate.pipeline.rules import load_source
from tidegate.pipeline.runner import Pipeline
from tidegate.pipeline.text import TextReader

JOINED = {
    "linux_auditd": {"linux_auditd.joined": 8},
    "zeek": {"zeek.header": 9},
    "aws_vpcflow": {"aws_vpcflow.header": 1},
}


@pytest.mark.parametrize("source", SAMPLES)
def test_lines_become_the_expected_events_field_by_field(pipeline: Pipeline, source: str) -> None:
    result = run_lines(pipeline, source, lines_of(source))
    assert not result.dead
    assert result.filtered == JOINED.get(source, {})
    expected = [msgspec.json.decode(line) for line in (EXPECTED / f"{source}.jsonl").read_bytes().splitlines()]
    for event, wanted in zip(result.events, expected, strict=True):
        assert problem_of(event) is None
        assert essence(event) == wanted


@pytest.mark.parametrize("source", ["linux_syslog", "cisco_asa", "paloalto", "fortigate", "cef", "leef"])
def test_no_value_of_a_line_is_lost(pipeline: Pipeline, source: str) -> None:
    path = Path(str(resources.files("tidegate.pipeline"))) / "sources" / f"{source}.toml"
    reader = TextReader(load_source(path))
    for line in SAMPLES[source]:
        (event,) = run_lines(pipeline, source, [line.encode()]).events
        record = reader.record_of(line, RECEIVED_MS)
        assert not lost(record, event)


@pytest.mark.parametrize("source", SAMPLES)
def test_running_again_gives_the_same(pipeline: Pipeline, source: str) -> None:
    first, again = (run_lines(pipeline, source, lines_of(source)) for _ in range(2))
    assert first == again
