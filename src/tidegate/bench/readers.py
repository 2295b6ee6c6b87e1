"""Many readers of WebSocket connections in one process of their own, which cost as little as readers can.

Invariant: some of them inflate every message, and the first that gets one looks at each event in it; the others of them
must have got the same to the byte. All further readers must get the very frames that these have got, in the same order,
and events count for them only once they were looked at.

`python -m tidegate.bench.readers PORT READERS HOW`, with HOW as in `How`, prints `ready` when all of them have
subscribed, and then, as often as it changes, a line of `Told`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Literal, NamedTuple, get_args

import msgspec

from tidegate.errors import BalanceError
from tidegate.local.servers import HOST, end_with_parent

__all__ = ["BUFFER", "CHECKING", "How", "Readers", "digest"]

How = Literal["deflate", "plain", "deflate-sockets", "plain-sockets"]
"""WebSockets with permessage-deflate or without it; or sockets over which the same frames come by themselves."""

BUFFER = 20_000
CHECKING = 4
"""Readers that look at every message as a whole."""
_KEY_BYTES = 64
"""Of each frame, which tell it from others, together with its length."""
_OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
_SUBSCRIBE = b'{"type":"subscribe","id":"s","buffer":%d}' % BUFFER
_HEAD = b'{"type":"events","id":"s","left_out":0'


class Told(msgspec.Struct, frozen=True):
    slowest: int
    """Events that the slowest reader has got."""
    digest: int
    """Of all events that were looked at."""
    received: int
    """Bytes of all readers."""


def digest(lines: Iterable[bytes | msgspec.Raw], before: int = 0) -> int:
    """Of events in order."""
    for line in lines:
        before = zlib.crc32(line, before)
    return before


class Readers:
    """The other end: starts the process, and reads what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.told = Told(0, 0, 0)

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, port: int, readers: int, how: How) -> AsyncIterator[Readers]:
        """All of them, ready; gone when the block ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tidegate.bench.readers", str(port), str(readers), how),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            one = cls(process)
            await one._line()
            yield one
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())

    async def have(self, events: int) -> None:
        """Wait until each has got so many."""
        while self.told.slowest < events:
            self.told = msgspec.json.decode(await self._line(), type=Told)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        if not line:
            raise BalanceError("the process of the readers has ended")
        return line


class _Frame(NamedTuple):
    first: int
    size: int
    beginning: bytes


class _Looked(msgspec.Struct):
    """At all frames up to this one."""

    frame: _Frame
    events: int
    digest: int
    last: tuple[int, int]
    """The position of the last event."""
    text: bytes
    """What the frame holds; given up when each that looks has got it."""
    left: int = CHECKING


class _Placed(msgspec.Struct):
    position: str
    event: msgspec.Raw


class _Events(msgspec.Struct, tag_field="type", tag="events"):
    count: int
    events: list[_Placed]


_EVENTS = msgspec.json.Decoder(_Events)


class _Reader(asyncio.BufferedProtocol):
    """One connection, of which each frame is looked at but briefly."""

    shared = memoryview(bytearray(256 * 1024))
    kept = _KEY_BYTES
    """Bytes that are kept of a frame."""

    def __init__(self, looked: list[_Looked], deflate: bool) -> None:
        self.ready = asyncio.Event()
        self.received = 0
        self._looked = looked
        # A message of less than 1 KiB is not compressed; of the others, the head is in five bytes more.
        self._heads = {(0x01, len(_HEAD)), (0x41, len(_HEAD) + 5)} if deflate else {(0x01, len(_HEAD))}
        self.deflated = False
        """Whether the message under way is."""
        self._waiting: deque[_Frame] = deque()
        self._settled = 0
        self._begun = bytearray()
        """Of the frame under way."""
        self._skip = 0
        """Bytes of it that are passed over."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.shared

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        at = 0
        while at < nbytes:
            if self._skip:
                step = min(self._skip, nbytes - at)
                self._skip -= step
                at += step
                continue
            had = len(self._begun)
            self._begun += self.shared[at : min(at + self._wanted() - had, nbytes)]
            at += len(self._begun) - had
            if len(self._begun) >= self._wanted():
                size, start = _sizes(self._begun)
                self._skip = start + size - len(self._begun)
                self._frame(_Frame(self._begun[0], size, bytes(self._begun[start:])))
                self._begun.clear()

    def _wanted(self) -> int:
        """Bytes of a frame with its head, as far as they are known."""
        size, start = _sizes(self._begun)
        return start + min(size, self.kept)

    def _frame(self, one: _Frame) -> None:
        if b'"subscription"' in one.beginning and one.first == 0x81:
            self.ready.set()
        elif one.first in (0x01, 0x41):
            if (one.first, one.size) not in self._heads or not one.beginning.endswith(_HEAD):
                raise BalanceError(f"no message of events that lack none: {one}")
            self.deflated = one.first == 0x41
        elif one.first == 0x80:
            self.message(one)

    def message(self, one: _Frame) -> None:
        self._waiting.append(one)

    @property
    def count(self) -> int:
        """Events."""
        while self._waiting and self._settled < len(self._looked):
            if self._waiting[0] != self._looked[self._settled].frame:
                raise BalanceError("a reader has got another frame than those that look at all")
            self._waiting.popleft()
            self._settled += 1
        return self._looked[self._settled - 1].events if self._settled else 0


