"""The client that services publish with: records go into frames, frames are pipelined and acknowledged.

Invariant: a receipt means that the server has stored the record; no record is dropped, whatever happens the caller
gets a receipt or an error for it. Memory is bounded: `publish` waits while too much is unacknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import zstandard

from tidegate import frame, subject, telemetry
from tidegate.bus import Bus, Outgoing, PublishAck, connect
from tidegate.errors import BusError, BusUnavailableError, CodecError, PublishError
from tidegate.event import Envelope

__all__ = ["Event", "Publisher", "Receipt"]

Event = Envelope | dict[str, Any] | bytes | str
"""What can be published: an envelope, a native record as a dict, or one already encoded as JSON (or a text line)."""

_ENCODER = msgspec.json.Encoder()

Codec = Literal["json", "text", "avro", "protobuf"]
_CONTENT_TYPES: dict[Codec, str] = {
    "json": frame.NDJSON,
    "text": frame.TEXT,
    "avro": frame.AVRO,
    "protobuf": frame.PROTOBUF,
}


def _encoding(codec: Codec) -> tuple[Callable[[Envelope], bytes] | None, Callable[[Sequence[bytes]], bytes]]:
    """How an envelope is encoded, where it is not JSON, and how records become a frame."""
    # Imported only where it is asked for: most publishers do with JSON.
    match codec:
        case "avro":
            from tidegate.codec import avro

            return avro.datum, partial(avro.container, Envelope)
        case "protobuf":
            from tidegate.codec import protobuf

            return protobuf.to_message, protobuf.delimited
        case _:
            return None, b"\n".join


class Receipt(msgspec.Struct, frozen=True):
    """The server has stored the record: where. Records of one frame share a receipt."""

    stream: str
    partition: int
    sequence: int
    duplicate: bool
    """The frame had been stored before, by an earlier try."""

    def __str__(self) -> str:
        return f"{self.stream}/{self.partition}/{self.sequence}"


class _Frame:
    """Records on their way into one message."""

    __slots__ = ("before", "bytes", "done", "records", "source", "timer")

    def __init__(self, source: str) -> None:
        self.source = source
        self.records: list[bytes] = []
        self.bytes = 0
        self.done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.before: asyncio.Future[Receipt] | None = None
        """The frame to be stored before this one, where order is promised."""


class Publisher:
    """Publishes events to `ingest.<source>.<partition>`.

    ::

        async with Publisher("nats://127.0.0.1:4222", source="suricata") as publisher:
            receipt = await publisher.publish({"event_type": "dns", ...})
            receipts = await publisher.publish_many(events)

    With `codec` avro or protobuf every event is an Envelope, and frames hold envelopes in that
    format.

    `source` is used for what does not name its own; `partition` pins all frames to one partition, which keeps their
    order, otherwise frames go round all of them. A frame is sent when it has `frame_records` records or `frame_bytes`
    bytes, or `linger_seconds` after its first. At most `max_pending_bytes` are unacknowledged at a time. A frame whose
    acknowledgement does not come is sent again, under the same message id, for `retry_seconds`; keep that below the
    stream's duplicate window (120 s as shipped).
    """

    def __init__(
        self,
        url: str = "nats://127.0.0.1:4222",
        *,
        source: str = "app",
        codec: Codec = "json",
        partition: int | None = None,
        partitions: int = 4,
        frame_records: int = 1000,
        frame_bytes: int = 1024 * 1024,
        linger_seconds: float = 0.005,
        max_pending_bytes: int = 16 * 1024 * 1024,
        retry_seconds: float = 60.0,
        compress: bool = True,
        credentials_file: str | None = None,
        inbox_prefix: str = "_INBOX",
        bus: Bus | None = None,
    ) -> None:
        if not subject.valid_source(source):
            raise PublishError(f"{source!r} is no source name: use letters, digits, _ and -")
        self._url = url
        self._source = source
        self._codec = codec
        self._encode_envelope, self._join = _encoding(codec)
        self._partition = partition
        self._partitions = partitions
        self._frame_records = frame_records
        self._frame_bytes = frame_bytes
        self._linger = linger_seconds
        self._max_pending = max_pending_bytes
        self._retry = retry_seconds
        self._compress = compress
        self._credentials = credentials_file
        self._inbox_prefix = inbox_prefix
        self._bus = bus
        self._stack = contextlib.AsyncExitStack()
        self._open: dict[str, _Frame] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self._room = asyncio.Condition()
        self._id = uuid.uuid4().hex
        self._frames = 0
        self._latest: asyncio.Future[Receipt] | None = None
        self._retrying = 0
        """Frames that have been sent in vain and are to be sent again."""
        self._compressor = zstandard.ZstdCompressor(level=1)

    async def __aenter__(self) -> Publisher:
        if self._bus is None:
            self._bus = await self._stack.enter_async_context(
                connect(
                    self._url,
                    name="tidegate publisher",
                    credentials_file=self._credentials,
                    inbox_prefix=self._inbox_prefix,
                )
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.flush()
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
            await self._stack.aclose()

    @property
    def pending_bytes(self) -> int:
        """Bytes of events that are not yet acknowledged."""
        return self._pending_bytes

    async def publish(self, event: Event) -> Receipt:
        """Publish one event and wait until the server has stored it. Raises PublishError."""
        record, source = self._encode(event)
        done = await self._add(record, source)
        return await asyncio.shield(done)

    async def publish_many(self, events: Sequence[Event]) -> list[Receipt]:
        """Publish events and wait until the server has stored all of them; one receipt each, in their order.

        Raises PublishError if any could not be stored; which ones were is then unknown, publishing them again may
        store some twice.
        """
        encoded = [self._encode(event) for event in events]
        futures = []
        opened, most_bytes, most_records = self._open, self._frame_bytes, self._frame_records
        most_pending = self._max_pending
        for record, source in encoded:
            # The quick way in: an open frame with room, nothing to wait for.
            one = opened.get(source)
            size = len(record)
            if (
                one is not None
                and one.bytes + size < most_bytes
                and len(one.records) + 1 < most_records
                and self._pending_bytes + size <= most_pending
            ):
                one.records.append(record)
                one.bytes += size
                self._pending_bytes += size
                futures.append(one.done)
            else:
                futures.append(await self._add(record, source))
        await self.flush()
        return [future.result() for future in futures]

    async def publish_together(self, events: Sequence[Event]) -> Receipt:
        """Publish events that must be in one frame (log lines with their header), however many they are, and wait until
        the server has stored them. Raises PublishError.
        """
        records = [self._encode(event)[0] for event in events]
        size = sum(map(len, records))
        await self._make_room(size)
        if self._source in self._open:
            self._send(self._source)
        one = self._open[self._source] = _Frame(self._source)
        one.records, one.bytes = records, size
        self._pending_bytes += size
        self._send(self._source)
        return await asyncio.shield(one.done)

    async def flush(self) -> None:
        """Send what has been collected and wait for all acknowledgements. Raises PublishError if one failed."""
        waiting = [one.done for one in self._open.values()]
        for source in list(self._open):
            self._send(source)
        tasks = list(self._sending)
        if tasks:
            await asyncio.gather(*tasks)
        for future in waiting:
            await future

    async def _add(self, record: bytes, source: str) -> asyncio.Future[Receipt]:
        size = len(record)
        await self._make_room(size)
        one = self._open.get(source)
        if one is not None and one.bytes + size > self._frame_bytes:
            self._send(source)
            one = None
        if one is None:
            one = self._open[source] = _Frame(source)
            one.timer = asyncio.get_running_loop().call_later(self._linger, self._linger_over, one)
        one.records.append(record)
        one.bytes += size
        self._pending_bytes += size
        if len(one.records) >= self._frame_records or one.bytes >= self._frame_bytes:
            self._send(source)
        return one.done

    async def _make_room(self, size: int) -> None:
        """Wait until `size` more bytes may be unacknowledged."""
        if self._pending_bytes and self._pending_bytes + size > self._max_pending:
            self._send_all()
            async with self._room:
                await self._room.wait_for(
                    lambda: not self._pending_bytes or self._pending_bytes + size <= self._max_pending
                )

    def _encode(self, event: Event) -> tuple[bytes, str]:
        source = self._source
        match event:
            case Envelope() if self._encode_envelope is not None:
                try:
                    record = self._encode_envelope(event)
                except CodecError as error:
                    raise PublishError(f"the event cannot be encoded: {error}") from error
                source = event.source or source
            case _ if self._encode_envelope is not None:
                raise PublishError(f"with codec {self._codec!r} an event is an Envelope, not {type(event).__name__}")
            case bytes():
                record = event
            case _:
                try:
                    record = event.encode() if isinstance(event, str) else _ENCODER.encode(event)
                except (TypeError, ValueError, OverflowError, RecursionError) as error:
                    raise PublishError(f"the event cannot be encoded: {error}") from error
                if isinstance(event, Envelope):
                    source = event.source or source
        if self._encode_envelope is None and b"\n" in record:
            # A frame has one record a line. JSON may hold line breaks outside of strings, never inside.
            record = record.strip() if self._codec == "text" else record.replace(b"\n", b" ")
            if b"\n" in record:
                raise PublishError("a text event is one line; publish its lines one by one, or as a JSON string")
        if not record or record.isspace():
            raise PublishError("the event is empty")
        if len(record) > 4 * 1024 * 1024 - 1024:
            raise PublishError(f"the event has {len(record)} bytes; the limit is 4 MB a frame")
        if source is not self._source and not subject.valid_source(source):
            raise PublishError(f"{source!r} is no source name: use letters, digits, _ and -")
        return record, source

    def _linger_over(self, one: _Frame) -> None:
        if self._open.get(one.source) is one:
            self._send(one.source)

    def _send_all(self) -> None:
        for source in list(self._open):
            self._send(source)

    def _send(self, source: str) -> None:
        one = self._open.pop(source)
        if one.timer is not None:
            one.timer.cancel()
        self._frames += 1
        number = self._frames
        if self._partition is not None:
            one.before, self._latest = self._latest, one.done
        task = asyncio.create_task(self._deliver(one, number), name=f"publish frame {number}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _deliver(self, one: _Frame, number: int) -> None:
        """Send the frame until it is acknowledged; resolves its future either way."""
        partition = self._partition if self._partition is not None else number % self._partitions
        to = subject.ingest(one.source, partition)
        started = time.monotonic()
        try:
            with telemetry.span(
                "publish",
                kind="producer",
                attributes={"tidegate.source": one.source, "tidegate.records": len(one.records)},
            ) as span:
                message = self._message(one, to, f"{self._id}-{number}", span.traceparent)
                ack = await self._until_stored(message, one.before)
                span.set(**{"tidegate.sequence": ack.seq, "tidegate.duplicate": ack.duplicate})
                telemetry.emit(
                    telemetry.FramesPublished(
                        source=one.source,
                        frames=1,
                        records=len(one.records),
                        bytes=len(message.payload),
                        seconds=time.monotonic() - started,
                    )
                )
            one.done.set_result(Receipt(ack.stream, partition, ack.seq, ack.duplicate))
        except PublishError as error:
            if not one.done.done():
                one.done.set_exception(error)
                one.done.exception()  # seen: `flush` and `publish` raise it, nobody else needs to
        finally:
            if not one.done.done():
                one.done.set_exception(PublishError("the publisher was closed before the event was acknowledged"))
                one.done.exception()
            async with self._room:
                self._pending_bytes -= one.bytes
                self._room.notify_all()

    def _message(self, one: _Frame, to: str, message_id: str, traceparent: str) -> Outgoing:
        payload = self._join(one.records)
        headers = {
            frame.CONTENT_TYPE: _CONTENT_TYPES[self._codec],
            frame.COUNT: str(len(one.records)),
            "Nats-Msg-Id": message_id,
        }
        if self._compress and len(payload) > 1024:
            payload = self._compressor.compress(payload)
            headers[frame.CONTENT_ENCODING] = "zstd"
        if traceparent:
            headers[frame.TRACEPARENT] = traceparent
        return Outgoing(to, payload, headers)

    async def _until_stored(self, message: Outgoing, before: asyncio.Future[Receipt] | None) -> PublishAck:
        assert self._bus is not None, "a Publisher is used with `async with`"
        deadline = time.monotonic() + self._retry
        attempt = 0
        pause = 0.05
        failed = False
        try:
            while True:
                if before is not None and self._retrying:
                    await asyncio.wait([before])
                attempt += 1
                try:
                    future = await self._bus.submit(message)
                    left = max(0.0, deadline - time.monotonic())
                    return await self._bus.acknowledged(future, min(left, self._bus.timeout_seconds))
                except BusError as error:
                    # The server has answered: the same frame will be refused again.
                    raise PublishError(f"{message.subject}: the server refused it: {error.description}") from error
                except BusUnavailableError as error:
                    if not failed:
                        failed = True
                        self._retrying += 1
                    if time.monotonic() + pause > deadline:
                        tried = f"not acknowledged after {attempt} attempts in {self._retry:g} s"
                        raise PublishError(f"{message.subject}: {tried}: {error}") from error
                    telemetry.emit(telemetry.PublishRetried(attempt=attempt, reason=str(error)))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
        finally:
            if failed:
                self._retrying -= 1
