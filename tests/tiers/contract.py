"""What every read model must do. A test module subclasses `ReadModelContract` and supplies one factory fixture.

Invariant: nothing here knows a store; all is seen through `ReadModel`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import anyio.to_thread
import pytest
from msgspec.structs import replace

from tests.conftest import local_settings, running
from tests.tiers import frames
from tidegate.config import Settings
from tidegate.errors import FencedError, TierUnavailableError
from tidegate.local.servers import server
from tidegate.projection import Position, ReadModel, Recorded, Tally

__all__ = ["Make", "ReadModelContract", "opened", "take", "tally_of"]

Make = Callable[[Settings], ReadModel]


def tally_of(*logs: Sequence[Recorded]) -> Tally:
    """What a read model holds once all of these frames are in, each once."""
    every = [one for log in logs for one in log]
    return Tally(count=sum(one.count for one in every), digest=sum(one.digest for one in every) % 2**64)


@asynccontextmanager
async def opened(model: ReadModel) -> AsyncIterator[ReadModel]:
    try:
        await model.open()
        yield model
    finally:
        await model.aclose()


async def take(model: ReadModel, cell: str, batch: Sequence[Recorded], expected: Position | None) -> Position:
    """Apply `batch` after `expected`; returns the new position."""
    new = (expected or frames.start()).after(batch, model.name)
    await model.apply(cell, model.project([one for one in batch if one.is_for(model.name)]), expected, new)
    return new


@pytest.mark.anyio
class ReadModelContract:
    """Subclasses name their server (as `tidegate.local.servers.NAMES` does) and give the fixture `make`."""

    server_name: ClassVar[str]

    @pytest.fixture
    def make(self) -> Make:
        """`make(settings)` returns a read model that is not open yet, on the servers that the settings point at.

        Within one test all models of the same settings work on the same store, and it is empty at first.
        """
        raise NotImplementedError

    @pytest.fixture
    def served(self, serve: Callable[[str], Settings]) -> Settings:
        return serve(self.server_name)

    def cell_of(self, model: ReadModel, shard: int = 0) -> str:
        return str(shard) if model.by_shard else "all"

    async def test_there_is_no_position_and_nothing_counted_at_first(self, make: Make, served: Settings) -> None:
        async with opened(make(served)) as model:
            assert await model.position(self.cell_of(model)) is None
            assert await model.tally() == Tally(count=0, digest=0)

    async def test_apply_moves_the_position_and_the_tally_adds_up(self, make: Make, served: Settings) -> None:
        log = frames.log(5, 60)
        async with opened(make(served)) as model:
            cell = self.cell_of(model)
            first = await take(model, cell, log[:1], None)
            assert await model.position(cell) == first
            assert await model.tally() == tally_of(log[:1])
            second = await take(model, cell, log[1:], first)
            assert await model.position(cell) == second
            assert await model.tally() == tally_of(log)
            assert (second.count, second.digest) == (300, tally_of(log).digest)

    async def test_frames_that_were_routed_elsewhere_only_move_the_position(self, make: Make, served: Settings) -> None:
        log = frames.log(4, 10)
        log[1:3] = [replace(one, tiers="elsewhere") for one in log[1:3]]
        async with opened(make(served)) as model:
            mine = log if model.name == "cold" else [log[0], log[3]]
            cell = self.cell_of(model)
            first = await take(model, cell, log[:2], None)
            second = await take(model, cell, log[2:3], first)
            third = await take(model, cell, log[3:], second)
            assert await model.position(cell) == third
            assert await model.tally() == tally_of(mine)
            assert (third.sequence, third.count, third.left_out) == (
                log[3].sequence,
                10 * len(mine),
                40 - 10 * len(mine),
            )

    async def test_opening_twice_changes_nothing(self, make: Make, served: Settings) -> None:
        log = frames.log(1, 5)
        async with opened(make(served)) as model:
            position = await take(model, self.cell_of(model), log, None)
            await model.open()
            assert await model.position(self.cell_of(model)) == position
            assert await model.tally() == tally_of(log)

    async def test_a_wrong_expected_position_is_fenced_and_nothing_changes(self, make: Make, served: Settings) -> None:
        log = frames.log(4, 20)
        other = frames.log(1, 20, first_sequence=1000, seed=2)
        async with opened(make(served)) as model:
            cell = self.cell_of(model)
            with pytest.raises(FencedError) as caught:
                await take(model, cell, other, frames.start().after(log[:1]))
            assert caught.value.cell == cell
            assert await model.position(cell) is None
            assert await model.tally() == Tally(count=0, digest=0)

            first = await take(model, cell, log[:1], None)
            second = await take(model, cell, log[1:2], first)
            recreated = Position(stream="LOG", created="2027-01-01T00:00:00Z", sequence=second.sequence)
            for wrong in (None, first, frames.start().after(log[:3]), recreated):
                with pytest.raises(FencedError):
                    await take(model, cell, other, wrong)
            assert await model.position(cell) == second
            assert await model.tally() == tally_of(log[:2])

    async def test_frames_applied_again_after_a_crash_are_not_doubled(self, make: Make, served: Settings) -> None:
        log = frames.log(3, 25)
        async with opened(make(served)) as model:
            cell = self.cell_of(model)
            first = await take(model, cell, log[:1], None)
            second = await take(model, cell, log[1:2], first)
        async with opened(make(served)) as model:
            with pytest.raises(FencedError):
                await take(model, cell, log[1:2], first)
            assert await model.position(cell) == second
            assert await model.tally() == tally_of(log[:2])

    async def test_a_cancelled_apply_can_be_made_good(self, make: Make, served: Settings) -> None:
        """Wherever the cancellation hits, the position tells whether the frames are in."""
        log = frames.log(12, 40)
        position: Position | None = None
        for index, delay in enumerate([0, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.05, 0.1]):
            async with opened(make(served)) as model:
                cell = self.cell_of(model)
                new = (position or frames.start()).after(log[index : index + 1])
                writes = model.project(log[index : index + 1])
                task = asyncio.ensure_future(model.apply(cell, writes, position, new))
                await asyncio.wait([task], timeout=delay)
                task.cancel()
                await asyncio.wait([task])
            async with opened(make(served)) as model:
                stored = await model.position(cell)
                assert stored in (position, new)
                while stored != new:
                    try:
                        await model.apply(cell, writes, position, new)
                    except FencedError:
                        assert await model.position(cell) == new
                    stored = await model.position(cell)
                position = new
        async with opened(make(served)) as model:
            assert await model.tally() == tally_of(log)

    async def test_another_instance_sees_the_position_and_goes_on(self, make: Make, served: Settings) -> None:
        log = frames.log(2, 10)
        async with opened(make(served)) as model:
            first = await take(model, self.cell_of(model), log[:1], None)
        async with opened(make(served)) as again:
            assert await again.position(self.cell_of(again)) == first
            await take(again, self.cell_of(again), log[1:], first)
            assert await again.tally() == tally_of(log)

    async def test_cells_are_apart_and_counted_together(self, make: Make, served: Settings) -> None:
        logs = [frames.log(2, 10, shard=shard, first_sequence=5 + shard, seed=shard) for shard in range(3)]
        async with opened(make(served)) as model:
            if not model.by_shard:
                mixed = sorted((one for log in logs for one in log), key=lambda one: one.sequence)
                await take(model, "all", mixed, None)
            else:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(take(model, str(n), log, None)) for n, log in enumerate(logs)]
                for shard, task in enumerate(tasks):
                    assert await model.position(str(shard)) == task.result()
            assert await model.tally() == tally_of(*logs)

    async def test_of_two_racing_writers_one_wins_each_step(self, make: Make, served: Settings) -> None:
        log = frames.log(12, 8)
        async with AsyncExitStack() as stack:
            writers = [await stack.enter_async_context(opened(make(served))) for _ in range(2)]
            cell = self.cell_of(writers[0])
            position: Position | None = None
            done = 0
            while done < len(log):
                results = await asyncio.gather(
                    take(writers[0], cell, log[done : done + 1], position),
                    take(writers[1], cell, log[done : done + 2], position),
                    return_exceptions=True,
                )
                won = [one for one in results if isinstance(one, Position)]
                assert len(won) == 1, results
                assert any(isinstance(one, FencedError) for one in results), results
                position = won[0]
                assert await writers[0].position(cell) == position
                done = next(n for n, one in enumerate(log, 1) if one.sequence == position.sequence)
            assert await writers[1].tally() == tally_of(log)

    async def test_odd_content_is_taken_and_counted(self, make: Make, served: Settings) -> None:
        lines = frames.odd_lines()
        together = [frames.recorded(7, lines)]
        singly = [frames.recorded(10 + n, [line]) for n, line in enumerate(lines)]
        async with opened(make(served)) as model:
            first = await take(model, self.cell_of(model), together, None)
            second = await take(model, self.cell_of(model), singly, first)
            assert await model.tally() == tally_of(together, singly)
            assert await model.position(self.cell_of(model)) == second

    async def test_a_killed_server_is_unavailable_and_goes_on_once_back(self, make: Make, tmp_path: Path) -> None:
        settings = local_settings(tmp_path)
        one = server(self.server_name, settings)
        log = frames.log(6, 30)
        async with AsyncExitStack() as stack:
            context = running(one)
            process = await anyio.to_thread.run_sync(context.__enter__)
            try:
                model = await stack.enter_async_context(opened(make(settings)))
                cell = self.cell_of(model)
                position = await take(model, cell, log[:2], None)
                process.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(process.wait)

                with pytest.raises(TierUnavailableError) as caught:
                    await take(model, cell, log[2:4], position)
                assert caught.value.tier == model.name
                with pytest.raises(TierUnavailableError):
                    await model.position(cell)
                with pytest.raises(TierUnavailableError):
                    await model.tally()
                late = make(settings)
                with pytest.raises(TierUnavailableError):
                    await late.open()
                await late.aclose()
            finally:
                await anyio.to_thread.run_sync(context.__exit__, None, None, None)

            context = running(one)
            await anyio.to_thread.run_sync(context.__enter__)
            try:
                # What was acknowledged may be lost where a store syncs by the second: then data and position alike.
                stored = await model.position(cell)
                rest = [one for one in log if stored is None or one.sequence > stored.sequence]
                await take(model, cell, rest, stored)
                assert await model.tally() == tally_of(log)
            finally:
                await model.aclose()
                await anyio.to_thread.run_sync(context.__exit__, None, None, None)
