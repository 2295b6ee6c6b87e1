"""What stands before the broker and lets in who signs in (SASL) over an encrypted connection (TLS).

The broker of the tests can be given neither certificates nor users (Tansu 0.6: `--cert` excludes `--key`, and users are
not kept). So both end here, as they would in Apache Kafka, and all else goes through as it comes.

Facts of Kafka's protocol: a request begins with its size, key, version, number and the client's name; a response with
its size and the number. SaslHandshake has key 17, SaslAuthenticate 36, ApiVersions 18.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import ssl
import struct
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Generator

from tests.conftest import free_ports

__all__ = ["Guard", "guarding"]

_HANDSHAKE, _VERSIONS, _AUTHENTICATE = 17, 18, 36
_UNSUPPORTED, _FAILED = 33, 58
_HASHES = {"SCRAM-SHA-256": hashlib.sha256, "SCRAM-SHA-512": hashlib.sha512}
Exchange = Generator[bytes, bytes, None]


class Guard:
    """Made by `guarding`. `users`: name to password; without any, nobody has to sign in."""

    def __init__(self, mechanisms: tuple[str, ...], users: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.mechanisms = mechanisms
        self.users = users
        self.broker = ""
        self.signed_in: list[str] = []
        """Mechanism and name, for each connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            host, port = self.broker.split(":")
            its_reader, its_writer = await asyncio.open_connection(host, int(port))
            try:
                if not self.users or await self._let_in(reader, writer, its_reader, its_writer):
                    await asyncio.gather(_pipe(reader, its_writer), _pipe(its_reader, writer))
            finally:
                its_writer.close()
        writer.close()

    async def _let_in(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        its_reader: asyncio.StreamReader,
        its_writer: asyncio.StreamWriter,
    ) -> bool:
        mechanism = ""
        exchange: Exchange | None = None
        while True:
            whole = await _message(reader)
            key, version, number, named = struct.unpack(">hhih", whole[:10])
            body = whole[10 + max(0, named) :]
            if key == _VERSIONS:
                its_writer.write(struct.pack(">i", len(whole)) + whole)
                answer = await _message(its_reader)
                writer.write(struct.pack(">i", len(answer)) + answer)
            elif key == _HANDSHAKE:
                mechanism = body[2:].decode()
                known = mechanism in self.mechanisms
                if known:
                    exchange = self._exchange(mechanism)
                    next(exchange)
                names = b"".join(_string(one) for one in self.mechanisms)
                answer = struct.pack(">hi", 0 if known else _UNSUPPORTED, len(self.mechanisms)) + names
                _answer(writer, number, answer)
            elif key == _AUTHENTICATE and exchange is not None:
                try:
                    said = exchange.send(body[4:])
                    done = said.startswith(b"v=") or mechanism == "PLAIN"
                except PermissionError as error:
                    refusal = struct.pack(">h", _FAILED) + _string(str(error)) + struct.pack(">i", 0)
                    _answer(writer, number, refusal + bytes(8 if version else 0))
                    return False
                lifetime = bytes(8 if version else 0)
                _answer(writer, number, struct.pack(">hhi", 0, -1, len(said)) + said + lifetime)
                if done:
                    return True
            else:
                return False

    def _exchange(self, mechanism: str) -> Exchange:
        """Gets what the client says and gives what it is told. Raises PermissionError."""
        first = (yield b"").decode()
        if mechanism == "PLAIN":
            _, name, password = first.split("\0")
            if self.users.get(name) != password:
                raise PermissionError("Authentication failed: Invalid username or password")
            self.signed_in.append(f"{mechanism} {name}")
            yield b""
            return
        # RFC 5802
        make = _HASHES[mechanism]
        bare = first.removeprefix("n,,")
        name, nonce = (one[2:] for one in bare.split(","))
        salt, rounds = os.urandom(12), 4096
        server_first = f"r={nonce}xyz,s={b64encode(salt).decode()},i={rounds}"
        final = (yield server_first.encode()).decode()
        without, _, proof = final.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac(make().name, self.users.get(name, "").encode(), salt, rounds)
        stored = make(hmac.digest(salted, b"Client Key", make)).digest()
        signed = f"{bare},{server_first},{without}".encode()
        signature = hmac.digest(stored, signed, make)
        client_key = bytes(a ^ b for a, b in zip(b64decode(proof), signature, strict=True))
        if name not in self.users or make(client_key).digest() != stored:
            raise PermissionError("Authentication failed during authentication due to invalid credentials")
        self.signed_in.append(f"{mechanism} {name}")
        yield b"v=" + b64encode(hmac.digest(hmac.digest(salted, b"Server Key", make), signed, make))


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def _answer(writer: asyncio.StreamWriter, number: int, body: bytes) -> None:
    writer.write(struct.pack(">ii", len(body) + 4, number) + body)


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(64 * 1024):
            writer.write(part)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def guarding(guard: Guard, broker: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Lets clients in to the broker at that address, until the block ends."""
    guard.broker = broker
    server = await asyncio.start_server(guard.serve, "127.0.0.1", guard.port, ssl=tls)
    try:
        yield
    finally:
        server.close()
