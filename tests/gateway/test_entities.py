"""What calls and connections go through, without any server."""

from __future__ import annotations

from tidegate.entities import call as calls
from tidegate.entities import connection as connections
from tidegate.testing import given

ORDER = calls.Order(target="it", operation="GET /")
ENDPOINT = connections.Endpoint(target="it", topic="t")
NOW = 1_700_000_000_000


def test_a_call_ends_once_and_its_attempts_are_counted() -> None:
    one = given(calls.Calls()).when(calls.Accept(ORDER)).then(calls.Accepted(ORDER, NOW))
    one.when(calls.Accept(ORDER)).then()
    one.when(calls.Accept(calls.Order(target="other", operation="GET /"))).then_refused("exists")
    one.when(calls.Attempt(1)).then(calls.Attempted(1, NOW))
    one.when(calls.Attempt(1)).then_refused("attempt")
    one.when(calls.Postpone(1, "timeout", 500)).then(calls.Postponed("timeout", NOW + 500))
    one.when(calls.Attempt(2)).then(calls.Attempted(2, NOW))
    one.when(calls.Succeed(b"1")).then(calls.Succeeded(NOW, b"1"))
    one.when(calls.Fail("late")).then_refused("ended")
    one.when(calls.Cancel()).then_refused("ended")
    assert one.state.settled
    one.when(calls.Forget()).then(calls.Forgotten())
    one.when(calls.Attempt(3)).then_refused("unknown")


def test_a_call_with_a_callback_is_settled_when_that_is() -> None:
    order = calls.Order(target="it", operation="GET /", callback=calls.Callback(subject="results.a"))
    one = given(calls.Calls(), calls.Accepted(order, NOW))
    one.when(calls.Delivered()).then()
    one.when(calls.Cancel("me")).then(calls.Cancelled(NOW, "me"))
    one.when(calls.Cancel("me")).then()
    assert not one.state.settled
    one.when(calls.Forget()).then()
    one.when(calls.Delivered()).then(calls.CallbackDelivered())
    assert one.state.settled


def test_a_connection_is_lost_and_resumed_until_it_is_closed() -> None:
    one = given(connections.Connections()).when(connections.Establish(ENDPOINT))
    one.then(connections.Requested(ENDPOINT, NOW))
    one.when(connections.Open()).then(connections.Established(NOW))
    one.when(connections.Lose("gone", "7")).then(connections.Lost(NOW, "gone", "7"))
    one.when(connections.Lose("gone", "7")).then()
    assert (one.state.last_id, one.state.losses) == ("7", 1)
    one.when(connections.Open()).then(connections.Resumed(NOW))
    one.when(connections.Close("me")).then(connections.Closed(NOW, "me"))
    one.when(connections.Close("me")).then()
    one.when(connections.Open()).then_refused("ended")
    one.when(connections.Establish(ENDPOINT)).then_refused("exists")
    one.when(connections.Forget()).then(connections.Forgotten())
