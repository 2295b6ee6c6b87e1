"""The few fields of an event that read models index, read without building the rest of it.

Invariant: every line of the log has a head; a field of an unexpected type is left out, it never stops a read model.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from tidegate.projection import Record, Recorded

__all__ = [
    "EventHead",
    "Observable",
    "decode_heads",
    "listed",
    "normalise",
    "record_id",
    "records_of",
    "seen_in",
]

_MAX_KEY_CHARS = 200


class Metadata(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    uid: str = ""
    correlation_uid: str = ""
    log_source: str = ""
    log_name: str = ""


class Observable(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    # Its name and type are passed over: nobody looks events up by them, and reading them takes a third of the time.
    value: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    ip: str | None = None
    port: int | None = None
    hostname: str | None = None


class User(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    name: str | None = None


class Actor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    user: User | None = None


class EventHead(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Decodes from an OCSF event; names are OCSF's, everything else in the event is skipped."""

    metadata: Metadata = Metadata()
    class_uid: int = 0
    severity_id: int = 0
    time: int = 0
    """Milliseconds since 1970."""
    src_endpoint: Endpoint | None = None
    dst_endpoint: Endpoint | None = None
    device: Endpoint | None = None
    actor: Actor | None = None
    user: User | None = None
    observables: list[Observable] = []

    @property
    def event_id(self) -> str:
        return self.metadata.uid

    @property
    def correlation_id(self) -> str:
        return self.metadata.correlation_uid

    @property
    def source(self) -> str:
        """Which source the event came from: `metadata.log_source`, else `metadata.log_name`."""
        return self.metadata.log_source or self.metadata.log_name

    @property
    def user_name(self) -> str | None:
        """Who acted, else who was acted upon."""
        if self.actor is not None and self.actor.user is not None and self.actor.user.name:
            return self.actor.user.name
        return self.user.name if self.user is not None else None


_DECODER = msgspec.json.Decoder(EventHead)
_FIELDS = msgspec.structs.fields(EventHead)


def decode_heads(lines: Sequence[bytes]) -> list[EventHead]:
    """The heads of `lines`, in order. Raises msgspec.DecodeError for a line that is not JSON (the log has none)."""
    try:
        return list(map(_DECODER.decode, lines))
    except msgspec.ValidationError:
        return [_decode_leniently(line) for line in lines]


def _decode_leniently(line: bytes) -> EventHead:
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError:
        event: Any = msgspec.json.decode(line)
    usable: dict[str, Any] = {}
    for field in _FIELDS if isinstance(event, dict) else ():
        if field.name in event:
            try:
                usable[field.name] = msgspec.convert(event[field.name], field.type)
            except msgspec.ValidationError:
                continue
    return EventHead(**usable)


def record_id(sequence: int, index: int) -> int:
    """The identity of a record: the position of its frame in the log and its place in the frame (below 65,536)."""
    return sequence << 16 | index


def lenient_heads(lines: Sequence[bytes]) -> list[EventHead]:
    """As `decode_heads`, of lines that may be damaged: what cannot be read has an empty head."""
    try:
        return decode_heads(lines)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [EventHead()] if len(lines) == 1 else [head for one in lines for head in lenient_heads([one])]


def records_of(frame: Recorded) -> list[Record]:
    """The events of a frame of the log as `Rebuildable.records` lists them."""
    return listed(frame.lines())


def listed(lines: Sequence[bytes], first: int = 0) -> list[Record]:
    """Events, of which the first stands at place `first` of its frame; they may be damaged."""
    return [
        Record(index=index, crc=zlib.crc32(line), event_id=head.event_id)
        for index, (line, head) in enumerate(zip(lines, lenient_heads(lines), strict=True), start=first)
    ]


def normalise(value: str) -> str:
    """An observable as a lookup key: lower case, as hosts, users, addresses and hashes are all looked up regardless of
    case; an overlong one is replaced by its hash."""
    value = value.lower()
    if len(value) <= _MAX_KEY_CHARS:
        return value
    return "blake2b:" + hashlib.blake2b(value.encode(), digest_size=16).hexdigest()


def seen_in(head: EventHead) -> set[str]:
    """Everything observed in the event, normalised: its observables, endpoints, device and user."""
    seen = {one.value for one in head.observables}
    for endpoint in (head.src_endpoint, head.dst_endpoint, head.device):
        if endpoint is not None:
            seen.add(endpoint.ip)
            seen.add(endpoint.hostname)
    seen.add(head.user_name)
    seen.discard(None)
    seen.discard("")
    return {normalise(value) for value in seen if value}
