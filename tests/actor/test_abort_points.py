"""Crashes at every named point of the loop, for every kind of cell: nothing lost, nothing doubled, the same end.

A crash here is what SIGKILL leaves behind: the work is gone, the pin is not given back, and whoever comes next knows
only what was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections import Counter as Count
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from tests.actor.counter import Add, Counters
from tests.tiers import frames
from tidegate import app, frame, streams, subject
from tidegate.actor.cell import POINTS, Cell, Work
from tidegate.actor.host import EntityProgress, EntityWork
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import PullConsumer
from tidegate.bus import Bus, connect
from tidegate.config import Lake, Settings
from tidegate.errors import BusError
from tidegate.head import decode_heads
from tidegate.intake import IntakeWork
from tidegate.log import Log, event_messages, recorded
from tidegate.pipeline.library import load_pipeline
from tidegate.projection import ReadModel, Tally
from tidegate.projector import ProjectionWork
from tidegate.tiers.cold import ColdTier
from tidegate.tiers.hot import HotTier
from tidegate.tiers.lake import LakeTier
from tidegate.tiers.warm import WarmTier

pytestmark = pytest.mark.anyio
SHARDS = 4
_generations = itertools.count(1000)


class CrashError(BaseException):
    """Not an Exception: nothing in between may handle it."""


class Doomed(Mailbox):
    """Ends without a word, as a killed process does."""

    crashed = False

    async def release(self) -> None:
        if not self.crashed:
            await super().release()
        for one in self._inputs:
            assert isinstance(one, PullConsumer)
            await one._stop_pump()


async def nothing() -> None:
    pass


def crash_at(point: str, time: int, work: Work, mailbox: Doomed) -> Callable[[str], None]:
    """From the given pass of `point` on, nothing happens any more: what runs ahead in another task ends as well."""
    left = time

    def passing(passed: str) -> None:
        nonlocal left
        left -= passed == point
        if left == 0:
            mailbox.crashed = True
            work.aclose = nothing  # type: ignore[method-assign]
            raise CrashError(point)

    return passing


@pytest.fixture
async def bus(nats_server: Settings) -> AsyncIterator[Bus]:
    declared = app.declarations(nats_server)
    async with connect(nats_server.nats_url) as bus:
        for name in declared.streams:
            with contextlib.suppress(BusError):
                await bus.api(f"STREAM.DELETE.{name}")
        await streams.apply(bus, declared)
        yield bus


def inputs(bus: Bus, work: Work, name: str) -> Doomed:
    """The mailbox of each kind of cell, for shard or partition 0."""

    def pinned(stream: str, subjects: str, nudge: str = "") -> PinnedConsumer:
        return PinnedConsumer(bus, stream, name, [subjects], pin_timeout_seconds=0.4, nudge=nudge)

    match work:
        case IntakeWork():
            return Doomed(pinned(subject.INGEST, "ingest.*.0"))
        case EntityWork():
            commands = subject.command("counter", 0)
            events = PullConsumer(bus, subject.LOG, name, [subject.event(0)], beat_seconds=0.2)
            return Doomed(pinned(subject.COMMAND, commands, commands), events)
        case _:
            return Doomed(pinned(subject.LOG, subject.event("*")))


async def crash_and_recover(
    bus: Bus, make: Callable[[], Work], point: str, done: Callable[[Work], Awaitable[bool]]
) -> Work:
    """A cell that crashes at its third pass of `point`, then another one, until it is done with all."""
    name = f"abort-{uuid.uuid4().hex[:8]}"
    work = make()
    mailbox = inputs(bus, work, name)
    with pytest.raises(CrashError):
        async with asyncio.timeout(20):
            await Cell(name, work, mailbox, crash_at(point, 3, work, mailbox)).run()
    work = make()
    task = asyncio.create_task(Cell(name, work, inputs(bus, work, name)).run())
    try:
        async with asyncio.timeout(20):
            while not await done(work):
                assert not task.done(), task
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return work


class SmallIntake(IntakeWork):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.limit = 1


@pytest.mark.parametrize("point", POINTS)
async def test_intake(bus: Bus, nats_server: Settings, point: str) -> None:
    pipeline = load_pipeline(SHARDS)
    log = Log(bus, SHARDS)
    sent = []
    for number in range(6):
        lines = [b'{"data": {"n": %d}, "event_id": "%d-%d"}' % (index, number, index) for index in range(20)]
        lines.append(b"no json %d" % number)
        sent.append(await bus.publish(subject.ingest("test", 0), b"\n".join(lines), {frame.CONTENT_TYPE: frame.NDJSON}))

    async def done(work: Work) -> bool:
        assert isinstance(work, SmallIntake)
        return work.progress.sequence == sent[-1].seq

    work = await crash_and_recover(bus, lambda: SmallIntake(bus, log, lambda: pipeline, 0, nats_server), point, done)
    assert isinstance(work, SmallIntake)
    assert (work.progress.records, work.progress.events, work.progress.dead) == (126, 120, 6)
    lines = [line async for one in log.read(subject.event("*")) for line in recorded(one).lines()]
    ids = Count(head.event_id for head in decode_heads(lines))
    assert ids == Count(f"{number}-{index}" for number in range(6) for index in range(20))
    dead = [one async for one in log.read(subject.dead("*"))]
    assert sum(int(one.headers[frame.COUNT]) for one in dead) == 6


@pytest.mark.parametrize("point", POINTS)
async def test_entity(bus: Bus, point: str) -> None:
    log = Log(bus, SHARDS)
    expected: Count[str] = Count()
    for one in frames.log(8, 30, shard=0):
        expected.update(head.correlation_id for head in decode_heads(one.lines()))
        await log.append_facts(event_messages(0, one.lines(), "test"))
    for number in range(4):
        body = {"id": "a", "command": Add(10**number), "command_id": f"add {number}"}
        await bus.publish(subject.command("counter", 0), msgspec.json.encode(body))

    async def done(work: Work) -> bool:
        assert isinstance(work, EntityWork)
        _, progress = await log.newest("counter", 0, EntityProgress)
        ends = {name: (await bus.stream(name)).last_sequence for name in (subject.COMMAND,)}
        return (
            progress is not None
            and progress.positions[subject.COMMAND] == ends[subject.COMMAND]
            and (progress.positions[subject.LOG] == await last_event(log))
        )

    work = await crash_and_recover(bus, lambda: EntityWork(bus, log, Counters(), 0, limit=2), point, done)
    again = EntityWork(bus, log, Counters(), 0)
    await again.recover()
    assert isinstance(work, EntityWork)
    assert again._entities == work._entities
    found = {name: state for name, (_, state) in again._entities.items()}
    assert found.pop("a").total == 1111
    assert {name: state.seen for name, state in found.items()} == dict(expected)


async def last_event(log: Log) -> int:
    return max((await log.last_event_sequences()).values())


def model_of(tier: str, settings: Settings, generation: int) -> ReadModel:
    match tier:
        case "hot":
            return HotTier(settings.redis_url, settings.hot, generation=generation)
        case "warm":
            return WarmTier(settings.mongodb_uri, "abort", settings.warm, generation=generation)
        case "cold":
            return ColdTier(settings.s3_endpoint, settings.s3, generation=generation)
        case _:
            return LakeTier(
                settings.catalog_uri,
                settings.s3_endpoint,
                catalog=settings.catalog,
                s3=settings.s3,
                settings=Lake(),
                generation=generation,
            )


@pytest.fixture(params=["hot", "warm", "cold", "lake"])
def tier(request: pytest.FixtureRequest, serve: Callable[[str], Settings]) -> str:
    serve({"hot": "redis", "warm": "mongo"}.get(request.param, "s3"))
    return str(request.param)


@pytest.mark.parametrize("point", POINTS)
async def test_projection(bus: Bus, settings: Settings, tier: str, point: str) -> None:
    log = Log(bus, SHARDS)
    for one in frames.log(6, 30, shard=0):
        await log.append_facts(event_messages(0, one.lines(), "test"))
    ids = [
        head.event_id
        for one in [one async for one in log.read(subject.event("*"))]
        for head in decode_heads(recorded(one).lines())
    ]
    end, generation = await last_event(log), next(_generations)
    seen = model_of(tier, settings, generation)
    models = [seen]
    cell = "all" if tier == "lake" else "0"

    def make() -> Work:
        models.append(model_of(tier, settings, generation))
        return ProjectionWork(log, models[-1], cell, limit=1, linger_seconds=0)

    async def done(work: Work) -> bool:
        position = await seen.position(cell)
        return position is not None and position.sequence == end

    try:
        await seen.open()
        await crash_and_recover(bus, make, point, done)
        position = await seen.position(cell)
        expected = await log.tally()
        assert position is not None
        assert Tally(count=position.count, digest=position.digest) == expected
        assert await seen.tally() == expected
        if isinstance(seen, HotTier):
            assert await seen.present(ids) == len(ids)
    finally:
        for model in models:
            await model.aclose()
