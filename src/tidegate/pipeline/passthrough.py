"""The source `ocsf`: records that are OCSF events already, which are validated and go through as they are.

Invariant: of a record that is valid nothing changes but what Tidegate needs in `metadata` (an id, a correlation id, the
source, each only where the record has none), and that attributes which `ocsf.py` does not have move to `unmapped`, each
under the objects that it was in.

Valid is a record with the attributes that OCSF requires, each of its type, whose numbers (class, category, type,
activity) agree. Any version of OCSF counts, and so does any class. A record that is not valid becomes a Base Event that
keeps it and says why; one without a time is a dead letter. Observables are not added.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from tidegate.errors import RecordError
from tidegate.ocsf import CLASSES, OcsfClass, OcsfEvent
from tidegate.pipeline.compiler import Specials
from tidegate.pipeline.fallback import unknown_source
from tidegate.pipeline.functions import LAST_MS, to_text
from tidegate.pipeline.rules import hints_of, shape_of
from tidegate.pipeline.support import key_text

__all__ = ["PassThrough"]

_BY_UID: dict[int, OcsfClass] = {each.uid: each for each in CLASSES.values()}


class PassThrough:
    """A source whose records need no rules."""

    name = "ocsf"

    def __init__(self) -> None:
        self.names: tuple[str, ...] = (self.name,)
        self.base = unknown_source(self.name)

    def specialise(self, samples: list[bytes]) -> Specials | None:
        """None: there is no quicker way to learn."""
        return None

    def route(
        self, record: dict[str, Any], uid: str, received_ms: int, when: int | None
    ) -> tuple[str, OcsfEvent] | tuple[None, str]:
        """The event in `record`, which is taken apart; raises RecordError for one without a time or with odd ids."""
        metadata, time = record.get("metadata"), record.get("time")
        if metadata.__class__ is not dict:
            return None, "ocsf: an event requires metadata"
        if when is not None:
            if time is not None and metadata.get("original_time") is None:
                metadata["original_time"] = to_text(time)
            time = record["time"] = when
        if time.__class__ is not int or not 0 <= time <= LAST_MS:
            raise RecordError("normalise", "ocsf.time", f"{str(time)[:100]!r} is not a time in ms since 1970")
        uid = metadata["uid"] = key_text(metadata.get("uid") or uid, "ocsf.id")
        correlation = metadata["correlation_uid"] = key_text(metadata.get("correlation_uid") or uid, "ocsf.correlation")
        metadata["log_source"] = metadata.get("log_source") or self.name
        rest = _detach(OcsfEvent, record)
        if rest:
            kept = record.setdefault("unmapped", {})
            if kept.__class__ is not dict:
                return None, "ocsf: unmapped must be an object"
            for name, value in rest.items():
                while name in kept:
                    name += "'"
                kept[name] = value
        try:
            event = msgspec.convert(record, OcsfEvent)
        except msgspec.ValidationError as error:
            return None, f"ocsf: {error}"
        problem = _problem(event)
        return (correlation, event) if problem is None else (None, f"ocsf: {problem}")


def _problem(event: OcsfEvent) -> str | None:
    """What contradicts itself or lacks what its class requires."""
    if event.type_uid != event.class_uid * 100 + event.activity_id:
        return f"type_uid {event.type_uid} does not fit class {event.class_uid} and activity {event.activity_id}"
    # Classes of extensions have 100,000 times the extension's number added.
    if event.category_uid != event.class_uid % 100_000 // 1000:
        return f"category_uid {event.category_uid} does not fit class {event.class_uid}"
    wanted = _BY_UID.get(event.class_uid)
    if wanted is None:
        return None
    for name in wanted.required:
        if getattr(event, name) is None:
            return f"class {event.class_uid} requires {name}"
    if wanted.at_least_one and all(getattr(event, name) is None for name in wanted.at_least_one):
        return f"class {event.class_uid} requires one of {', '.join(wanted.at_least_one)}"
    return None


class _Known(NamedTuple):
    """What an object may have: attribute -> the Struct of its objects, None where it has none; any one of these."""

    attributes: dict[str, type[Struct] | None]
    choice: tuple[str, ...]


@cache
def _known(struct: type[Struct]) -> _Known:
    attributes = {name: shape_of(hint)[0] for name, hint in hints_of(struct).items()}
    return _Known(attributes, getattr(struct, "at_least_one", ()))


def _detach(struct: type[Struct], value: dict[str, Any]) -> dict[str, Any]:
    """Takes what `struct` does not have out of `value`, at any depth, and returns it."""
    rest: dict[str, Any] = {}
    attributes = _known(struct).attributes
    for name in list(value):
        if name not in attributes:
            if value[name] is not None:
                rest[name] = value[name]
            del value[name]
            continue
        inner = attributes[name]
        if inner is None:
            continue
        here = value[name]
        if here.__class__ is dict:
            left = _detach_whole(inner, here)
            if left:
                rest[name] = left
            if not here:
                del value[name]
        elif here.__class__ is list:
            found = [_detach_whole(inner, each) if each.__class__ is dict else {} for each in here]
            if any(found):
                rest[name] = found
                value[name] = [each for each in here if each]
                if not value[name]:
                    del value[name]
    return rest


def _detach_whole(struct: type[Struct], value: dict[str, Any]) -> dict[str, Any]:
    """As `_detach`; takes all of an object that without it would lack what OCSF requires any one of."""
    rest = _detach(struct, value)
    choice = _known(struct).choice
    if rest and choice and all(value.get(name) is None for name in choice):
        rest = {**value, **rest}
        value.clear()
    return rest
