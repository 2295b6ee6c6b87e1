"""Which events of a frame a subscription wants: one function, so that another way of saying it can take its place.

Invariant: every line of the log can be looked at; what cannot be read is not selected by any condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from tidegate.entities.fields import Fields, check_path
from tidegate.ocsf import CLASSES

__all__ = ["EventFilter", "EventType", "Selector", "selecting"]

EventType = str | int
"""An OCSF class by name (`dns_activity`) or uid (4003); any other text is a `metadata.event_code`: what the source, or
the envelope, calls the event."""

Selector = Callable[[Sequence[bytes]], Sequence[int]]
"""Takes the lines of a frame, returns the indices of those that are wanted, in order."""

_CLASS, _CODE, _SOURCE, _NAME, _SEVERITY, _CORRELATION = _PATHS = (
    "class_uid",
    "metadata.event_code",
    "metadata.log_source",
    "metadata.log_name",
    "severity_id",
    "metadata.correlation_uid",
)


class EventFilter(Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions on an event; all that are given must hold."""

    source: str = ""
    """Where it came from, such as `suricata`."""
    min_severity: int = 0
    """OCSF severity_id, 1 (informational) to 6 (fatal): this or worse. 99, which is `other`, is no severity."""
    correlation_id: str = ""
    fields: dict[str, str | int | float | bool | None] = {}
    """Path to a single value -> what it must equal: `{"src_endpoint.ip": "10.0.0.5"}`. None: it must be absent."""


def selecting(types: Sequence[EventType], where: EventFilter) -> Selector:
    """Compile. Raises ConfigError for a path that leads to no single value of an event."""
    for path in where.fields:
        check_path("where.fields", path)
    if not types and where == EventFilter():
        return lambda lines: range(len(lines))
    uids = {CLASSES[one].uid if isinstance(one, str) else one for one in types if one in CLASSES or type(one) is int}
    codes = {one for one in types if isinstance(one, str) and one not in CLASSES}
    paths = [*_PATHS, *where.fields]
    read, row = Fields(paths).read, Fields.getter(paths)
    wanted = list(where.fields.values())
    least = where.min_severity

    def select(lines: Sequence[bytes]) -> Sequence[int]:
        chosen = []
        for index, (uid, code, source, name, severity, correlation, *values) in enumerate(
            map(row, read(lines, _WHENEVER))
        ):
            if types and not (type(uid) is int and uid in uids) and not (type(code) is str and code in codes):
                continue
            if where.source and (source or name) != where.source:
                continue
            if least and not (type(severity) is int and least <= severity < _OTHER):
                continue
            if where.correlation_id and correlation != where.correlation_id:
                continue
            if values == wanted:
                chosen.append(index)
        return chosen

    return select


_OTHER = 99
_WHENEVER = 2**62
"""Times of events are not looked at here."""
