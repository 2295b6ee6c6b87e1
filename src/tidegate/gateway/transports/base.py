"""What all protocols have in common: one attempt of a call, its answer, its failure, and a stream of messages."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from tidegate.errors import TidegateError
from tidegate.gateway.configuration import Target

__all__ = [
    "KEY",
    "CallFailedError",
    "Failure",
    "Reply",
    "Request",
    "Transport",
    "check_size",
    "encoded",
    "tls_of",
    "untrusted",
]

KEY = "Idempotency-Key"
"""The header (gRPC: metadata, WebSocket: member) with the call's id: the same however often a call is made."""
Failure = Literal["unreachable", "timeout", "unavailable", "rejected", "invalid", "too_large", "overloaded", "open"]
"""`unreachable`: surely nothing was done. `timeout`, `unavailable`: not known. `rejected`: the target says no.
`invalid`, `too_large`: the call or the answer. `overloaded`, `open`: not tried by the gateway."""


class CallFailedError(TidegateError):
    """A call has no good answer. `status` is the protocol's own word for it; `body` what the target said, cut off."""

    def __init__(self, kind: Failure, problem: str, *, status: str = "", body: bytes = b"", after: float = 0.0) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.status = status
        self.body = body[:4096]
        self.after = after
        """Seconds until it is worth another try; 0: unknown."""
        self.attempts = 0

    @property
    def passing(self) -> bool:
        """Whether another attempt may go better."""
        return self.kind in {"unreachable", "timeout", "unavailable", "overloaded", "open"}


class Request(Struct, frozen=True, kw_only=True):
    """A call, as transports get it."""

    operation: str
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = {}
    timeout_seconds: float = 5.0


class Reply(Struct, frozen=True):
    """A good answer."""

    body: bytes
    content_type: str = "application/json"
    status: str = ""


class Transport(Protocol):
    """One protocol, towards one target. It raises only CallFailedError."""

    def repeatable(self, request: Request) -> bool:
        """Whether the protocol itself says that the call may be made twice."""

    async def call(self, request: Request) -> Reply:
        """One attempt."""

    def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """Messages as they come, each with its id, or ""; after `last_id`, where the protocol can. Ends when the other
        side ends it. The first item, (`""`, `b""`), says that the connection stands."""

    async def aclose(self) -> None:
        """Close what is open."""


def encoded(payload: object) -> tuple[bytes, str]:
    """Body and content type of a payload: bytes as they are, everything else as JSON. Raises CallFailedError."""
    if isinstance(payload, bytes):
        return payload, "application/octet-stream"
    if payload is None:
        return b"", ""
    try:
        return msgspec.json.encode(payload), "application/json"
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise CallFailedError("invalid", f"the payload cannot be written as JSON: {error}") from error


def check_size(size: int, most: int) -> None:
    """Raises CallFailedError for an answer of more bytes than that."""
    if size > most:
        raise CallFailedError("too_large", f"the answer has more than {most} bytes")


def untrusted(reason: str) -> CallFailedError:
    """A target has shown a certificate that does not count."""
    return CallFailedError(
        "unreachable", f"its certificate is not trusted: {reason}; the target's ca_file names who may sign it"
    )


def tls_of(target: Target) -> ssl.SSLContext:
    """Verifies the server, by the system's certificates or the target's own."""
    return ssl.create_default_context(cafile=target.ca_file)
