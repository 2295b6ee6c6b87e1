"""What is looked at of each record before it is stored: whether it can be read at all, and whose source it names.

Invariant: a record that passes for a principal limited to some sources becomes an event of one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw

from tidegate.event import Envelope
from tidegate.service.cutting import MAX_RECORD_BYTES

__all__ = ["Reason", "checking"]

Reason = str
_SKIP = msgspec.json.Decoder(Raw).decode
_MSGPACK_SKIP = msgspec.msgpack.Decoder(Raw).decode
_JSON_OBJECT = msgspec.json.Decoder(dict[str, Raw]).decode
_MSGPACK_OBJECT = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, OverflowError)
_KEYS = frozenset(Envelope.__struct_fields__)


def checking(codec: str, sources: Sequence[str]) -> Callable[[bytes], Reason | None]:
    """What says why a record is refused; None: it is not. `sources`: those that may be named; none: all."""

    def readable(record: bytes) -> Reason | None:
        if len(record) > MAX_RECORD_BYTES:
            return f"the record has {len(record)} bytes, more than {MAX_RECORD_BYTES}"
        try:
            if codec == "json":
                _SKIP(record)
            elif codec == "msgpack":
                _MSGPACK_SKIP(record)
        except _UNREADABLE as error:
            return f"not valid {'JSON' if codec == 'json' else 'msgpack'}: {error}"[:200]
        return None

    def allowed(record: bytes) -> Reason | None:
        if reason := readable(record):
            return reason
        named = _named(codec, record)
        return None if named is None or named in sources else f"the source {named[:64]!r} is not one of this key"

    return allowed if sources else readable


def _named(codec: str, record: bytes) -> str | None:
    """The source that an envelope names, as the pipeline would read it."""
    try:
        found = (_MSGPACK_OBJECT if codec == "msgpack" else _JSON_OBJECT)(record)
        if "source" not in found or "data" not in found or not found.keys() <= _KEYS:
            return None
        decode = msgspec.msgpack.decode if codec == "msgpack" else msgspec.json.decode
        named = decode(found["source"])
    except _UNREADABLE:
        return None  # no envelope, so it names none
    return named if isinstance(named, str) else None
