"""One NATS connection, spoken to in JetStream's own requests: API calls, pipelined and atomic publishes, raw inboxes.

Invariant: every request ends: with an answer, with the server's error code, or as BusUnavailableError.
nats-py keeps the connection (reconnects, re-subscribes); its JetStream helpers are not used, because its pipelined
publisher never resolves on an error answer (seen in 2.16) and it has none for atomic batches and pinned consumers.
"""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.js.errors import BucketNotFoundError, DigestMismatchError, NotFoundError

from tidegate.errors import BusError, BusUnavailableError

__all__ = ["Bus", "Outgoing", "PublishAck", "Stored", "StreamState", "connect", "connect_patiently"]

# JetStream error codes that are acted upon.
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
NO_MESSAGE_FOUND = 10037
WRONG_LAST_SEQUENCE = 10071
ROLLUP_REFUSED = 10111
WRONG_LAST_SEQUENCE_IN_BATCH = 10164
"""An expectation about a subject that the same batch writes to elsewhere."""
BATCH_DISABLED = 10174
BATCH_INCOMPLETE = 10176
BATCH_TOO_LARGE = 10199
BATCH_DUPLICATE = 10201
MAX_BATCH = 1000
_NOT_NOW = (429, 503)
"""Codes (like HTTP's) of errors that pass: too many requests, storage or JetStream not available."""


class Outgoing(NamedTuple):
    """A message to publish."""

    subject: str
    payload: bytes
    headers: dict[str, str]


class Stored(NamedTuple):
    """A message as a stream has it."""

    subject: str
    sequence: int
    time_ms: int
    payload: bytes
    headers: Mapping[str, str]


class PublishAck(msgspec.Struct, frozen=True):
    """JetStream's answer to a publish: the message is stored, and on disk with `sync_interval: always`."""

    stream: str
    seq: int
    duplicate: bool = False
    count: int = 1
    """Messages of an atomic batch."""


class StreamState(msgspec.Struct, frozen=True):
    """What identifies a stream, and where it begins and ends."""

    name: str
    created: str
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    count: int = 1
    error: _Error | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


class _Transport(TcpTransport):
    """Tells of a lost connection by an OSError, as nats-py expects it.

    Seen with uvloop 0.23: writing to a transport that was reset a moment ago raises RuntimeError. In nats-py 2.16 that
    gets through `publish`, and ends its flusher, or the task that reconnects, without a word.
    """

    def __bool__(self) -> bool:
        return True  # else the client makes one of its own

    def write(self, payload: bytes) -> None:
        try:
            super().write(payload)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error

    def writelines(self, payload: list[bytes]) -> None:
        try:
            super().writelines(payload)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error


