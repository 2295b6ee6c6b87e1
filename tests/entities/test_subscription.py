"""Subscriptions as entities: every command may come twice, epochs, reports, what people are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tidegate.actor.entity import Codec
from tidegate.entities.subscription import (
    Create,
    Created,
    Definition,
    Delete,
    Deleted,
    ErrorPolicy,
    Failure,
    Pause,
    Paused,
    Redefined,
    Report,
    Reported,
    Resume,
    Resumed,
    Seek,
    Sought,
    Start,
    Subscription,
    Subscriptions,
    Totals,
    recovery,
)
from tidegate.errors import CommandRefusedError
from tidegate.testing import Scenario, given

NOW = 1_700_000_000_000
LOG = "2026-01-01T00:00:00Z"
DEFINED = Definition(types=("dns_activity", 4002), max_batch_size=50)
CREATED = Created(time_ms=NOW, definition=DEFINED, start=Start(sequence=9), created=LOG)
FAILURE = Failure(
    member="host:7", at="LOG/12#0", events=50, error="ValueError: bad", attempt=1, attempts=4, next="retry"
)


def subscription(*events: Any) -> Scenario:
    return given(Subscriptions(), *events, entity_id="siem/main", time_ms=NOW)


def test_it_is_created_once_and_redefined_by_whoever_wants_something_else() -> None:
    create = Create(definition=DEFINED, start=Start(sequence=9), created=LOG)
    one = subscription().when(create).then(CREATED)
    assert one.state == Subscription(
        status="active", definition=DEFINED, epoch=1, start=Start(sequence=9), created=LOG, since_ms=NOW
    )
    one.when(replace(create, start=Start())).then()
    other = replace(DEFINED, max_batch_size=7)
    one.when(replace(create, definition=other)).then(Redefined(definition=other))
    assert (one.state.epoch, one.state.definition) == (1, other)


def test_every_command_given_twice_changes_nothing_the_second_time() -> None:
    one = subscription(CREATED)
    one.when(Resume()).then()
    one.when(Pause("rest")).then(Paused(time_ms=NOW, reason="rest"))
    one.when(Pause("again")).then()
    assert (one.state.status, one.state.reason) == ("paused", "rest")
    one.when(Resume()).then(Resumed(time_ms=NOW))
    one.when(Resume()).then()
    assert (one.state.status, one.state.reason) == ("active", "")
    one.when(Delete()).then(Deleted(time_ms=NOW))
    one.when(Delete()).then()


@pytest.mark.parametrize("command", [Pause(), Resume(), Seek(start=Start(), created=LOG), Report(epoch=1), Delete()])
def test_commands_to_what_is_not_there_are_refused(command: Any) -> None:
    subscription().when(command).then_refused("unknown")
    if not isinstance(command, Delete):
        subscription(CREATED, Deleted(time_ms=NOW)).when(command).then_refused("unknown")


def test_an_epoch_never_comes_twice() -> None:
    one = subscription(CREATED, Deleted(time_ms=NOW))
    one.when(Create(definition=DEFINED, start=Start(), created=LOG))
    assert (one.state.epoch, one.state.status, one.state.totals) == (2, "active", Totals())
    one.when(Seek(start=Start(time_ms=5), created="later")).then(Sought(start=Start(time_ms=5), created="later"))
    assert (one.state.epoch, one.state.start, one.state.created) == (3, Start(time_ms=5), "later")


def test_reports_add_up_and_the_floor_only_rises() -> None:
    one = subscription(CREATED)
    done = Totals(processed=90, failed=5, filtered=5, batches=2, seconds=0.5)
    one.when(Report(epoch=1, totals=done, floor=10, places={11: 40, 12: 0}))
    one.when(Report(epoch=1, totals=done, floor=8, places={12: 7}))
    assert (one.state.floor, one.state.places) == (10, {11: 40, 12: 7})
    assert one.state.totals == Totals(processed=180, failed=10, filtered=10, batches=4, seconds=1.0)
    one.when(Report(epoch=1, floor=11)).then(Reported(floor=11))
    assert one.state.places == {12: 7}
    one.when(Report(epoch=1, floor=11)).then()


def test_reports_of_another_epoch_count_and_move_nothing() -> None:
    one = subscription(CREATED, Sought(start=Start(), created=LOG))
    done = Totals(processed=10)
    one.when(Report(epoch=1, totals=done, floor=99, places={100: 1})).then(Reported(totals=done))
    assert (one.state.floor, one.state.places, one.state.totals.processed) == (0, {}, 10)
    one.when(Report(epoch=1, failure=replace(FAILURE, next="pause")))
    assert one.state.status == "active"


def test_a_failure_that_pauses_and_what_people_read_of_it() -> None:
    one = subscription(CREATED)
    assert recovery(one.state) == ""
    one.when(Report(epoch=1, failure=replace(FAILURE, next_seconds=90)))
    assert recovery(one.state) == (
        "22:13:20Z attempt 1 of 4 of LOG/12#0 (50 events): ValueError: bad; next: attempt 2 at 22:14:50Z by host:7"
    )
    last = replace(FAILURE, attempt=4, next="pause")
    one.when(Report(epoch=1, failure=last)).then(
        Reported(failure=replace(last, time_ms=NOW)), Paused(time_ms=NOW, reason="attempt 4 of 4 failed")
    )
    assert "paused; `tidegate subscriptions resume`" in recovery(one.state)
    one.when(Resume())
    assert recovery(one.state).endswith("next: delivered again to a member of the group")


def test_the_pause_between_attempts_doubles_up_to_its_maximum() -> None:
    policy = ErrorPolicy(backoff_seconds=0.5, max_backoff_seconds=3)
    assert [policy.delay_seconds(attempt) for attempt in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch_size": 0},
        {"processing_timeout_seconds": 0},
        {"member_timeout_seconds": 0.1},
        {"on_error": {"then": "explode"}},
        {"on_error": {"retrys": 1}},
        {"where": {"minimum": 1}},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    raw = {"type": "subscription.create.v1", "definition": wrong, "start": {}, "created": LOG}
    with pytest.raises(CommandRefusedError, match="definition"):
        Codec(Subscriptions()).command(msgspec.json.encode(raw))
