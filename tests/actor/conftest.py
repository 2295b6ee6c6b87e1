"""A NATS server for each module here: these tests make, change and delete the declared streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.system.harness import system
from tidegate.config import Settings

__all__ = ["nats_server"]


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with system(tmp_path_factory.mktemp("nats")) as one:
        asyncio.run(one.serve("nats").ready())
        yield one.settings