class Bus:
    """A connection to NATS. Made by `connect`."""

    def __init__(self, client: Client, request_timeout_seconds: float) -> None:
        self._client = client
        self.timeout_seconds = request_timeout_seconds
        self._inbox = ""
        self._tokens = 0
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[str], None]] = []
        self._subscription: Subscription | None = None

    async def _start(self) -> None:
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    @property
    def connected(self) -> bool:
        """Whether the connection is up at this moment."""
        return self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return self._client.max_payload

    @property
    def server_version(self) -> str:
        """Such as `2.15.1`."""
        return str(self._client.connected_server_version).strip("<>").rpartition(" v")[2]

    def on_reconnect(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called after each reconnect; returns a function that takes it off the list again."""
        self._on_reconnect.append(call)
        return lambda: self._on_reconnect.remove(call)

    async def pause(self, seconds: float) -> bool:
        """Returns after `seconds`, or at once when a lost connection comes back; whether it did."""
        back = asyncio.Event()
        undo = self.on_reconnect(back.set)
        try:
            async with asyncio.timeout(seconds):
                return await back.wait()
        except TimeoutError:
            return False
        finally:
            undo()

    def on_disconnect(self, call: Callable[[str], None]) -> Callable[[], None]:
        """Have `call` called with the reason when the connection is lost; returns what takes it off the list again."""
        self._on_disconnect.append(call)
        return lambda: self._on_disconnect.remove(call)

    # -- requests -----------------------------------------------------------------------------------------------

    async def request(self, subject: str, payload: bytes = b"", timeout_seconds: float | None = None) -> Msg:
        """One request, one answer. Raises BusUnavailableError when none comes, at once when the connection is lost."""
        return await self._answer(await self._ask(Outgoing(subject, payload, {})), subject, timeout_seconds)

    def expect(self) -> tuple[str, asyncio.Future[Msg]]:
        """A subject of its own, and a future that gets what comes there, or BusUnavailableError."""
        self._tokens += 1
        token = f"{self._inbox}.{self._tokens}"
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        return token, future

    async def _ask(self, message: Outgoing) -> asyncio.Future[Msg]:
        if not self.connected:
            raise BusUnavailableError(f"not connected to NATS; {message.subject} was not sent")
        token, future = self.expect()
        try:
            await self._client.publish(message.subject, message.payload, reply=token, headers=message.headers or None)
        except (NatsError, OSError) as error:
            future.cancel()
            raise BusUnavailableError(f"could not send to {message.subject}: {error}") from error
        return future

    async def _answer(self, future: asyncio.Future[Msg], what: str, timeout_seconds: float | None) -> Msg:
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await future
        except TimeoutError:
            raise BusUnavailableError(f"{what}: no answer within {seconds:g} s") from None
        if not message.data and message.headers and message.headers.get("Status") == "503":
            raise BusUnavailableError(f"{what}: nobody is there to answer")
        return message

    async def api(self, call: str, body: object = None) -> dict[str, Any]:
        """A JetStream API call (`STREAM.INFO.LOG`). Raises BusError with the server's error code."""
        message = await self.request(f"$JS.API.{call}", b"" if body is None else msgspec.json.encode(body))
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        if error := answer.get("error"):
            raise BusError(call, int(error.get("err_code", 0)), str(error.get("description", "")))
        return answer

    async def stream(self, name: str) -> StreamState:
        """Identity and extent of a stream. Raises BusError (10059) when there is none."""
        info = await self.api(f"STREAM.INFO.{name}")
        state = info["state"]
        return StreamState(
            name=name,
            created=info["created"],
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            messages=state["messages"],
            bytes=state["bytes"],
        )

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        """The subjects that match `pattern` and have messages in the stream."""
        info = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
        return sorted(info["state"].get("subjects") or ())

    async def purge(self, stream: str, subject: str = ">", before: int = 0) -> int:
        """Remove all messages on `subject` (wildcards allowed), or those with a sequence below `before`; how many."""
        body = {"filter": subject, **({"seq": before} if before else {})}
        return int((await self.api(f"STREAM.PURGE.{stream}", body))["purged"])

    async def last_message(self, stream: str, subject: str) -> Stored | None:
        """The newest message on `subject` (wildcards allowed), or None."""
        return await self._get(stream, {"last_by_subj": subject})

    async def message_at(self, stream: str, sequence: int) -> Stored | None:
        """The message at `sequence`, or None when it is not there (any more)."""
        return await self._get(stream, {"seq": sequence})

    async def next_message(self, stream: str, sequence: int, subject: str) -> Stored | None:
        """The first message on `subject` (wildcards allowed) at or after `sequence`, or None."""
        return await self._get(stream, {"seq": sequence, "next_by_subj": subject})

    async def _get(self, stream: str, query: dict[str, Any]) -> Stored | None:
        # DIRECT.GET answers with the raw message; both streams are declared with allow_direct.
        message = await self.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query))
        headers = message.headers or {}
        if "Nats-Sequence" not in headers:
            status = headers.get("Status", "")
            if status == "404":
                return None
            raise BusError(f"read from {stream}", 0, f"{status} {headers.get('Description', '')}".strip())
        return Stored(
            headers["Nats-Subject"],
            int(headers["Nats-Sequence"]),
            _parse_time_ms(headers["Nats-Time-Stamp"]),
            message.data,
            headers,
        )

    # -- publishing ---------------------------------------------------------------------------------------------

    async def submit(self, message: Outgoing) -> asyncio.Future[Any]:
        """Send without waiting for the acknowledgement.

        The caller bounds how many futures are open and waits for each with `acknowledged`.
        """
        return await self._ask(message)

    async def acknowledged(self, future: asyncio.Future[Any], timeout_seconds: float | None = None) -> PublishAck:
        """Wait for the acknowledgement of a `submit`.

        Raises BusError when the server has refused the message, and BusUnavailableError when it cannot take it now or
        has not answered within the timeout (default: the request timeout).
        """
        message = await self._answer(future, "publish", timeout_seconds)
        try:
            answer = _ANSWER.decode(message.data)
        except msgspec.MsgspecError as error:
            raise BusError("publish", 0, f"unreadable answer: {error}") from error
        if answer.error is None:
            return PublishAck(answer.stream, answer.seq, answer.duplicate, answer.count)
        if answer.error.code in _NOT_NOW:
            raise BusUnavailableError(f"publish: {answer.error.description}")
        raise BusError("publish", answer.error.err_code, answer.error.description)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> PublishAck:
        """Publish one message to a stream and wait for the acknowledgement."""
        return await self.acknowledged(await self.submit(Outgoing(subject, payload, headers or {})))

    async def publish_atomic(self, messages: Sequence[Outgoing]) -> PublishAck:
        """Store all messages, or none (a JetStream atomic batch; the server takes at most 1,000 in one).

        Returns the acknowledgement of the last message; `seq` is its sequence. Raises BusError 10071 when an
        expectation in the headers does not hold; then nothing was stored.
        """
        if len(messages) == 1:  # A fifth of the time.
            return await self.publish(messages[0].subject, messages[0].payload, messages[0].headers)
        batch = uuid.uuid4().hex
        if not self.connected:
            raise BusUnavailableError("not connected to NATS")
        last = len(messages)
        try:
            for number, message in enumerate(messages[:-1], start=1):
                headers = {**message.headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                await self._client.publish(message.subject, message.payload, headers=headers)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(f"could not send the batch: {error}") from error
        final = messages[-1]
        commit = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(last), "Nats-Batch-Commit": "1"}
        return await self.acknowledged(
            await self.submit(Outgoing(final.subject, final.payload, {**final.headers, **commit}))
        )

    async def send(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """A plain publish, nobody answers."""
        if not self.connected:
            raise BusUnavailableError("not connected to NATS")
        try:
            await self._client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(f"could not send to {subject}: {error}") from error

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def subscribe(self, subject: str, call: Callable[[Msg], Awaitable[None]], queue: str = "") -> Subscription:
        """A plain subscription; `call` gets each message. Of those that name the same `queue`, one gets it."""
        if not self.connected:
            raise BusUnavailableError("not connected to NATS")
        try:
            return await self._client.subscribe(subject, queue=queue, cb=call)
        except (NatsError, OSError) as error:
            raise BusUnavailableError(f"could not subscribe to {subject}: {error}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; fine when the connection is away."""
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    # -- objects ------------------------------------------------------------------------------------------------

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        """Store `data` under `name` in an object store, in place of what is there. Makes the bucket."""
        try:
            store = await self._client.jetstream(timeout=self.timeout_seconds).create_object_store(bucket)
            await store.put(name, data)
        except (NatsError, OSError, TimeoutError) as error:
            raise BusUnavailableError(f"storing {name} in {bucket}: {error or type(error).__name__}") from error

    async def get_object(self, bucket: str, name: str) -> bytes | None:
        """What is stored under `name`; None when nothing is. Raises BusError for a damaged object."""
        try:
            store = await self._client.jetstream(timeout=self.timeout_seconds).object_store(bucket)
            return (await store.get(name)).data
        except (BucketNotFoundError, NotFoundError):
            return None
        except DigestMismatchError as error:
            raise BusError(f"reading {name} in {bucket}", 0, "the object is damaged") from error
        except (NatsError, OSError, TimeoutError) as error:
            raise BusUnavailableError(f"reading {name} in {bucket}: {error or type(error).__name__}") from error

    async def delete_object(self, bucket: str, name: str) -> None:
        """Remove what is stored under `name`, if anything is."""
        try:
            store = await self._client.jetstream(timeout=self.timeout_seconds).object_store(bucket)
            await store.delete(name)
        except (BucketNotFoundError, NotFoundError):
            return
        except (NatsError, OSError, TimeoutError) as error:
            raise BusUnavailableError(f"removing {name} in {bucket}: {error or type(error).__name__}") from error

    # -- life ---------------------------------------------------------------------------------------------------

    async def _disconnected(self) -> None:
        reason = str(self._client.last_error or "connection lost")
        self._give_up(f"connection to NATS lost: {reason}")
        for call in list(self._on_disconnect):
            call(reason)

    async def _reconnected(self) -> None:
        for call in list(self._on_reconnect):
            call()

    async def aclose(self) -> None:
        """Close the connection; whoever still waits gets BusUnavailableError."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(2):
                if self._client.is_connected:
                    await self._client.flush(timeout=1)
        await self._client.close()
        self._give_up("the connection was closed")

    def _give_up(self, reason: str) -> None:
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(BusUnavailableError(reason))
                future.exception()  # seen: whoever waits gets it, and perhaps nobody does any more


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    name: str = "tidegate",
    credentials_file: str | None = None,
    inbox_prefix: str = "_INBOX",
    connect_timeout_seconds: float = 5.0,
    request_timeout_seconds: float = 10.0,
) -> AsyncIterator[Bus]:
    """Connect, and keep reconnecting for ever once connected.

    Answers come on subjects below `inbox_prefix`, for users that may subscribe to no others.

    Raises BusUnavailableError naming the address when there is no connection within the timeout.
    """
    client = Client()
    if not url.startswith("ws"):
        client._transport = _Transport()  # type: ignore[no-untyped-call]
    bus = Bus(client, request_timeout_seconds)
    options: dict[str, Any] = {"user_credentials": credentials_file} if credentials_file else {}
    last_error: list[Exception] = []

    async def failed(error: Exception) -> None:
        last_error[:] = [error]

    try:
        async with asyncio.timeout(connect_timeout_seconds):
            await client.connect(
                servers=url.split(","),
                name=name,
                error_cb=failed,
                disconnected_cb=bus._disconnected,
                reconnected_cb=bus._reconnected,
                inbox_prefix=inbox_prefix,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                connect_timeout=max(1, int(connect_timeout_seconds)),
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=32 * 1024 * 1024,
                skip_subject_validation=True,
                **options,
            )
            await bus._start()
    except (NatsError, OSError, TimeoutError) as error:
        with contextlib.suppress(NatsError, OSError):
            await client.close()
        cause = last_error[0] if last_error else error
        raise BusUnavailableError(
            f"NATS at {_without_password(url)} cannot be reached ({cause or type(cause).__name__}); start it with"
            " `tidegate up`, or set nats.url (NATS_URL)"
        ) from cause
    try:
        yield bus
    finally:
        await bus.aclose()


@contextlib.asynccontextmanager
async def connect_patiently(
    url: str, *, on_wait: Callable[[BusUnavailableError, float], None], **options: Any
) -> AsyncIterator[Bus]:
    """Like `connect`, but tries again with a growing pause (at most 5 s) until the server is there."""
    pause = 0.2
    while True:
        async with contextlib.AsyncExitStack() as stack:
            try:
                bus = await stack.enter_async_context(connect(url, **options))
            except BusUnavailableError as error:
                on_wait(error, pause)
            else:
                yield bus
                return
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)


def _without_password(url: str) -> str:
    return ",".join(re.sub(r"//[^@/]*@", "//***@", one) for one in url.split(","))


def _parse_time_ms(text: str) -> int:
    """RFC 3339 with up to nine digits of fraction, in UTC, as milliseconds since 1970."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    parsed = time.strptime(seconds.replace(" ", "T")[:19], "%Y-%m-%dT%H:%M:%S")
    return calendar.timegm(parsed) * 1000 + int((fraction + "000")[:3])