class _Checking(_Reader):
    """Looks at all."""

    kept = 2**40

    def __init__(self, looked: list[_Looked], deflate: bool) -> None:
        super().__init__(looked, deflate)
        self._number = 0

    def message(self, one: _Frame) -> None:
        text = _HEAD + (_inflated(one.beginning) if self.deflated else one.beginning)
        frame = one._replace(beginning=one.beginning[:_KEY_BYTES])
        if self._number == len(self._looked):
            self._looked.append(_looked(frame, text, self._looked[-1] if self._looked else None))
        found = self._looked[self._number]
        if text != found.text:
            raise BalanceError("two readers that look at all have got different messages")
        found.left -= 1
        if not found.left:
            found.text = b""
        self._number += 1
        super().message(frame)


def _looked(frame: _Frame, text: bytes, before: _Looked | None) -> _Looked:
    """Looks at each event. Raises BalanceError for one that is out of order, or for a wrong count."""
    told = _EVENTS.decode(text)
    events, last, total = (before.events, before.last, before.digest) if before else (0, (0, 0), 0)
    if told.count != len(told.events):
        raise BalanceError(f"a message of {len(told.events)} events says that there are {told.count}")
    for placed in told.events:
        sequence, _, index = placed.position.partition("-")
        if last >= (place := (int(sequence), int(index))):
            raise BalanceError(f"{placed.position} comes after {last}")
        last = place
    return _Looked(frame, events + told.count, digest((one.event for one in told.events), total), last, text)


def _inflated(data: bytes) -> bytes:
    # RFC 7692, 7.2.2; and the server has said that it starts anew with each message.
    return zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff")


def _sizes(begun: bytearray) -> tuple[int, int]:
    """Of a frame (RFC 6455, 5.2): length and start of the payload; while they are not there, 0 and what tells more."""
    have = len(begun)
    if have < 2:
        return 0, 2
    match begun[1]:
        case 126:
            return (int.from_bytes(begun[2:4], "big"), 4) if have >= 4 else (0, 4)
        case 127:
            return (int.from_bytes(begun[2:10], "big"), 10) if have >= 10 else (0, 10)
        case size:
            return size, 2


async def _read(port: int, readers: int, how: How) -> None:
    loop = asyncio.get_running_loop()
    looked: list[_Looked] = []
    protocols, writers = [], []
    deflate = how.startswith("deflate")
    trouble: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: trouble.append(context["exception"]))
    for number in range(readers):
        protocol = (_Checking if number < CHECKING else _Reader)(looked, deflate)
        if how.endswith("sockets"):
            await loop.create_connection(lambda protocol=protocol: protocol, HOST, port)  # type: ignore[misc]
        else:
            reader, writer = await asyncio.open_connection(HOST, port, limit=2**20)
            writer.write(_REQUEST % (_OFFER if deflate else b""))
            agreed = await reader.readuntil(b"\r\n\r\n")
            if deflate != (b"permessage-deflate; server_no_context_takeover" in agreed):
                raise BalanceError(f"compression was not agreed upon as asked for: {agreed!r}")
            await reader.readuntil(b'"welcome"')
            await reader.readuntil(b"}")
            writer.transport.set_protocol(protocol)
            writer.write(bytes([0x81, 0x80 + len(_SUBSCRIBE), 0, 0, 0, 0]) + _SUBSCRIBE)
            await protocol.ready.wait()
            writers.append(writer)  # one that nobody has any more closes its connection
        protocols.append(protocol)
    print("ready", flush=True)  # noqa: T201 - the answer to the process that started this one
    slowest = 0
    while True:
        if (now := min(one.count for one in protocols)) != slowest:
            slowest = now
            told = Told(slowest, looked[-1].digest, sum(one.received for one in protocols))
            print(msgspec.json.encode(told).decode(), flush=True)  # noqa: T201
        if trouble:
            raise trouble[0]
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    end_with_parent()
    import uvloop

    how = next(one for one in get_args(How) if one == sys.argv[3])
    uvloop.run(_read(int(sys.argv[1]), int(sys.argv[2]), how))
