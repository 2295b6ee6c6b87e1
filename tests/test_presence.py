"""Who is there: several processes of one kind answer one request, over a real NATS server and in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.memory import MemoryBus
from tidegate.presence import Sections, answering, gather

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["nats", "memory"])
async def bus(request: pytest.FixtureRequest, nats_server: Settings) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
    else:
        async with connect(nats_server.nats_url) as one:
            yield one


async def report(name: str, after_seconds: float = 0.0) -> Sections:
    await asyncio.sleep(after_seconds)
    return {"cells": [{"cell": name}]}


async def test_each_process_answers_and_one_that_takes_long_is_known_and_waited_for(bus: Bus) -> None:
    assert await gather(bus, seconds=0.1) == []
    async with contextlib.AsyncExitStack() as stack:
        for name, waiting, seconds in (("a", None, 0.0), ("b", "streams", 0.4), ("c", None, 30.0)):
            told = partial(report, name, seconds)
            await stack.enter_async_context(answering(bus, name, f"http://{name}", lambda w=waiting: w, told))  # type: ignore[misc]
        found = await gather(bus, seconds=0.1, patience_seconds=1.0)
        assert [(one.process, one.address, one.waiting_for) for one in found] == [
            ("a", "http://a", ""),
            ("b", "http://b", "streams"),
            ("c", "http://c", ""),
        ]
        assert [one.sections for one in found] == [await report("a"), await report("b"), None]
    assert await gather(bus, seconds=0.1) == []
