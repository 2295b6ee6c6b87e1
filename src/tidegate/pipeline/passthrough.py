"""The source `ocsf`: records that are OCSF events already, which are validated and go through as they are.

Invariant: of a valid record nothing changes but what Tidegate needs in `metadata` (an id, a correlation id, the source,
each only where the record has none) and that attributes which OCSF does not have move to `unmapped`, each under the
objects that it was in; nulls, and objects of nothing else, are dropped.

Valid is a record that `ocsf_schema` finds to be so, and whose numbers (class, category, type, activity) agree. Its own
`metadata.version` stays; it is held against OCSF 1.8.0 whatever it is. A record that is not valid becomes a Base Event
that keeps it and says why; one without any time is a dead letter. Observables are not added.
"""

from __future__ import annotations

from typing import Any

from tidegate.errors import RecordError
from tidegate.pipeline.compiler import Specials
from tidegate.pipeline.fallback import unknown_source
from tidegate.pipeline.functions import LAST_MS, to_ms, to_text
from tidegate.pipeline.ocsf_schema import check, shapes
from tidegate.pipeline.support import key_text

__all__ = ["PassThrough"]


class PassThrough:
    """A source whose records need no rules."""

    name = "ocsf"
    text = None

    def __init__(self) -> None:
        self.names: tuple[str, ...] = (self.name,)
        self.base = unknown_source(self.name)
        self._shapes = shapes()

    def specialise(self, samples: list[bytes]) -> Specials | None:
        """None: there is no quicker way to learn."""
        return None

    def route(
        self, record: dict[str, Any], uid: str, received_ms: int, when: int | None
    ) -> tuple[str, dict[str, Any]] | tuple[None, str]:
        """The event is `record` itself; raises RecordError where there is no time or an odd id."""
        metadata, time = record.get("metadata"), record.get("time")
        if metadata.__class__ is not dict:
            return None, "ocsf: metadata is required"
        if when is not None:
            if time is not None and metadata.get("original_time") is None:
                metadata["original_time"] = to_text(time)
            time = record["time"] = when
        if time.__class__ is not int or not 0 <= time <= LAST_MS:
            if to_ms(time) is not None:
                return None, "ocsf: time must be a whole number of milliseconds since 1970"
            raise RecordError("normalise", "ocsf.time", f"{str(time)[:100]!r} is not a time")
        metadata["uid"] = uid = key_text(metadata.get("uid") or uid, "ocsf.id")
        metadata["correlation_uid"] = correlation = key_text(metadata.get("correlation_uid") or uid, "ocsf.correlation")
        metadata["log_source"] = metadata.get("log_source") or self.name
        try:
            self._validate(record)
        except ValueError as error:
            return None, f"ocsf: {error}"
        return correlation, record

    def _validate(self, record: dict[str, Any]) -> None:
        uid: Any = record.get("class_uid")
        shape = self._shapes.get(uid) if uid.__class__ is int else None
        if shape is None:
            raise ValueError(f"{str(uid)[:100]!r} is not the number of a class")
        rest = check(shape, record)
        if record["type_uid"] != uid * 100 + record["activity_id"]:
            raise ValueError(f"type_uid {record['type_uid']} does not fit activity_id {record['activity_id']} of {uid}")
        # Classes of extensions have 100,000 times the number of the extension added.
        if record["category_uid"] != uid % 100_000 // 1000:
            raise ValueError(f"category_uid {record['category_uid']} does not fit class_uid {uid}")
        if rest:
            kept = record.setdefault("unmapped", {})
            for name, value in rest.items():
                while name in kept:
                    name += "'"
                kept[name] = value
