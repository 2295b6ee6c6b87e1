"""What becomes of handlers that fail: policies, and what the state and people are told of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter as Count

import pytest

from tests.subscriptions.conftest import World, ids_of
from tidegate import Batch, ErrorPolicy, subscribe_to_stream
from tidegate.deadletters import DeadLetters
from tidegate.entities.subscription import Subscription, recovery
from tidegate.errors import QueryError

pytestmark = pytest.mark.anyio
QUICK = {"retries": 2, "backoff_seconds": 0.05}


class Stumbling:
    """Fails on the batch that begins at `#10`, the first `times` times; remembers what it did not fail on."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.left = times
        self.error = error
        self.tried: list[int] = []
        self.ids: list[str] = []
        self.late: list[Batch] = []

    async def __call__(self, batch: Batch) -> None:
        if batch.at.endswith("#10"):
            self.tried.append(batch.attempt)
            if self.left:
                self.left -= 1
                batch[0].clear()
                if self.error is None:
                    self.late.append(batch)
                    await asyncio.sleep(30)
                raise self.error or AssertionError
        self.ids += ids_of(batch)


@contextlib.asynccontextmanager
async def failing(world: World, handler: Stumbling, then: str, **options: float):  # type: ignore[no-untyped-def]
    async with subscribe_to_stream(
        world.name,
        handler,
        max_batch_size=10,
        on_error=ErrorPolicy(**QUICK, then=then),  # type: ignore[arg-type]
        bus=world.bus,
        **options,  # type: ignore[arg-type]
    ) as subscriber:
        yield subscriber


async def told(world: World) -> tuple[Subscription, str]:
    state = await world.manager.get(world.name)
    return state, recovery(state)


async def test_a_retry_that_succeeds_gets_the_events_as_they_were(world: World) -> None:
    await world.append(1, 30)
    handler = Stumbling(2, OSError("no route"))
    async with failing(world, handler, "dead_letter") as subscriber:
        await subscriber.caught_up()
    assert handler.ids == world.ids
    assert handler.tried == [1, 2, 3]
    state, line = await told(world)
    assert (state.totals.processed, state.totals.failed, state.totals.batches) == (30, 0, 5)
    assert "attempt 2 of 3 of LOG/1#10 (10 events): OSError: no route; attempt 3 succeeded" in line


async def test_after_the_last_attempt_events_become_dead_letters(world: World) -> None:
    await world.append(1, 30)
    handler = Stumbling(3, ValueError("bad"))
    async with failing(world, handler, "dead_letter") as subscriber:
        await subscriber.caught_up()
    assert handler.ids == world.ids[:10] + world.ids[20:]
    state, line = await told(world)
    assert (state.totals.processed, state.totals.failed) == (20, 10)
    assert "attempt 3 of 3 of LOG/1#10 (10 events): ValueError: bad; its events are dead letters" in line
    letters = DeadLetters(world.bus, world.log)
    found, total = await letters.find(stage="subscription", rule=f"{world.name}/main")
    assert total == 10
    assert {one.letter.origin for one in found} == {f"LOG/1#{index}" for index in range(10, 20)}
    assert {(one.letter.error, one.letter.attempts) for one in found} == {("ValueError: bad", 3)}
    assert all(one.letter.original.startswith(b"{") for one in found)
    assert await letters.redrive(None) == 0
    with pytest.raises(QueryError, match="subscriptions seek"):
        await letters.redrive([found[0].letter.id])


async def test_skipping_goes_on_without(world: World) -> None:
    await world.append(1, 30)
    handler = Stumbling(3, asyncio.CancelledError())
    async with failing(world, handler, "skip") as subscriber:
        await subscriber.caught_up()
    assert handler.ids == world.ids[:10] + world.ids[20:]
    state, line = await told(world)
    assert (state.totals.processed, state.totals.failed) == (20, 10)
    assert "CancelledError: ; its events were skipped" in line
    assert (await DeadLetters(world.bus, world.log).find())[1] == 0


async def test_a_handler_that_takes_too_long_is_cancelled_and_pausing_waits_for_people(world: World) -> None:
    await world.append(1, 30)
    handler = Stumbling(3)
    async with failing(world, handler, "pause", processing_timeout=0.1) as subscriber:
        async with asyncio.timeout(10):
            while (await subscriber.state()).status == "active":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert handler.tried == [1, 2, 3]
        with pytest.raises(RuntimeError, match="too late to commit"):
            await handler.late[0].commit()
        state, line = await told(world)
        assert (state.status, state.reason, state.totals.processed) == ("paused", "attempt 3 of 3 failed", 10)
        assert "took longer than 0.1 s and was cancelled; paused; `tidegate subscriptions resume`" in line
        assert state.places == {1: 10}
        assert (await subscriber.lag()).in_hand == 1
        await subscriber.resume()
        await subscriber.caught_up()
    assert handler.ids == world.ids
    state, line = await told(world)
    assert state.totals.processed == 30
    assert "delivered again" in line


async def test_between_attempts_it_is_told_when_the_next_one_comes_and_a_pause_ends_the_waiting(world: World) -> None:
    await world.append(1, 20)
    handler = Stumbling(1, ValueError("bad"))
    policy = ErrorPolicy(retries=9, backoff_seconds=30)
    async with subscribe_to_stream(
        world.name, handler, max_batch_size=10, on_error=policy, bus=world.bus
    ) as subscriber:
        async with asyncio.timeout(10):
            while (await subscriber.state()).last_failure is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        _, line = await told(world)
        assert "attempt 1 of 10 of LOG/1#10 (10 events): ValueError: bad; next: attempt 2 at " in line
        await subscriber.pause()
        await asyncio.sleep(0.3)
        await subscriber.resume()
        async with asyncio.timeout(5):
            await subscriber.caught_up()
    assert handler.ids == world.ids


async def test_a_member_that_is_cancelled_leaves_its_batch_to_the_next(world: World) -> None:
    await world.append(2, 30)
    seen: Count[str] = Count()
    stuck = asyncio.Event()

    async def handle(batch: Batch) -> None:
        if sum(seen.values()) == 20 and not stuck.is_set():
            stuck.set()
            await asyncio.sleep(60)
        seen.update(ids_of(batch))

    async def ends_while_the_handler_is_at_work() -> None:
        async with subscribe_to_stream(world.name, handle, max_batch_size=10, bus=world.bus):
            await stuck.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ends_while_the_handler_is_at_work()
    async with subscribe_to_stream(world.name, handle, max_batch_size=10, bus=world.bus) as subscriber:
        async with asyncio.timeout(5):
            await subscriber.caught_up()
    assert seen == Count(world.ids)
    assert (await subscriber.state()).last_failure is None
