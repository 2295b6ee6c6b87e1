"""What the mapping rules do not cover: envelopes, unknown sources, and records that lack what their class requires.

Invariant: content without a place in OCSF is kept in `unmapped`; what the envelope says wins over what is derived.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from tidegate.errors import RecordError
from tidegate.event import Envelope
from tidegate.ocsf import OCSF_VERSION, Metadata, OcsfEvent, Product
from tidegate.pipeline.compiler import KnownSource, Mapper
from tidegate.pipeline.functions import to_ms, to_text
from tidegate.pipeline.rules import fields_of, hints_of, shape_of

__all__ = [
    "ENVELOPE_KEYS",
    "apply_envelope",
    "as_base",
    "as_record",
    "envelope_time",
    "open_envelope",
    "unknown_source",
]

ENVELOPE_KEYS = frozenset(Envelope.__struct_fields__)

_TIME_KEYS = ("timestamp", "@timestamp", "time", "ts", "event_time", "eventTime", "published", "created_at", "datetime")
_CORRELATION_KEYS = ("correlation_id", "trace_id", "session_id")
_MESSAGE_KEYS = ("message", "msg")


def unknown_source(source: str) -> Mapper:
    """Maps records of a source without rules to Base Events.

    Time: the first of a few usual keys that holds a time, else the time of reception. Correlation id: the text or
    number under `correlation_id`, `trace_id` or `session_id`, else the event id.
    """
    product = Product(name=source)

    def route(record: dict[str, Any], uid: str, received_ms: int, when: int | None) -> tuple[str, OcsfEvent]:
        original_time, time = _time_of(record)
        correlation = _correlation_of(record) or uid
        return correlation, OcsfEvent(
            class_uid=0,
            category_uid=0,
            activity_id=0,
            type_uid=0,
            severity_id=0,
            time=when if when is not None else received_ms if time is None else time,
            metadata=Metadata(
                version=OCSF_VERSION,
                product=product,
                uid=uid,
                correlation_uid=correlation,
                log_source=source,
                original_time=original_time,
            ),
            message=_message_of(record),
            unmapped=record or None,
        )

    return route


def _time_of(record: dict[str, Any]) -> tuple[str | None, int | None]:
    for key in _TIME_KEYS:
        if key in record and (time := to_ms(record[key])) is not None:
            return to_text(record.pop(key)), time
    return None, None


def _correlation_of(record: dict[str, Any]) -> str | None:
    for key in _CORRELATION_KEYS:
        if text := to_text(record.get(key)):
            return text
    return None


def _message_of(record: dict[str, Any]) -> str | None:
    for key in _MESSAGE_KEYS:
        if isinstance(record.get(key), str):
            return str(record.pop(key))
    return None


def as_record(value: Any, known: KnownSource | None, received_ms: int) -> dict[str, Any]:
    """The native record in a decoded value: text of a known source is in its format, an unknown source's anything."""
    if known is not None and known.text is not None:
        return known.text.record_of(value, received_ms)
    if isinstance(value, dict):
        return value
    if known is None:
        return {"message": value} if isinstance(value, str) else {"value": value}
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise RecordError("parse", "json", f"the text is not JSON: {error}") from error
        if isinstance(value, dict):
            return value
    raise RecordError("parse", f"{known.name}.object", f"an object is needed, not {value.__class__.__name__}")


def as_base(
    known: KnownSource | None, record: dict[str, Any], uid: str, received_ms: int, why: object, when: int | None = None
) -> OcsfEvent:
    """The Base Event of a record that lacks what its class requires; `status_detail` says what."""
    if known is None:
        raise TypeError("an unknown source has no rules to fall short of")
    _, event = known.base(record, uid, received_ms, when)
    return replace(widen(event), status_detail=str(why))


