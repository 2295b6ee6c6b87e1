"""Many readers of WebSocket connections in one process of their own, which cost as little as readers can.

Invariant: they look at the beginnings of messages only, for the count of the events in them, and pass over the rest.

`python -m tidegate.bench.readers PORT READERS plain|websocket` prints `ready` when all of them have
subscribed, and then, as often as it changes, how many events the slowest has got.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator

from tidegate.errors import BalanceError
from tidegate.local.servers import HOST, end_with_parent

__all__ = ["Readers"]

BUFFER = 20_000
_HEAD = 64
_COUNT = re.compile(rb',"count":(\d+)')
_REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_SUBSCRIBE = b'{"type":"subscribe","id":"s","buffer":%d}' % BUFFER


class Readers:
    """The other end: starts the process, and reads what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.slowest = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, port: int, readers: int, how: str) -> AsyncIterator[Readers]:
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
        while self.slowest < events:
            self.slowest = int(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        if not line:
            raise BalanceError("the process of the readers has ended")
        return line


class _Reader(asyncio.BufferedProtocol):
    """One connection."""

    shared = bytearray(256 * 1024)

    def __init__(self, ready: asyncio.Event) -> None:
        self.count = 0
        self.ready = ready
        self._head = b""
        self._skip = 0
        """Bytes of the frame under way that are passed over."""

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.shared

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self._skip:
                step = min(self._skip, nbytes - at)
                self._skip -= step
                at += step
                continue
            had = len(self._head)
            self._head += self.shared[at : min(at + _HEAD - had, nbytes)]
            size, start = _frame(self._head)
            if not size or (len(self._head) < min(_HEAD, start + size) and at + len(self._head) - had == nbytes):
                return
            look = self._head[: start + size]
            if found := _COUNT.search(look):
                self.count += int(found[1])
            elif b'"subscription"' in look:
                self.ready.set()
            # Of what was put into the head, what is behind this frame belongs to the next.
            at += min(len(self._head), start + size) - had
            self._skip = max(0, start + size - len(self._head))
            self._head = b""


def _frame(head: bytes) -> tuple[int, int]:
    """Length and start of the payload (RFC 6455, 5.2); (0, 0) while the head is not there."""
    if len(head) < 2:
        return 0, 0
    match head[1]:
        case 126:
            return (int.from_bytes(head[2:4], "big"), 4) if len(head) >= 4 else (0, 0)
        case 127:
            return (int.from_bytes(head[2:10], "big"), 10) if len(head) >= 10 else (0, 0)
        case size:
            return size, 2


async def _read(port: int, readers: int, how: str) -> None:
    loop = asyncio.get_running_loop()
    protocols, writers = [], []
    for _ in range(readers):
        ready = asyncio.Event()
        if how == "plain":
            _, protocol = await loop.create_connection(lambda ready=ready: _Reader(ready), HOST, port)  # type: ignore[misc]
        else:
            reader, writer = await asyncio.open_connection(HOST, port, limit=2**20)
            writer.write(_REQUEST)
            await reader.readuntil(b'"welcome"')
            await reader.readuntil(b"}")
            protocol = _Reader(ready)
            writer.transport.set_protocol(protocol)
            writer.write(bytes([0x81, 0x80 + len(_SUBSCRIBE), 0, 0, 0, 0]) + _SUBSCRIBE)
            await ready.wait()
            writers.append(writer)  # one that nobody has any more closes its connection
        protocols.append(protocol)
    print("ready", flush=True)  # noqa: T201 - the answer to the process that started this one
    told = 0
    while True:
        slowest = min(one.count for one in protocols)
        if slowest != told:
            print(told := slowest, flush=True)  # noqa: T201
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    end_with_parent()
    import uvloop

    uvloop.run(_read(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
