"""Batches out of frames: every wanted event in one batch, in order, whatever the sizes and wherever others had been."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from nats.aio.msg import Msg

from tidegate import frame
from tidegate.actor.sharing import Shared
from tidegate.subscriptions.hand import ALL, Hand, Held, events_of, position_of

frames_of = some.lists(some.tuples(some.integers(1, 30), some.integers(0, 31), some.integers(1, 3)), max_size=8)


def held(sequence: int, size: int, place: int, step: int) -> Held:
    """A frame of `size` events `{"at": [sequence, index]}`, of which every `step`-th is wanted."""
    lines = [b'{"at": [%d, %d]}' % (sequence, index) for index in range(size)]
    reply = f"$JS.ACK.LOG.consumer.1.{sequence}.1.1700000000000000000.0"
    message = Msg(None, "log.event.0", reply, frame.seal(lines))  # type: ignore[arg-type]
    return Held(Shared(message), lambda found: range(0, len(found), step), place)


@given(frames_of, some.integers(1, 40))
def test_batches_hold_what_is_not_settled_yet_in_order(shapes: list[tuple[int, int, int]], limit: int) -> None:
    hand = Hand(1)
    wanted = []
    inherited = {sequence for sequence, (_, place, _) in enumerate(shapes, start=1) if place}
    for sequence, (size, place, step) in enumerate(shapes, start=1):
        one = held(sequence, size, place, step)
        if one.done < len(one.chosen):
            hand.frames[sequence] = one
            wanted += [[sequence, index] for index in range(0, size, step) if index >= place]
    got: list[list[int]] = []
    while hand.frames:
        parts = hand.next_parts(limit)
        events = [event["at"] for event in events_of(parts)]
        assert len(events) == sum(part.size for part in parts) == min(limit, len(wanted) - len(got))
        assert position_of(parts) == f"LOG/{events[0][0]}#{events[0][1]}"
        got += events
        for one in hand.settle(parts):
            hand.finish(one.shared)
        begun = {at for at in hand.places(every=False) if at not in hand.unconfirmed}
        assert begun <= {events[-1][0], *inherited}, "besides what others had begun, one frame at most is in between"
    assert got == wanted
    assert set(hand.places(every=True).values()) <= {ALL}
