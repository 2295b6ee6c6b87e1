"""The shapes that travel: what services publish, what the log holds, and what could not become an event.

Invariant: every stored shape has an explicit tag or schema name, never a Python path.
The OCSF record itself is in `ocsf.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["SUBSCRIPTION_STAGE", "DeadLetter", "DeadLetterFact", "Envelope", "KafkaPlace", "Redriven", "Taken"]

SUBSCRIPTION_STAGE = "subscription"
"""The stage of dead letters that subscriptions leave: events of the log, not inputs that could not become events."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a service publishes. Only `data` is required; everything else is derived when it is missing.

    A raw native record (a Suricata line, say) may be published without an envelope. A JSON object is taken for an
    envelope when it has `data` and no key other than those below.
    """

    data: Any
    event_id: str | None = None
    event_type: str | None = None
    timestamp: str | int | float | None = None
    """RFC 3339 text, or a number of seconds (milliseconds from 10^11 on) since 1970."""
    source: str | None = None
    metadata: dict[str, Any] | None = None
    correlation_id: str | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="dead.letter.v1"):
    """An input that could not become an event, or an event of the log that a subscription gave up on, with all that is
    needed to understand it and to try it again."""

    id: str
    source: str
    stage: str
    """The step that gave up: frame, parse, normalise or validate; or `subscription`."""
    rule: str
    """The rule within the step, e.g. `json`, `inflated_size`, `suricata.flow.time`; the name of the subscription."""
    error: str
    original: bytes
    """The bytes as they arrived: one record, or the whole frame where it could not be opened."""
    content_type: str = ""
    content_encoding: str = ""
    attempts: int = 1
    received_ms: int
    """When the input was stored, milliseconds since 1970."""
    origin: str
    """Where the input is: `<stream>/<sequence>#<index>`."""
    trace: str = ""
    """The `traceparent` that came with the input."""
    tenant: str = ""
    """Whose input it was."""
    came_from: str = ""
    """Where it was before it was published, if that is known: `kafka/<topic>/<partition>/<offset>`."""


class Redriven(msgspec.Struct, frozen=True, kw_only=True, tag="dead.redriven.v1"):
    """A dead letter was published again as `attempts`; `sequence` is where its copy is in the ingest stream."""

    id: str
    attempts: int
    sequence: int
    time_ms: int


DeadLetterFact = DeadLetter | Redriven


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag="ingest.taken.v1"):
    """How far one partition of another system's log has been copied into the ingest stream, and what that came to."""

    next: int
    """The first offset that has not been taken."""
    topic_id: str = ""
    """Which topic it is of those that ever had its name, where the other system says so."""
    messages: int = 0
    """Since the beginning; of these:"""
    records: int = 0
    """handed to the pipeline,"""
    refused: int = 0
    """unreadable, handed on as dead letters,"""
    empty: int = 0
    """and without a value (tombstones)."""
    time_ms: int = 0


class KafkaPlace(msgspec.Struct, frozen=True):
    """Where a record is in Kafka: what a request on `kafka.out.<topic>` is answered with."""

    topic: str
    partition: int
    offset: int
