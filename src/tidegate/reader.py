"""Reading a range of a stream once, in order: what rebuilds, counts and listings use.

Invariant: every message of the range is yielded exactly once and in order, or BusUnavailableError is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator

import msgspec
from nats.aio.msg import Msg

from tidegate.bus import CONSUMER_NOT_FOUND, Bus, Stored
from tidegate.errors import BusError, BusUnavailableError

__all__ = ["read"]

_BATCH = 500
_BATCH_BYTES = 16 * 1024 * 1024
_EXPIRES_SECONDS = 2.0
_IDLE_SECONDS = 30.0
"""After so long without a pull the server forgets the consumer."""


async def read(
    bus: Bus, stream: str, subjects: str, first: int, last: int, *, headers_only: bool = False
) -> AsyncGenerator[Stored, None]:
    """All messages on `subjects` with first <= sequence <= last.

    Uses an ephemeral consumer without acknowledgements, pulled batch by batch, so memory is bounded. After a lost
    connection it goes on from the last message yielded, and so it does when the caller took longer over a message
    than the server keeps an idle consumer. With `headers_only` the payloads stay on the server.
    """
    attempts = 0
    while first <= last:
        try:
            async with contextlib.aclosing(_read_once(bus, stream, subjects, first, last, headers_only)) as messages:
                async for message in messages:
                    attempts = 0
                    first = message.sequence + 1
                    yield message
            return
        except (BusError, BusUnavailableError) as error:
            if isinstance(error, BusError) and error.code != CONSUMER_NOT_FOUND:
                raise
            attempts += 1
            if attempts > 5:
                raise
            await asyncio.sleep(0.2 * attempts)


async def _read_once(
    bus: Bus, stream: str, subjects: str, first: int, last: int, headers_only: bool
) -> AsyncGenerator[Stored, None]:
    name = f"read-{uuid.uuid4().hex[:12]}"
    config = {
        "name": name,
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "filter_subject": subjects,
        "headers_only": headers_only,
        "inactive_threshold": int(_IDLE_SECONDS * 1e9),
        "mem_storage": True,
        "num_replicas": 1,
    }
    info = await bus.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
    if info["num_pending"] == 0:
        await _forget(bus, stream, name)
        return
    queue: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, queue.put)
    expected = 1
    try:
        while True:
            body = {"batch": _BATCH, "max_bytes": _BATCH_BYTES, "expires": int(_EXPIRES_SECONDS * 1e9)}
            await bus.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", msgspec.json.encode(body), inbox)
            left = _BATCH
            while left:
                try:
                    async with asyncio.timeout(_EXPIRES_SECONDS + 5):
                        message = await queue.get()
                except TimeoutError:
                    raise BusUnavailableError(f"reading {stream}: the server has gone silent") from None
                if not message.reply.startswith("$JS.ACK."):
                    headers = message.headers or {}
                    status, description = headers.get("Status"), headers.get("Description", "")
                    if status in ("404", "408"):
                        break
                    if status == "409" and description == "Batch Completed":
                        continue  # said of each full batch with a bound in bytes
                    if status == "409" and "MaxBytes" in description:
                        if left < _BATCH:
                            break  # the next one exceeds what the request has left of its bytes
                        raise BusError(f"reading {stream}", 0, "a message is larger than 16 MB")
                    raise BusUnavailableError(f"reading {stream}: {headers}")
                sequence, number, stored_ns, pending = map(int, message.reply.split(".")[-4:])
                if number != expected:
                    raise BusUnavailableError(f"reading {stream}: messages were lost on the way")
                expected += 1
                left -= 1
                if sequence > last:
                    return
                yield Stored(message.subject, sequence, stored_ns // 1_000_000, message.data, message.headers or {})
                if pending == 0 or sequence == last:
                    return
            # Expired without being full. What was pending may have been removed since, by a rollup.
            info = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
            if info["num_pending"] == 0:
                return
    finally:
        await bus.unsubscribe(subscription)
        await _forget(bus, stream, name)


async def _forget(bus: Bus, stream: str, name: str) -> None:
    with contextlib.suppress(BusError, BusUnavailableError):
        await bus.api(f"CONSUMER.DELETE.{stream}.{name}")
