"""Alerts: raised by escalations, handled by people; their effects at most once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from tidegate import app, streams, subject
from tidegate.actor.cell import POINTS, Cell
from tidegate.actor.entity import Change
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.bus import Bus, Stored, connect
from tidegate.config import Settings
from tidegate.entities.alert import (
    Acknowledge,
    Acknowledged,
    Alert,
    Alerts,
    Forgotten,
    Raise,
    Raised,
    Reopened,
    Repeated,
    Resolve,
    Resolved,
)
from tidegate.entities.correlation import Activated, Escalated, Observed
from tidegate.entities.effects import KIND, EffectProgress, EffectWork
from tidegate.errors import BusError
from tidegate.log import Log, change_messages
from tidegate.testing import Scenario, given

NOW = 1_700_000_000_000
RAISED = Raised(NOW, "look", 4)


def frame(*changes: tuple[str, list[Any]], kind: str = "correlation") -> Stored:
    lines = [msgspec.json.encode(Change(uid, 1, NOW, events)) for uid, events in changes]
    message = change_messages(kind, 1, lines)[0]
    return Stored(message.subject, 7, NOW + 3, message.payload, message.headers)


def test_escalations_raise_alerts_with_the_ids_of_their_correlations() -> None:
    observed = Observed("e1", NOW, {1: 1}, {1: 1})
    reaction = Alerts().react(
        frame(
            ("a", [observed, Escalated(NOW, "severity", 5, 1)]),
            ("b", [observed, Activated(NOW)]),
            ('"correlation.escalated.v1"', [observed]),
            ("c", [Escalated(NOW, "looks {odd}", 2, 9, "ann")]),
            ("d", [{"type": "note.v9", "text": "correlation.escalated.v1", "time_ms": "x"}]),
            ("e", [{"type": "note.v9", "about": ["correlation.escalated.v1"]}]),
        ),
        1,
        4,
    )
    assert reaction.commands == [
        ("a", Raise("Escalated: an event of severity 5", 5)),
        ("c", Raise("Escalated: looks {odd}", 2, "ann")),
    ]
    assert reaction.time_ms == NOW + 3


def test_a_frame_without_escalations_raises_none() -> None:
    reaction = Alerts().react(frame(("b", [Activated(NOW)])), 1, 4)
    assert (reaction.commands, reaction.time_ms) == ([], NOW + 3)


def test_it_is_raised_once_then_repeated_and_reopened_after_it_was_resolved() -> None:
    alert = given_alert().when(Raise("look", 4)).then(RAISED)
    alert.when(Raise("look again", 6)).then(Repeated(NOW, "look again", 6))
    alert.when(Acknowledge("ann")).then(Acknowledged(NOW, "ann"))
    alert.when(Raise("and again", 1)).then(Repeated(NOW, "and again", 1))
    assert alert.state == Alert("acknowledged", "and again", 6, 3, NOW, "", NOW, NOW, "ann")
    alert.when(Resolve("bob", "a scan")).then(Resolved(NOW, "bob", "a scan"))
    assert (alert.state.status, alert.state.resolved_by, alert.state.note) == ("resolved", "bob", "a scan")
    alert.when(Raise("once more", 4)).then(Reopened(NOW, "once more", 4))
    assert alert.state == Alert("raised", "once more", 6, 4, NOW, "", NOW)


def test_pointless_commands_are_refused() -> None:
    given_alert().when(Acknowledge("ann")).then_refused("unknown")
    given_alert().when(Resolve("ann")).then_refused("unknown")
    given_alert(RAISED).when(Acknowledge(" ")).then_refused("invalid")
    given_alert(RAISED).when(Resolve("")).then_refused("invalid")
    again = given_alert(RAISED, Acknowledged(NOW, "ann")).when(Acknowledge("bob"))
    again.then_refused("acknowledged")
    assert str(again.refusal) == "already acknowledged by ann"
    given_alert(RAISED, Resolved(NOW, "ann")).when(Acknowledge("bob")).then_refused("resolved")
    given_alert(RAISED, Resolved(NOW, "ann")).when(Resolve("bob")).then_refused("resolved")


def test_resolved_ones_are_forgotten_and_open_ones_never() -> None:
    given_alert(RAISED).at(NOW + 10**12).then()
    resolved = given_alert(RAISED, Resolved(NOW, "ann")).at(NOW + 999)
    resolved.then()
    resolved.at(NOW + 1000).then(Forgotten())
    assert resolved.state == Alert()


def given_alert(*events: Any) -> Scenario:
    return given(Alerts(keep_ms=1000), *events, time_ms=NOW)


# -- effects ----------------------------------------------------------------------------------------------------------


class Effects:
    """The effects of one cell on a log of its own, with what they did."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.log = Log(bus, 4)
        self.calls: list[str] = []
        self.positions: list[int] = []
        self.work = EffectWork(self.log, 1, self.handle, timeout_seconds=0.2)

    async def handle(self, alert_id: str, raised: Raised) -> None:
        found = await self.log.newest(KIND, 1, EffectProgress)
        assert found[1] is not None
        self.positions.append(found[1].sequence)
        self.calls.append(alert_id)
        if raised.title == "fail":
            raise ValueError("no such address")
        if raised.title == "hang":
            await asyncio.sleep(5)

    async def reached(self, sequence: int) -> None:
        """Wait until the cell has committed so far, and at least its start."""
        for _ in range(500):
            found = (await self.log.newest(KIND, 1, EffectProgress))[1]
            if found is not None and found.sequence >= sequence:
                return
            await asyncio.sleep(0.04)
        raise AssertionError(f"{sequence} was not reached")

    async def alert(self, *changes: tuple[str, list[Any]]) -> int:
        """A frame of changes is in the log; returns its sequence."""
        stored = frame(*changes, kind="alert")
        return (await self.bus.publish(stored.subject, stored.payload, dict(stored.headers))).seq

    @contextlib.asynccontextmanager
    async def running(self, passing: Callable[[str], None] = lambda point: None) -> AsyncIterator[asyncio.Task[None]]:
        self.work = EffectWork(self.log, 1, self.handle, timeout_seconds=0.2)
        pinned = PinnedConsumer(
            self.bus, subject.LOG, "effect-alert-1", [subject.entity("alert", 1)], pin_timeout_seconds=0.4
        )
        task = asyncio.create_task(Cell(f"{KIND}.1", self.work, Mailbox(pinned), passing).run())
        try:
            await self.reached(0)
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, sequence: int) -> None:
        await self.reached(sequence)
        # Handlers are called after the commit.
        await asyncio.sleep(0.5)


