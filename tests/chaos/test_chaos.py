"""A run of `make chaos`, with a seed that is always the same."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import pytest

from tests.chaos.faults import Kind
from tests.system.harness import ROOT


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_everything_adds_up_after_faults_of_all_kinds() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--json", "--seed", "1", "--seconds", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == 0
    assert set(report["faults"]) == set(get_args(Kind))
    assert report["acknowledged"] > 5000
