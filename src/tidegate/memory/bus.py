"""A Bus without a server: streams, plain messages and objects as NATS has them, in dictionaries.

Invariant: it answers as nats-server 2.15.1 does, error codes included (`tests/test_bus_contract.py` asks both).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats.aio.msg import Msg

from tidegate import subject
from tidegate.bus import (
    BATCH_DISABLED,
    BATCH_DUPLICATE,
    BATCH_INCOMPLETE,
    BATCH_TOO_LARGE,
    MAX_BATCH,
    ROLLUP_REFUSED,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_IN_BATCH,
    Bus,
    Outgoing,
    PublishAck,
    Stored,
    StreamState,
)
from tidegate.errors import BusError, BusUnavailableError

__all__ = ["MemoryBus", "matches"]

STREAMS = {subject.INGEST: ["ingest.>"], subject.COMMAND: ["cmd.>"], subject.LOG: ["log.>"]}
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_ID = "Nats-Msg-Id"
_ROLLUP = "Nats-Rollup"
_MAX_PAYLOAD = 8 * 1024 * 1024


def matches(pattern: str, name: str) -> bool:
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
        # As the streams are declared.
        self.atomic = name in (subject.INGEST, subject.LOG)
        self.rollup = name == subject.LOG
        self.created = f"memory {time.time_ns()}"
        self.messages: dict[int, Stored] = {}
        self.by_subject: dict[str, dict[int, None]] = {}
        """Subject -> sequences, ascending."""
        self.last = 0
        self.known: dict[str, int] = {}
        """`Nats-Msg-Id` -> sequence."""
        self.owners: dict[str, object] = {}
        """Name of an input -> who reads it."""

    def newest(self, pattern: str) -> Stored | None:
        found = [next(reversed(one)) for name, one in self.by_subject.items() if one and matches(pattern, name)]
        return self.messages[max(found)] if found else None

    def remove(self, sequence: int) -> None:
        one = self.messages.pop(sequence)
        del self.by_subject[one.subject][sequence]

    def add(self, message: Outgoing) -> int:
        self.last += 1
        if message.headers.get(_ROLLUP) == "sub":
            for number in list(self.by_subject.get(message.subject, ())):
                self.remove(number)
        if _ID in message.headers:
            self.known[message.headers[_ID]] = self.last
        time_ms = int(time.time() * 1000)
        stored = Stored(message.subject, self.last, time_ms, bytes(message.payload), dict(message.headers))
        self.messages[self.last] = stored
        self.by_subject.setdefault(message.subject, {})[self.last] = None
        return self.last


class _Subscriber:
    """Calls one message after the other, and keeps nobody waiting who sends."""

    def __init__(self, pattern: str, queue: str, call: Callable[[Msg], Awaitable[None]]) -> None:
        self.pattern = pattern
        self.queue = queue
        self._call = call
        self._waiting: deque[Msg] = deque()
        self._task: asyncio.Task[None] | None = None

    def give(self, message: Msg) -> None:
        self._waiting.append(message)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            # As with the real client, what one call raises keeps nobody from the next.
            with contextlib.suppress(Exception):
                await self._call(self._waiting.popleft())


class MemoryBus(Bus):
    """A Bus without a server."""

    def __init__(self, streams: Mapping[str, Sequence[str]] = STREAMS) -> None:
        self._streams = {name: _Stream(name, subjects) for name, subjects in streams.items()}
        self._subscribers: list[_Subscriber] = []
        self._numbers = itertools.count(1)
        self._objects: dict[tuple[str, str], bytes] = {}
        self._inbox, self._tokens, self._waiting = "_INBOX.memory", 0, {}
        self._on_reconnect, self._on_disconnect = [], []
        self.timeout_seconds = 10.0
        self._closed = False
        self.listeners: list[Callable[[], None]] = []
        """Called after every message that is stored."""

    @property
    def connected(self) -> bool:
        return not self._closed

    @property
    def max_payload(self) -> int:
        return _MAX_PAYLOAD

    @property
    def server_version(self) -> str:
        return "memory"

    async def aclose(self) -> None:
        """Whoever still waits gets BusUnavailableError; what is stored stays for the next one who looks."""
        self._closed = True
        self._give_up("the connection was closed")

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

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        found = self._stream(stream).by_subject
        return sorted(name for name, sequences in found.items() if sequences and matches(pattern, name))

    async def purge(self, stream: str, subject: str = ">", before: int = 0) -> int:
        one = self._stream(stream)
        gone = [
            sequence
            for sequence, message in one.messages.items()
            if matches(subject, message.subject) and (not before or sequence < before)
        ]
        for sequence in gone:
            one.remove(sequence)
        return len(gone)

    async def last_message(self, stream: str, subject: str) -> Stored | None:
        return self._stream(stream).newest(subject)

    async def message_at(self, stream: str, sequence: int) -> Stored | None:
        return self._stream(stream).messages.get(sequence)

    async def next_message(self, stream: str, sequence: int, subject: str) -> Stored | None:
        found = self._stream(stream).messages.values()
        return next((one for one in found if one.sequence >= sequence and matches(subject, one.subject)), None)

    async def read(
        self, stream: str, subjects: str, first: int, last: int, *, headers_only: bool = False
    ) -> AsyncGenerator[Stored, None]:
        """All messages on `subjects` with first <= sequence <= last."""
        messages = self._stream(stream).messages
        for sequence in [one for one in messages if first <= one <= last]:
            one = messages.get(sequence)
            if one is not None and matches(subjects, one.subject):
                yield one._replace(payload=b"") if headers_only else one

    # -- publishing ---------------------------------------------------------------------------------------------

    async def submit(self, message: Outgoing) -> asyncio.Future[Any]:
        future: asyncio.Future[PublishAck] = asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)
        try:
            future.set_result(self._store_one(message))
        except (BusError, BusUnavailableError) as error:
            if len(message.payload) > _MAX_PAYLOAD or self._closed:
                raise
            future.set_exception(error)
            future.exception()  # seen: whoever waits gets it, and perhaps nobody does any more
        return future

    async def acknowledged(self, future: asyncio.Future[Any], timeout_seconds: float | None = None) -> PublishAck:
        found: PublishAck = await future
        return found

    async def publish_atomic(self, messages: Sequence[Outgoing]) -> PublishAck:
        await asyncio.sleep(0)
        return self._store_all(messages)

    def _taker(self, message: Outgoing) -> _Stream | None:
        if self._closed:
            raise BusUnavailableError(f"not connected to NATS; {message.subject} was not sent")
        if len(message.payload) > _MAX_PAYLOAD:
            raise BusUnavailableError(f"could not send to {message.subject}: nats: maximum payload exceeded")
        streams = self._streams.values()
        return next((one for one in streams if any(matches(each, message.subject) for each in one.subjects)), None)

    def _store_one(self, message: Outgoing) -> PublishAck:
        stream = self._taker(message)
        if stream is None:
            raise BusUnavailableError(f"{message.subject}: nobody is there to answer")
        if _ROLLUP in message.headers and not stream.rollup:
            raise BusError("publish", ROLLUP_REFUSED, "rollup not permitted")
        known = stream.known.get(message.headers.get(_ID, ""))
        if known is not None:
            return PublishAck(stream.name, known, True)
        _check_expectation(stream, message)
        sequence = stream.add(message)
        self._stored()
        return PublishAck(stream.name, sequence)

    def _store_all(self, messages: Sequence[Outgoing]) -> PublishAck:
        """In the order of the server's checks: the last message decides which stream it is."""
        takers = [self._taker(message) for message in messages]
        stream = takers[-1]
        if stream is None:
            raise BusUnavailableError(f"{messages[-1].subject}: nobody is there to answer")
        if not stream.atomic:
            raise BusError("publish", BATCH_DISABLED, "atomic publish is disabled")
        if any(one is not stream for one in takers):
            raise BusError("publish", BATCH_INCOMPLETE, "atomic publish batch is incomplete")
        if len(messages) > MAX_BATCH:
            raise BusError("publish", BATCH_TOO_LARGE, f"atomic publish batch is too large: {MAX_BATCH}")
        ids = [message.headers[_ID] for message in messages if _ID in message.headers]
        if len(set(ids)) < len(ids) or any(one in stream.known for one in ids):
            raise BusError("publish", BATCH_DUPLICATE, "atomic publish batch contains duplicate message id")
        written: set[str] = set()
        for message in messages:
            if _EXPECTED in message.headers and message.subject in written:
                raise BusError("publish", WRONG_LAST_SEQUENCE_IN_BATCH, "wrong last sequence")
            if _ROLLUP in message.headers and message.subject in written:
                raise BusError("publish", ROLLUP_REFUSED, "batch rollup sub invalid")
            written.add(message.subject)
            _check_expectation(stream, message)
        sequence = [stream.add(message) for message in messages][-1]
        self._stored()
        return PublishAck(stream.name, sequence, False, len(messages))

    def _stored(self) -> None:
        for call in list(self.listeners):
            call()

    # -- plain messages -----------------------------------------------------------------------------------------

    async def send(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        await asyncio.sleep(0)
        if self._closed:
            raise BusUnavailableError("not connected to NATS")
        message = Msg(None, subject, reply, payload, dict(headers) if headers else None)  # type: ignore[arg-type]
        await self._answered(message)
        served: set[str] = set()
        for one in self._subscribers:
            if matches(one.pattern, subject) and not (one.queue and one.queue in served):
                served.add(one.queue)
                one.give(message)

    async def request(self, subject: str, payload: bytes = b"", timeout_seconds: float | None = None) -> Msg:
        if not any(matches(one.pattern, subject) for one in self._subscribers):
            raise BusUnavailableError(f"{subject}: nobody is there to answer")
        token, future = self.expect()
        await self.send(subject, payload, token)
        return await self._answer(future, subject, timeout_seconds)

    def new_inbox(self) -> str:
        return f"_INBOX.memory.{next(self._numbers)}"

    async def subscribe(self, subject: str, call: Callable[[Msg], Awaitable[None]], queue: str = "") -> Any:
        if self._closed:
            raise BusUnavailableError("not connected to NATS")
        one = _Subscriber(subject, queue, call)
        self._subscribers.append(one)
        return one

    async def unsubscribe(self, subscription: Any) -> None:
        with contextlib.suppress(ValueError):
            self._subscribers.remove(subscription)

    # -- objects ------------------------------------------------------------------------------------------------

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        self._objects[bucket, name] = data

    async def get_object(self, bucket: str, name: str) -> bytes | None:
        return self._objects.get((bucket, name))

    async def delete_object(self, bucket: str, name: str) -> None:
        self._objects.pop((bucket, name), None)


def _check_expectation(stream: _Stream, message: Outgoing) -> None:
    expected = message.headers.get(_EXPECTED)
    newest = stream.newest(message.subject)
    last = newest.sequence if newest else 0
    if expected is not None and expected != str(last):
        raise BusError("publish", WRONG_LAST_SEQUENCE, f"wrong last sequence: {last}")
