"""What a failing target costs: retries and their budget, the breaker, hedges, the fallback, floods."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.conftest import World
from tests.gateway.services import Rest
from tidegate.gateway import CallFailedError, Configuration
from tidegate.gateway.configuration import Breaker, Fallback, Hedge, Retry, Target
from tidegate.gateway.policy import Budget, CircuitBreaker, pause

QUICK = Retry(attempts=3, backoff_seconds=0.01, max_backoff_seconds=0.02)
PATIENT = Breaker(minimum=1000, window=1000)


def one_target(rest: Rest, **changes: Any) -> Configuration:
    settings = {"retry": QUICK, "breaker": PATIENT, "timeout_seconds": 2.0, **changes}
    return Configuration(targets=[Target(name="it", protocol="rest", url=rest.url, **settings)])


@pytest.mark.anyio
async def test_idempotent_calls_are_retried_and_others_are_not(world: World, rest: Rest) -> None:
    async with world.opened(one_target(rest)) as gateway:
        rest.failing = 2
        found = await gateway.execute_synchronous_call("it", "GET /flaky")
        assert (found.value, found.attempts) == ({"ok": True}, 3)
        assert len(set(rest.keys)) == 1  # one key for all attempts
        rest.failing = 1
        with pytest.raises(CallFailedError, match="503") as caught:
            await gateway.execute_synchronous_call("it", "POST /flaky")
        assert (caught.value.kind, caught.value.attempts, caught.value.status) == ("unavailable", 1, "503")
        rest.failing = 1
        assert (await gateway.execute_synchronous_call("it", "POST /flaky", idempotent=True)).attempts == 2


@pytest.mark.anyio
async def test_the_budget_bounds_retries(world: World, rest: Rest) -> None:
    retry = Retry(attempts=3, backoff_seconds=0.001, max_backoff_seconds=0.001, budget=0.1, budget_burst=5)
    async with world.opened(one_target(rest, retry=retry)) as gateway:
        rest.failing = 10**6
        for _ in range(40):
            with pytest.raises(CallFailedError):
                await gateway.execute_synchronous_call("it", "GET /flaky")
        (status,) = gateway.channel_statuses()
        assert 5 <= status.retries <= 5 + 0.1 * 40
        assert rest.seen["/flaky"] == 40 + status.retries
        assert status.errors == 40


@given(st.lists(st.booleans(), max_size=300), st.integers(0, 20), st.floats(0, 1))
def test_a_budget_never_pays_for_more_than_it_may(steps: list[bool], burst: int, share: float) -> None:
    budget = Budget(Retry(budget=share, budget_burst=burst))
    first = spent = 0
    for is_first in steps:
        if is_first:
            budget.earn()
            first += 1
        else:
            spent += budget.spend()
        assert spent <= burst + share * first + 1e-6


@given(st.integers(1, 10_000), st.floats(0.001, 10), st.floats(0.001, 100))
def test_pauses_have_an_end(attempt: int, first: float, most: float) -> None:
    assert 0 <= pause(attempt, first, most) <= most


@given(st.lists(st.sampled_from(["good", "bad", "dropped", "wait"]), max_size=200))
def test_an_open_breaker_lets_one_probe_through_at_a_time(steps: list[str]) -> None:
    now = 0.0
    breaker = CircuitBreaker(Breaker(window=4, minimum=2, failures=0.5, open_seconds=10), clock=lambda: now)
    for step in steps:
        if step == "wait":
            now += 6
            continue
        state = breaker.state
        if not breaker.admit():
            assert state == "open"
            assert 0 < breaker.wait_seconds <= 10
            continue
        if state == "half-open":
            assert not breaker.admit(), "a second probe"
        {"good": breaker.succeeded, "bad": breaker.failed, "dropped": breaker.dropped}[step]()
        if state == "half-open":
            assert breaker.state == {"good": "closed", "bad": "open", "dropped": "half-open"}[step]


@pytest.mark.anyio
async def test_the_breaker_opens_and_recovers(world: World, rest: Rest) -> None:
    settings = Breaker(window=6, minimum=3, failures=0.5, open_seconds=0.3)
    async with world.opened(one_target(rest, breaker=settings, retry=Retry(attempts=1))) as gateway:
        rest.failing = 3
        kinds = []
        for _ in range(5):
            with pytest.raises(CallFailedError) as caught:
                await gateway.execute_synchronous_call("it", "GET /flaky")
            kinds.append(caught.value.kind)
        assert kinds == ["unavailable"] * 3 + ["open"] * 2
        assert rest.seen["/flaky"] == 3
        assert 0 < caught.value.after <= 0.3
        assert gateway.channel_statuses()[0].breaker == "open"
        await asyncio.sleep(0.35)
        assert gateway.channel_statuses()[0].breaker == "half-open"
        assert (await gateway.execute_synchronous_call("it", "GET /flaky")).value == {"ok": True}
        assert gateway.channel_statuses()[0].breaker == "closed"


@pytest.mark.anyio
async def test_refusals_of_the_target_open_no_breaker(world: World, rest: Rest) -> None:
    settings = Breaker(window=4, minimum=2, failures=0.5)
    async with world.opened(one_target(rest, breaker=settings)) as gateway:
        for _ in range(6):
            with pytest.raises(CallFailedError, match="404"):
                await gateway.execute_synchronous_call("it", "GET /missing")
        assert gateway.channel_statuses()[0].breaker == "closed"


@pytest.mark.anyio
async def test_a_hedge_wins_over_a_slow_attempt(world: World, rest: Rest) -> None:
    async with world.opened(one_target(rest, hedge=Hedge(after_seconds=0.05))) as gateway:
        rest.slow = 1
        began = time.monotonic()
        found = await gateway.execute_synchronous_call("it", "GET /slow")
        assert found.hedged
        assert found.value == {"number": 2}
        assert time.monotonic() - began < 0.9  # the first one takes a second
        (status,) = gateway.channel_statuses()
        assert (status.calls, status.hedges, status.hedges_won, status.running) == (1, 1, 1, 0)


@pytest.mark.anyio
async def test_the_fallback_answers_for_a_failing_target_but_not_for_a_refusal(world: World, rest: Rest) -> None:
    async with world.opened(one_target(rest, fallback=Fallback(body={"known": False}))) as gateway:
        rest.failing = 10
        found = await gateway.execute_synchronous_call("it", "GET /flaky")
        assert found.fallback
        assert found.value == {"known": False}
        with pytest.raises(CallFailedError, match="404"):
            await gateway.execute_synchronous_call("it", "GET /missing")


@pytest.mark.anyio
async def test_the_timeout_of_a_call_bounds_all_its_attempts(world: World, rest: Rest) -> None:
    async with world.opened(one_target(rest, timeout_seconds=0.3)) as gateway:
        rest.slow = 10
        began = time.monotonic()
        with pytest.raises(CallFailedError) as caught:
            await gateway.execute_synchronous_call("it", "GET /slow", timeout_seconds=0.5)
        assert caught.value.kind == "timeout"
        assert time.monotonic() - began < 0.9


@pytest.mark.anyio
async def test_a_flood_is_bounded(world: World, rest: Rest) -> None:
    settings = {"max_concurrent": 4, "max_waiting": 8, "retry": Retry(attempts=1), "timeout_seconds": 5.0}
    async with world.opened(one_target(rest, **settings)) as gateway:
        calls = [asyncio.create_task(gateway.execute_synchronous_call("it", "POST /held")) for _ in range(50)]
        _, pending = await asyncio.wait(calls, timeout=0.3)
        assert len(pending) == 12
        assert rest.seen["/held"] == 4
        rest.hold.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        good = [one for one in results if not isinstance(one, BaseException)]
        kinds = {one.kind for one in results if isinstance(one, CallFailedError)}
        assert (len(good), kinds) == (12, {"overloaded"})
        (status,) = gateway.channel_statuses()
        assert (status.running, status.waiting) == (0, 0)
