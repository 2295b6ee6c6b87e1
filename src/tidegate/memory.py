"""A bus, a log and a system of entities in this process alone: for tests, trials and teaching.

Invariant: it passes the suites that the real bus and the real entities pass, in `tests/`; what it has no use for it
refuses. Nothing is stored, and nobody else can connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats.aio.msg import Msg

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.actor.entity import Entity
from tidegate.actor.host import EntityWork
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.pulling import Delivered
from tidegate.actor.system import System
from tidegate.bus import STREAM_NOT_FOUND, WRONG_LAST_SEQUENCE, Bus, Outgoing, PublishAck, Stored, StreamState
from tidegate.errors import BusError, BusUnavailableError, TidegateError
from tidegate.log import Log

__all__ = ["MemoryBus", "MemoryInput", "memory_log", "memory_system"]

STREAMS = {subject.INGEST: ["ingest.>"], subject.COMMAND: ["cmd.>"], subject.LOG: ["log.>"]}


def _matches(pattern: str, name: str) -> bool:
    wanted, given = pattern.split("."), name.split(".")
    for number, part in enumerate(wanted):
        if part == ">":
            return len(given) > number
        if number >= len(given) or part not in ("*", given[number]):
            return False
    return len(wanted) == len(given)


class _Stream:
    def __init__(self, name: str, subjects: Sequence[str]) -> None:
        self.name = name
        self.subjects = subjects
        self.created = f"memory {time.time_ns()}"
        self.messages: dict[int, Stored] = {}
        self.last = 0
        self.known: dict[str, int] = {}
        """`Nats-Msg-Id` -> sequence."""


class MemoryBus(Bus):
    """A Bus without a server."""

    def __init__(self, streams: Mapping[str, Sequence[str]] = STREAMS) -> None:
        self._streams = {name: _Stream(name, subjects) for name, subjects in streams.items()}
        self._subscribers: dict[int, tuple[str, str, Callable[[Msg], Awaitable[None]]]] = {}
        self._numbers = itertools.count(1)
        self._objects: dict[tuple[str, str], bytes] = {}
        self._inbox, self._tokens, self._waiting = "_INBOX.memory", 0, {}
        self.timeout_seconds = 10.0
        self.listeners: list[Callable[[], None]] = []
        """Called after every message that is stored."""

    @property
    def connected(self) -> bool:
        return True

    @property
    def max_payload(self) -> int:
        return 8 * 1024 * 1024

    # -- streams ------------------------------------------------------------------------------------------------

    async def api(self, call: str, body: object = None) -> dict[str, Any]:
        raise BusError(call, 0, "there is no server in memory")

    async def stream(self, name: str) -> StreamState:
        one = self._stream(name)
        return StreamState(
            name=name,
            created=one.created,
            first_sequence=min(one.messages, default=one.last + 1),
            last_sequence=one.last,
            messages=len(one.messages),
            bytes=sum(len(message.payload) for message in one.messages.values()),
        )

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise BusError(f"stream {name}", STREAM_NOT_FOUND, "stream not found")
        return self._streams[name]

    async def last_message(self, stream: str, subject: str) -> Stored | None:
        return self._newest(self._stream(stream), subject)

    def _taker(self, subject: str) -> _Stream | None:
        found = (one for one in self._streams.values() if any(_matches(each, subject) for each in one.subjects))
        return next(found, None)

    @staticmethod
    def _newest(stream: _Stream, subject: str) -> Stored | None:
        found = (one for one in reversed(stream.messages.values()) if _matches(subject, one.subject))
        return next(found, None)

    async def message_at(self, stream: str, sequence: int) -> Stored | None:
        return self._stream(stream).messages.get(sequence)

    async def next_message(self, stream: str, sequence: int, subject: str) -> Stored | None:
        found = self._stream(stream).messages.values()
        return next((one for one in found if one.sequence >= sequence and _matches(subject, one.subject)), None)

    async def read(
        self, stream: str, subjects: str, first: int, last: int, *, headers_only: bool = False
    ) -> AsyncGenerator[Stored, None]:
        """All messages on `subjects` with first <= sequence <= last."""
        for one in list(self._stream(stream).messages.values()):
            if first <= one.sequence <= last and _matches(subjects, one.subject):
                yield one._replace(payload=b"") if headers_only else one

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> PublishAck:
        await asyncio.sleep(0)
        return self._store([Outgoing(subject, payload, headers or {})])

    async def publish_atomic(self, messages: Sequence[Outgoing]) -> PublishAck:
        await asyncio.sleep(0)
        return self._store(messages)

    def _store(self, messages: Sequence[Outgoing]) -> PublishAck:
        takers = [self._taker(message.subject) for message in messages]
        for taker, message in zip(takers, messages, strict=True):
            if taker is None:
                raise BusUnavailableError(f"{message.subject}: nobody is there to answer")
            expected = message.headers.get("Nats-Expected-Last-Subject-Sequence")
            newest = self._newest(taker, message.subject)
            if expected is not None and int(expected) != (newest.sequence if newest else 0):
                raise BusError("publish", WRONG_LAST_SEQUENCE, "wrong last sequence")
        sequence, duplicate, name = 0, False, ""
        for taker, message in zip(takers, messages, strict=True):
            assert taker is not None
            name = taker.name
            msg_id = message.headers.get("Nats-Msg-Id")
            if msg_id is not None and msg_id in taker.known:
                sequence, duplicate = taker.known[msg_id], True
                continue
            if message.headers.get("Nats-Rollup") == "sub":
                for number in [one.sequence for one in taker.messages.values() if one.subject == message.subject]:
                    del taker.messages[number]
            taker.last = sequence = taker.last + 1
            if msg_id is not None:
                taker.known[msg_id] = sequence
            taker.messages[sequence] = Stored(
                message.subject, sequence, int(time.time() * 1000), bytes(message.payload), dict(message.headers)
            )
        for call in list(self.listeners):
            call()
        return PublishAck(name, sequence, duplicate, len(messages))

    # -- plain messages -----------------------------------------------------------------------------------------

    async def send(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        await asyncio.sleep(0)
        message = Msg(None, subject, reply, payload)  # type: ignore[arg-type]
        future = self._waiting.get(subject)
        if future is not None and not future.done():
            future.set_result(message)
        served: set[str] = set()
        for pattern, queue, call in list(self._subscribers.values()):
            if _matches(pattern, subject) and not (queue and queue in served):
                served.add(queue)
                await call(message)

    async def request(self, subject: str, payload: bytes = b"", timeout_seconds: float | None = None) -> Msg:
        token, future = self.expect()
        if not any(_matches(pattern, subject) for pattern, _, _ in self._subscribers.values()):
            raise BusUnavailableError(f"{subject}: nobody is there to answer")
        await self.send(subject, payload, token)
        return await self._answer(future, subject, timeout_seconds)

    def new_inbox(self) -> str:
        return f"_INBOX.memory.{next(self._numbers)}"

    async def subscribe(self, subject: str, call: Callable[[Msg], Awaitable[None]], queue: str = "") -> Any:
        number = next(self._numbers)
        self._subscribers[number] = (subject, queue, call)
        return number

    async def unsubscribe(self, subscription: Any) -> None:
        self._subscribers.pop(subscription, None)

    # -- objects ------------------------------------------------------------------------------------------------

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        self._objects[bucket, name] = data

    async def get_object(self, bucket: str, name: str) -> bytes | None:
        return self._objects.get((bucket, name))


class MemoryInput:
    """One stream of a MemoryBus, read from a position on, by whoever has it: there is no other process."""

    def __init__(self, bus: MemoryBus, stream: str, filter_subjects: Sequence[str]) -> None:
        self._bus = bus
        self.stream = stream
        self._filters = filter_subjects
        self.wake = asyncio.Event()
        self.trouble: TidegateError | None = None
        self._buffer: deque[Delivered] = deque()
        self._seen = 0

    async def ensure(self) -> None:
        """Nothing has to be made."""

    async def acquire(self, position: Callable[[], Awaitable[int]]) -> None:
        """It is always free."""

    async def pause(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    async def reset(self, after: int) -> None:
        """Read from the first message after sequence `after`."""
        await self.release()
        self._buffer.clear()
        self._seen = after
        self._bus.listeners.append(self._look)
        self._look()

    def _look(self) -> None:
        for one in self._bus._stream(self.stream).messages.values():
            if one.sequence > self._seen and any(_matches(each, one.subject) for each in self._filters):
                self._buffer.append(Delivered(self.stream, one.subject, one.sequence, one.time_ms, 0, 0, *one[3:]))
        self._seen = max(self._seen, self._bus._stream(self.stream).last)
        if self._buffer:
            self.wake.set()

    def pop(self) -> Delivered | None:
        """The next message, if one is there."""
        return self._buffer.popleft() if self._buffer else None

    async def ack(self, last: Delivered) -> None:
        """There is nobody to tell."""

    async def release(self) -> None:
        """Stop reading."""
        with contextlib.suppress(ValueError):
            self._bus.listeners.remove(self._look)


def memory_log(bus: MemoryBus, shards: int = 4) -> Log:
    """The log on a MemoryBus."""
    return Log(bus, shards, MemoryBus.read)


@contextlib.asynccontextmanager
async def memory_system(
    *entities: Entity[Any, Any, Any], shards: int = 4, bus: MemoryBus | None = None
) -> AsyncIterator[System]:
    """A system that hosts these kinds of entities until the block ends; with the same `bus` it goes on afterwards."""
    bus = bus or MemoryBus()
    log = memory_log(bus, shards)
    async with contextlib.AsyncExitStack() as stack:
        for entity in entities:
            for shard in range(shards):
                inputs = [MemoryInput(bus, subject.COMMAND, [subject.command(entity.kind, shard)])]
                if followed := subject.followed(entity.follows, "*" if entity.all_shards else shard):
                    inputs.append(MemoryInput(bus, subject.LOG, followed))
                cell = Cell(f"{entity.kind}.{shard}", EntityWork(bus, log, entity, shard), Mailbox(*inputs))
                stack.push_async_callback(_end, asyncio.create_task(cell.run()))
        yield System(bus, log)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
