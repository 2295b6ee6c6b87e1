"""Appends of several cells of one process that come at the same moment, stored as one atomic batch.

Invariant: each append is stored whole or not at all, and its own expectations decide which: a group that is refused is
tried again one by one.

Why: an atomic batch takes the server about 2 ms with `sync_interval: always`, hardly more for 64 messages than for 2,
and one after the other (nats-server 2.15.1). So cells that commit side by side would wait for one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from tidegate.bus import Bus, Outgoing
from tidegate.errors import BusError

__all__ = ["GroupCommit"]

_MOST_BYTES = 256 * 1024
"""A larger append goes by itself, at once: sending it takes longer than what it would save."""
_MOST_MESSAGES = 500
"""In one group; the server takes at most 1,000."""


class _Append(NamedTuple):
    messages: Sequence[Outgoing]
    stored: asyncio.Future[int]


class GroupCommit:
    """Of one bus. What comes while a group is on its way is the next group."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: list[_Append] = []
        self._task: asyncio.Task[None] | None = None

    async def append(self, messages: Sequence[Outgoing]) -> int:
        """The sequence of the last of `messages`. Raises as `Bus.publish_atomic`."""
        if sum(len(one.payload) for one in messages) > _MOST_BYTES or len(messages) > _MOST_MESSAGES:
            return (await self._bus.publish_atomic(messages)).seq
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Append(messages, stored))
        if self._task is None:
            self._task = asyncio.create_task(self._commit_all())
        return await stored

    async def _commit_all(self) -> None:
        try:
            while group := self._next():
                await self._commit(group)
        finally:
            self._task = None
            # Only where this is cancelled, as the process ends.
            for one in self._waiting:
                one.stored.cancel()
            self._waiting.clear()

    def _next(self) -> list[_Append]:
        count = taken = 0
        for one in self._waiting:
            count += len(one.messages)
            if taken and count > _MOST_MESSAGES:
                break
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group

    async def _commit(self, group: list[_Append]) -> None:
        try:
            ack = await self._bus.publish_atomic([message for one in group for message in one.messages])
        except BusError as error:
            if len(group) > 1:
                for one in group:
                    await self._commit([one])
            else:
                _fail(group, error)
        except BaseException as error:
            _fail(group, error)
            if not isinstance(error, Exception):
                raise
        else:
            # A batch is stored in one piece, so sequences follow from the last one.
            sequence = ack.seq
            for one in reversed(group):
                if not one.stored.done():
                    one.stored.set_result(sequence)
                sequence -= len(one.messages)


def _fail(group: list[_Append], error: BaseException) -> None:
    for one in group:
        if one.stored.done():
            continue
        if isinstance(error, Exception):
            one.stored.set_exception(error)
        else:
            one.stored.cancel()