@pytest.fixture
async def effects(nats_server: Settings) -> AsyncIterator[Effects]:
    async with connect(nats_server.nats_url) as bus:
        declared = app.declarations(nats_server)
        for name in declared.streams:
            with contextlib.suppress(BusError):
                await bus.api(f"STREAM.DELETE.{name}")
        await streams.apply(bus, declared)
        yield Effects(bus)


@pytest.mark.anyio
async def test_effects_once_for_each_alert_raised_since_the_first_start(effects: Effects) -> None:
    await effects.alert(("history", [RAISED]))
    async with effects.running():
        first = await effects.alert(("a", [RAISED]), ("b", [Acknowledged(NOW, "ann")]), ("c", [RAISED]))
        last = await effects.alert(("a", [Repeated(NOW, "again")]), ("d", [RAISED]))
        await effects.until(last)
    assert effects.calls == ["a", "c", "d"]
    assert effects.positions == [first, first, last]
    between = await effects.alert(("e", [RAISED]))
    async with effects.running():
        await effects.until(between)
    assert effects.calls == ["a", "c", "d", "e"]
    assert effects.work.progress.effects == 4


@pytest.mark.anyio
async def test_an_effect_that_fails_or_hangs_is_not_repeated_and_the_next_take_place(effects: Effects) -> None:
    async with effects.running():
        last = await effects.alert(("a", [Raised(NOW, "fail")]), ("b", [Raised(NOW, "hang")]), ("c", [RAISED]))
        await effects.until(last)
        assert (effects.work.called, effects.work.failed) == (1, 2)
    async with effects.running():
        last = await effects.alert(("d", [RAISED]))
        await effects.until(last)
    assert effects.calls == ["a", "b", "c", "d"]


@pytest.mark.anyio
@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_loses_the_effects_of_one_frame_at_most_and_repeats_none(effects: Effects, point: str) -> None:
    passes = 0

    def crash(passed: str) -> None:
        nonlocal passes
        passes += passed == point
        if passed == point and passes == 2:
            raise RuntimeError("crash")

    last = 0
    async with effects.running(crash):
        for number in range(3):
            last = await effects.alert((f"x{number}", [RAISED]))
            await asyncio.sleep(0.1)
        await effects.until(last)
    assert passes > 2
    assert effects.calls == (["x0", "x2"] if point == "commit" else ["x0", "x1", "x2"])
