"""A run of `make chaos`, with a seed that is always the same."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tests.chaos.faults import Kind
from tests.chaos.run import run


@pytest.mark.anyio
@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_everything_adds_up_after_faults_of_all_kinds(tmp_path: Path) -> None:
    report, faults = await run(tmp_path, seed=1, seconds=60)
    assert report.wrong == 0, report
    assert {fault.kind for fault in faults} == set(get_args(Kind))
    assert report.acknowledged > 5000
