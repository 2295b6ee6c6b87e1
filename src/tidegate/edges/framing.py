"""Frames of WebSocket messages (RFC 6455, 5.2), compressed (RFC 7692) once for all that a message goes to.

Invariant: what is compressed refers to nothing that was sent before it, so the same bytes are understood by every peer
that has agreed to inflate with as large a window.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import NamedTuple

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

__all__ = ["OFFERED", "Rest", "beginning", "rest", "whole"]

OFFERED = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""Neither side keeps a window from one message to the next, so that a quiet connection holds no memory for it."""

_WORTH_BYTES = 1024
"""Shorter messages go out as they are (RFC 7692, 6: a message need not be compressed)."""
_AT_ONCE_BYTES = 64 * 1024
"""Up to here compressing takes less than a millisecond; more is done in a thread."""
_LEVEL = 3
"""Seen with zlib 1.2.13 and OCSF events: as fast as level 1 (250 MB/s), an eighth smaller; 6 takes thrice as long."""

_TEXT, _CONTINUED, _FINAL, _COMPRESSED = 0x01, 0x00, 0x80, 0x40


class Rest(NamedTuple):
    """The second and last frame of a message, the same for all that get it."""

    frame: bytes
    deflated: bool


async def rest(payload: bytes, window: int) -> Rest:
    """For peers that inflate with a window of so many bits; 0 for those that do not."""
    if not _worth(payload, window):
        return Rest(_frame(_FINAL | _CONTINUED, payload), False)
    return Rest(_frame(_FINAL | _CONTINUED, await _deflated(payload, window)), True)


def beginning(head: bytes, deflated: bool) -> bytes:
    """The first frame of a message, of which a `Rest` is the second."""
    if not deflated:
        return _frame(_TEXT, head)
    # RFC 1951, 3.2.4: a block of bytes as they are, which is not the last one and ends with a whole byte.
    size = len(head)
    block = b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + head
    return _frame(_TEXT | _COMPRESSED, block)


async def whole(payload: bytes, window: int) -> bytes:
    """A message of one frame, for one peer."""
    if not _worth(payload, window):
        return _frame(_FINAL | _TEXT, payload)
    return _frame(_FINAL | _TEXT | _COMPRESSED, await _deflated(payload, window))


def _worth(payload: bytes, window: int) -> bool:
    return window > 0 and len(payload) >= _WORTH_BYTES


async def _deflated(payload: bytes, window: int) -> bytes:
    if len(payload) <= _AT_ONCE_BYTES:
        return _deflate(payload, window)
    return await asyncio.to_thread(_deflate, payload, window)


def _deflate(payload: bytes, window: int) -> bytes:
    one = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window, memLevel=9)
    # RFC 7692, 7.2.1: without the four bytes 00 00 ff ff at the end.
    return one.compress(payload) + one.flush(zlib.Z_SYNC_FLUSH)[:-4]


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size <= 0xFFFF:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload
