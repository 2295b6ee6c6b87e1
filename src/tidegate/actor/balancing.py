"""Spreads the cells of a kind over the processes that can run them.

Invariant: a cell is let go only to a process that runs at least two fewer of its kind, so that none goes to and fro;
who then gets it is for the server to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.bus import Bus
from tidegate.errors import BusUnavailableError

__all__ = ["balance"]

BEAT_SECONDS = 1.0
_SILENT_SECONDS = 3.5
"""A process that has said nothing for so long does not count."""
_SETTLE_SECONDS = 4.0
"""After a cell of a kind was let go: the one that gets it has to say so first."""


class _Load(msgspec.Struct, frozen=True):
    """What one process says of itself."""

    id: str
    running: dict[str, int]
    """Kind -> how many cells of it run; a kind of which a cell is in trouble is left out."""


async def balance(bus: Bus, process: str, cells: Callable[[], Sequence[Cell]]) -> None:
    """Until cancelled: tell the other processes of this name what runs here, and let cells go that another could run.

    Only cells that have had work since the last look are let go: idle ones cost nothing where they are.
    """
    here = uuid.uuid4().hex
    heard: dict[str, tuple[float, dict[str, int]]] = {}
    done: dict[str, int] = {}
    settled: dict[str, float] = {}

    async def hear(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            load = msgspec.json.decode(message.data, type=_Load)
            heard[load.id] = time.monotonic(), load.running

    subscription = await bus.subscribe(subject.load(process), hear)
    try:
        while True:
            now = time.monotonic()
            mine = _running(cells())
            with contextlib.suppress(BusUnavailableError):
                await bus.send(subject.load(process), msgspec.json.encode(_Load(here, mine)))
            heard = {who: one for who, one in heard.items() if who != here and now - one[0] < _SILENT_SECONDS}
            others = {who: running for who, (_, running) in heard.items()}
            before, done = done, {cell.status.cell: cell.status.frames for cell in cells()}
            for kind in _too_many(here, mine, others):
                busy = [one for one in cells() if _kind(one) == kind and one.status.state == "running"]
                busy = [one for one in busy if one.status.frames > before.get(one.status.cell, one.status.frames)]
                if busy and settled.get(kind, 0.0) < now:
                    settled[kind] = now + _SETTLE_SECONDS
                    busy[-1].give_way()
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        await bus.unsubscribe(subscription)


def _kind(cell: Cell) -> str:
    return cell.status.cell.rpartition(".")[0]


def _running(cells: Sequence[Cell]) -> dict[str, int]:
    running = Counter({_kind(one): 0 for one in cells})
    running.update(_kind(one) for one in cells if one.status.state == "running")
    trouble = {_kind(one) for one in cells if one.status.state in ("waiting", "refused")}
    return {kind: count for kind, count in running.items() if kind not in trouble}


def _too_many(here: str, mine: dict[str, int], others: dict[str, dict[str, int]]) -> list[str]:
    """The kinds of which this process is the one to let a cell go: it runs the most, and two more than another."""
    found = []
    for kind, count in mine.items():
        theirs = {who: running[kind] for who, running in others.items() if kind in running}
        most = max([(count, here), *((many, who) for who, many in theirs.items())])
        if theirs and most == (count, here) and count >= min(theirs.values()) + 2:
            found.append(kind)
    return found