def widen(event: Any) -> OcsfEvent:
    """The full record of an event that a rule has made with its own attributes only, or that has come as it is."""
    if isinstance(event, dict):
        event = _whole(OcsfEvent, event)
    if isinstance(event, OcsfEvent):
        return event
    return OcsfEvent(**{name: getattr(event, name) for name in event.__struct_fields__})


def _whole(kind: Any, attributes: dict[str, Any]) -> Any:
    """A `kind` with `attributes`, of which it need not know all; those inside are made likewise."""
    names, inner = _names(kind)
    values = {names.get(name, name): _whole_value(inner.get(name), value) for name, value in attributes.items()}
    further = tuple(sorted(values.keys() - set(kind.__struct_fields__)))
    return (_wider(kind, further) if further else kind)(**values)


def _whole_value(kind: Any, value: Any) -> Any:
    if kind is not None and value.__class__ is dict:
        return _whole(kind, value)
    if kind is not None and value.__class__ is list:
        return [_whole_value(kind, each) for each in value]
    return value


@cache
def _names(kind: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """By OCSF name: the Python names of the attributes of a Struct, and the Structs of those that are objects."""
    inner = {name: shape_of(hint)[0] for name, hint in hints_of(kind).items()}
    return {field.encode_name: field.name for field in fields_of(kind)}, inner


@lru_cache(maxsize=1024)
def _wider(kind: Any, further: tuple[str, ...]) -> Any:
    fields = [(name, Any, None) for name in further]
    return msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True, omit_defaults=True, gc=False
    )


def open_envelope(record: dict[str, Any]) -> Envelope:
    """The envelope in `record`; raises RecordError where a key has the wrong type."""
    try:
        return msgspec.convert(record, Envelope)
    except msgspec.ValidationError as error:
        raise RecordError("validate", "envelope", str(error)) from error


def envelope_time(envelope: Envelope) -> int | None:
    """The time that the envelope gives, in milliseconds; raises RecordError for one that cannot be read."""
    if envelope.timestamp is None:
        return None
    time = to_ms(envelope.timestamp)
    if time is None:
        raise RecordError("validate", "envelope.timestamp", f"{str(envelope.timestamp)[:100]!r} is not a time")
    return time


def apply_envelope(event: OcsfEvent, envelope: Envelope) -> OcsfEvent:
    """`event` with the envelope's ids; the rest of the envelope is kept in `unmapped.envelope`.

    Its event type becomes `metadata.event_code` and its timestamp `metadata.original_time`, where these are free.
    """
    given: Any = event.metadata
    whole = isinstance(given, Metadata)
    metadata = given if whole else Metadata(**{name: getattr(given, name) for name in given.__struct_fields__})
    uid = envelope.event_id or metadata.uid
    correlation = envelope.correlation_id
    if not correlation:
        correlation = uid if metadata.correlation_uid == metadata.uid else metadata.correlation_uid
    own_id = metadata.original_event_uid
    if envelope.event_id and metadata.uid != envelope.event_id and own_id is None:
        own_id = metadata.uid
    kept: dict[str, Any] = {}
    if envelope.metadata:
        kept["metadata"] = envelope.metadata
    event_code, original_time = metadata.event_code, metadata.original_time
    if envelope.event_type:
        if event_code is None:
            event_code = envelope.event_type
        elif event_code != envelope.event_type:
            kept["event_type"] = envelope.event_type
    if envelope.timestamp is not None:
        if original_time is None:
            original_time = to_text(envelope.timestamp)
        else:
            kept["timestamp"] = envelope.timestamp
    unmapped = event.unmapped
    if kept:
        key = "envelope"
        unmapped = dict(unmapped or {})
        while key in unmapped:
            key += "'"
        unmapped[key] = kept
    return replace(
        event,
        metadata=replace(
            metadata,
            uid=uid,
            correlation_uid=correlation,
            event_code=event_code,
            original_time=original_time,
            original_event_uid=own_id,
        ),
        unmapped=unmapped,
    )
