"""A TCP proxy that loses answers or refuses requests on demand, for tests of what a lost answer leads to."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Listens on `port` and passes bytes on to `target`, both on 127.0.0.1.

    A request is recognised by the first bytes that a client sends (`b"PUT "`), after which the answer begins.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.pass_all()
        self.lost = 0
        self.answered_bytes = 0

    def lose_answer_to(self, start: bytes) -> None:
        """Pass the next such request on, and cut the connection as soon as the server answers."""
        self._lose = start

    def refuse(self, start: bytes) -> None:
        """Cut the connection when such a request comes, before the server sees it."""
        self._refuse = start

    def pass_all(self) -> None:
        self._lose = self._refuse = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for one in self._serving:
            one.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def _accept(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(client, back))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, on = await asyncio.open_connection("127.0.0.1", self._target)
        losing = False

        async def requests() -> None:
            nonlocal losing
            while data := await client.read(65536):
                if self._refuse and data.startswith(self._refuse):
                    return
                if self._lose and data.startswith(self._lose):
                    self._lose = b""
                    losing = True
                on.write(data)
                await on.drain()

        async def answers() -> None:
            while data := await server.read(65536):
                # "100 Continue" asks for the body; the answer is still to come.
                if losing and not data.startswith(b"HTTP/1.1 100"):
                    self.lost += 1
                    return
                self.answered_bytes += len(data)
                back.write(data)
                await back.drain()

        tasks = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (back, on):
                one.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
