"""Budgets of differential privacy on real servers, and the noise that they buy."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given as each
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.tiers import frames
from tests.tiers.test_lake import lake_on
from tidegate import app, privacy, streams
from tidegate.actor.cell import Cell
from tidegate.actor.cell import running as running_cells
from tidegate.actor.host import EntityWork
from tidegate.actor.system import System
from tidegate.bus import Bus, connect
from tidegate.cli import privacy as cli
from tidegate.config import Settings
from tidegate.entities.budget import MOST, Budget, Budgets, Grant, Granted, Refused, Spend, Spent
from tidegate.errors import CommandRefusedError, QueryError
from tidegate.log import Log
from tidegate.privacy import PrivateCounts, millionths, noise
from tidegate.projection import Position
from tidegate.query import Queries
from tidegate.testing import given

NOW = 1_700_000_000_000


def test_what_does_not_fit_is_refused_and_noted() -> None:
    granted = Granted(NOW, 100, "ann")
    given(Budgets()).when(Grant(100, "ann")).then(granted)
    given(Budgets(), granted).when(Spend(60, "q")).then(Spent(NOW, 60, "q"))
    given(Budgets(), granted, Spent(NOW, 60, "q")).when(Spend(41, "r")).then(Refused(NOW, 41, 40, "r"))
    given(Budgets(), granted, Spent(NOW, 60, "q")).when(Spend(40, "r")).then(Spent(NOW, 40, "r"))
    given(Budgets()).when(Spend(1, "q")).then(Refused(NOW, 1, 0, "q"))


@pytest.mark.parametrize("command", [Grant(0, "ann"), Grant(-5, "ann"), Grant(MOST + 1, "ann"), Spend(-1, "q")])
def test_nothing_can_be_given_back_by_a_command(command: Any) -> None:
    given(Budgets(), Granted(NOW, 100, "ann")).when(command).then_refused("invalid")


COMMANDS = st.one_of(
    st.builds(Grant, st.integers(1, 50), st.just("ann")), st.builds(Spend, st.integers(1, 50), st.just("q"))
)


@each(st.lists(COMMANDS))
def test_no_more_is_ever_spent_than_was_granted(commands: list[Any]) -> None:
    scenario = given(Budgets())
    for command in commands:
        found: Budget = scenario.when(command).state
        assert 0 <= found.spent <= found.granted


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 2000.0])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(QueryError, match="epsilon is from"):
        millionths(epsilon)


def test_epsilon_is_rounded_up_never_down() -> None:
    assert [millionths(one) for one in (0.1, 0.3, 1.0, 0.1000001)] == [100_000, 300_000, 1_000_000, 100_001]


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_noise_is_around_the_true_count_and_as_wide_as_epsilon_says(epsilon: float) -> None:
    pytest.importorskip("opendp", reason="OpenDP is not installed")
    add, within = noise(millionths(epsilon))
    draws = [add(1000) - 1000 for _ in range(4000)]
    a = math.exp(-epsilon)
    deviation = math.sqrt(2 * a) / (1 - a)
    # Each bound is missed by chance less than once in a billion runs: over six standard deviations.
    assert abs(statistics.fmean(draws)) < 6.5 * deviation / math.sqrt(len(draws))
    assert abs(statistics.pstdev(draws) / deviation - 1) < 6.5 * math.sqrt(1.5 / len(draws))
    share = sum(abs(one) <= within for one in draws) / len(draws)
    assert share > 0.95 - 6.5 * math.sqrt(0.05 * 0.95 / len(draws))
    assert sum(abs(one) < within for one in draws) / len(draws) < 0.95 + 6.5 * math.sqrt(0.05 * 0.95 / len(draws))


@contextlib.asynccontextmanager
async def hosted(bus: Bus) -> AsyncIterator[System]:
    """The four cells of budgets, until the block ends."""
    log, entity = Log(bus, 4), Budgets()
    cells = [
        Cell(f"budget.{shard}", EntityWork(bus, log, entity, shard), app.entity_inputs(bus, entity, shard, 1.0))
        for shard in range(4)
    ]
    async with running_cells(cells):
        yield System(bus, log)


@pytest.fixture
async def bus(nats_server: Settings) -> AsyncIterator[Bus]:
    async with connect(nats_server.nats_url) as one:
        await streams.apply(one, app.declarations(nats_server))
        yield one


async def state(system: System, dataset: str) -> Budget:
    return msgspec.json.decode((await system.get("budget", dataset)).state, type=Budget)


@pytest.mark.anyio
async def test_spends_at_once_never_exceed_the_budget_and_a_replay_never_spends_twice(bus: Bus) -> None:
    dataset = f"d-{uuid.uuid4().hex}"
    async with hosted(bus) as system:
        await system.ask("budget", dataset, Grant(100, "ann"))
        answers = await asyncio.gather(
            *(system.ask("budget", dataset, Spend(7, f"q{n}"), command_id=f"{dataset}{n}") for n in range(40))
        )
        kinds = [msgspec.json.decode(one.events)[0]["type"] for one in answers]
        assert (kinds.count("budget.spent.v1"), kinds.count("budget.refused.v1")) == (14, 26)
        again = await system.ask("budget", dataset, Spend(7, "q0"), command_id=f"{dataset}0")
        assert again.duplicate
    async with hosted(bus) as system:
        await system.ask("budget", dataset, Grant(1000, "ann"))
        again = await system.ask("budget", dataset, Spend(7, "q0"), command_id=f"{dataset}0")
        assert again.duplicate, "also after a restart"
        found = await state(system, dataset)
    assert (found.granted, found.spent, found.queries, found.refused) == (1100, 98, 14, 26)


@pytest.mark.anyio
async def test_grants_are_given_and_shown_on_the_command_line(
    bus: Bus, nats_server: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"s{uuid.uuid4().hex[:12]}"
    async with hosted(bus):
        for _ in range(2):
            assert await cli.grant(source, 0.5, by="ann", command_id=source, settings=nats_server) == 0
        capsys.readouterr()
        assert await cli.show(source, json=True, settings=nats_server) == 0
    found = msgspec.json.decode(capsys.readouterr().out)
    assert found == {"granted": 0.5, "spent": 0.0, "left": 0.5, "queries": 0, "refused": 0}


@pytest.mark.anyio
async def test_counts_over_the_lake_spend_before_they_answer(
    bus: Bus, s3_server: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("opendp", reason="OpenDP is not installed")
    source = f"s{uuid.uuid4().hex[:12]}"
    events = frames.events(300)
    for event in events:
        event["metadata"]["log_source"] = source
    namespace = f"lake_{uuid.uuid4().hex[:12]}"
    tier = lake_on(s3_server, namespace)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tier.aclose)
        await tier.open()
        frame = frames.recorded(1, [frames.encode(one) for one in events])
        start = Position(stream="LOG", created="then", sequence=0)
        await tier.apply("all", tier.project([frame]), None, start.after([frame]))
        system = await stack.enter_async_context(hosted(bus))
        counts = PrivateCounts(system, Queries({"lake": tier}, system.log))
        with pytest.raises(CommandRefusedError, match="has 0 left, and this asks for 5") as refused:
            await counts.count(source, 5)
        assert refused.value.code == "exhausted"
        await system.ask("budget", source, Grant(millionths(10.5), "ann"))
        # With epsilon 5 the noise is 6 or more once in 10^13 times.
        found = await counts.count(source, 5)
        assert abs(found.groups[0].count - 300) < 7
        spent = await state(system, source)
        assert (spent.spent, spent.queries, spent.refused) == (5_000_000, 1, 1)
        by = await counts.count(
            source, 5, by="severity_id", since_ms=frames.START_MS, until_ms=frames.START_MS + 7 * 150
        )
        assert [one.value for one in by.groups] == privacy._VALUES["severity_id"], "groups without events, too"
        assert abs(sum(one.count for one in by.groups) - 150) < 40
        assert by.sequence > found.sequence
        with pytest.raises(CommandRefusedError, match=r"has 0\.5 left, and this asks for 0\.6"):
            await counts.count(source, 0.6)
        mine = replace(s3_server, catalog=replace(s3_server.catalog, namespace=namespace))
        assert await cli.count(source, epsilon=0.5, json=True, settings=mine) == 0
        assert msgspec.json.decode(capsys.readouterr().out)["epsilon"] == 0.5
        assert (await state(system, source)).left == 0
        with pytest.raises(QueryError, match="is no source"):
            await counts.count("x' OR '1'='1", 0.1)
