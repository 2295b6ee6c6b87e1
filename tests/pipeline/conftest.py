"""The shipped rules, loaded once for all tests here."""

from __future__ import annotations

import pytest

from tests.pipeline.data import SHARDS
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Pipeline


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return load_pipeline(SHARDS)
