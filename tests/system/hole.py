"""A TCP proxy whose connections can be cut, held up, swallow everything, or lose all answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Hole"]


class Hole:
    """Passes bytes on to `target`, a port on 127.0.0.1.

    What befalls connections befalls those of that moment, for as long as they last; later ones pass.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._swallowed = 0
        self._deafened = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._port = 0
        self._server: asyncio.Server | None = None

    def swallow(self) -> None:
        """The connections stay up, and nothing passes in either direction."""
        self._swallowed += 1

    def deafen(self) -> None:
        """The connections stay up, and what the server sends is lost."""
        self._deafened += 1

    def hold(self) -> None:
        """Nothing passes, and nothing is lost, until `go_on`."""
        self._flowing.clear()

    def go_on(self) -> None:
        """What was held up passes, all at once."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset the connections, with what is under way."""
        for one in list(self._transports):
            one.abort()

    def refuse(self) -> None:
        """New connections are refused, until `accept`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        self._port = port
        await self.accept()
        try:
            yield
        finally:
            self.refuse()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        swallowed, deafened = self._swallowed, self._deafened
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return

        def answers_pass() -> bool:
            return swallowed == self._swallowed and deafened == self._deafened

        async def requests() -> None:
            while data := await reader.read(65536):
                await self._flowing.wait()
                if swallowed == self._swallowed:
                    far_writer.write(data)
                    await far_writer.drain()

        async def answers() -> None:
            while data := await far_reader.read(65536):
                await self._flowing.wait()
                if answers_pass():
                    writer.write(data)
                    await writer.drain()

        transports = {writer.transport, far_writer.transport}
        self._transports |= transports
        there, back = asyncio.ensure_future(requests()), asyncio.ensure_future(answers())
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            if not answers_pass():
                await asyncio.wait((there,))  # the client is not told that the server has gone
        finally:
            self._transports -= transports
            writer.close()
            far_writer.close()
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
