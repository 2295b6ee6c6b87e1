"""The operational events: each class declares its log line, the metrics it moves and what it puts on the span.

Invariant: label fields are names out of a small set (cells, tiers, routes); reasons and errors are never labels.
"""

from __future__ import annotations

from functools import partial

from tidegate.telemetry.emission import Event
from tidegate.telemetry.metrics import counter, gauge, histogram

__all__ = [
    "AccessAudited",
    "BatchFailed",
    "BatchProcessed",
    "BreakerChanged",
    "BusConnected",
    "BusDisconnected",
    "BusReconnected",
    "CellFailed",
    "CellFenced",
    "CellGaveWay",
    "CellStarted",
    "CellStopped",
    "CellWaiting",
    "ChannelCalled",
    "CommandFailed",
    "ConnectionChanged",
    "ConnectionRefused",
    "EffectCalled",
    "EffectFailed",
    "EntitiesChanged",
    "EntitiesRecovered",
    "ForwardMissed",
    "FrameRefused",
    "FramesPublished",
    "GrpcServed",
    "HttpServed",
    "IntakeCommitted",
    "KafkaGap",
    "KafkaTaken",
    "KafkaWaiting",
    "KafkaWritten",
    "OwnershipGained",
    "OwnershipLost",
    "PipelineInUse",
    "ProcessStarted",
    "ProcessStopped",
    "ProjectionApplied",
    "PublishRetried",
    "QueryServed",
    "RulesRefused",
    "SnapshotIgnored",
    "SnapshotStored",
    "StageRan",
    "SubscriptionWaiting",
    "TableRefused",
    "TablesReplaced",
    "TierRecovered",
    "TierUnavailable",
]

_bus_connected = partial(gauge, "bus_connected", "1 while NATS is connected")
_cell_owned = partial(gauge, "cell_owned", "1 while this process owns the cell", labels=("cell",))
_cell_running = partial(gauge, "cell_running", "1 while the cell runs in this process", labels=("cell",))
_process_up = partial(gauge, "process_up", "1 while the process serves", labels=("name",))
_tier_up = partial(gauge, "tier_up", "1 while the read model takes writes", labels=("tier",))


class FramesPublished(Event, frozen=True, kw_only=True):
    """Frames of one source were acknowledged by JetStream; `bytes` as stored, `seconds` from send to last ack."""

    tag = "frames.published"
    text = "frames published"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("published_frames", "Frames acknowledged by JetStream", amount="frames", labels=("source",)),
        counter("published_records", "Records acknowledged by JetStream", amount="records", labels=("source",)),
        counter("published_bytes", "Bytes acknowledged by JetStream", amount="bytes", labels=("source",)),
        histogram("publish", "From send to acknowledgement", labels=("source",)),
    )
    source: str
    frames: int
    records: int
    bytes: int
    seconds: float


class PublishRetried(Event, frozen=True, kw_only=True):
    """A frame was not acknowledged and is sent again as `attempt` (from 2)."""

    tag = "publish.retried"
    text = "publishing again"
    level = "warning"
    metrics = (counter("publish_retries", "Frames sent again"),)
    attempt: int
    reason: str


class IntakeCommitted(Event, frozen=True, kw_only=True):
    """One fenced commit to LOG; `records` = `events` + `dead` + `filtered`."""

    tag = "intake.committed"
    text = "intake committed"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("intake_frames", "Input frames committed", amount="frames", labels=("cell",)),
        counter("intake_records", "Input records committed", amount="records", labels=("cell",)),
        counter("intake_events", "Events written to LOG", amount="events", labels=("cell",)),
        counter("intake_dead_letters", "Dead letters written to LOG", amount="dead", labels=("cell",)),
        counter("intake_filtered", "Records left out by a filter rule", amount="filtered", labels=("cell",)),
        counter("intake_bytes", "Input bytes committed", amount="bytes", labels=("cell",)),
        histogram("intake_commit", "From pull to commit of one batch", labels=("cell",)),
    )
    cell: str
    frames: int
    records: int
    events: int
    dead: int
    filtered: int
    bytes: int
    seconds: float


class FrameRefused(Event, frozen=True, kw_only=True):
    """A whole frame became a dead letter."""

    tag = "frame.refused"
    text = "frame refused"
    level = "warning"
    metrics = (counter("refused_frames", "Frames that could not be opened", labels=("cell", "rule")),)
    cell: str
    rule: str
    error: str


class StageRan(Event, frozen=True, kw_only=True):
    """What a stage of a pipeline did since it was last told; `taken` = `passed` + `filtered` + dead letters."""

    tag = "stage.ran"
    text = "stage ran"
    level = "debug"
    metrics = (
        counter("stage_taken", "Events that came to the stage", amount="taken", labels=("pipeline", "stage")),
        counter("stage_passed", "Events that went on", amount="passed", labels=("pipeline", "stage")),
        counter("stage_filtered", "Events left out", amount="filtered", labels=("pipeline", "stage")),
        counter("stage_failed", "Events that have failed", amount="failed", labels=("pipeline", "stage")),
        counter("stage_retries", "Further attempts", amount="retries", labels=("pipeline", "stage")),
        counter("stage_busy_seconds", "Time spent in the stage", amount="seconds", labels=("pipeline", "stage")),
    )
    pipeline: str
    stage: str
    taken: int
    passed: int
    filtered: int
    failed: int
    retries: int
    seconds: float


class PipelineInUse(Event, frozen=True, kw_only=True):
    """From the next frame on, this version of the pipeline is used."""

    tag = "pipeline.in_use"
    text = "pipeline in use"
    pipeline: str
    version: str


class RulesRefused(Event, frozen=True, kw_only=True):
    """Changed rules cannot be used; those before stay in use."""

    tag = "rules.refused"
    text = "rules refused"
    level = "warning"
    metrics = (counter("refused_rules", "Changes of the rules that could not be used"),)
    error: str


class TablesReplaced(Event, frozen=True, kw_only=True):
    """A newer version of a table for enrichment is in use."""

    tag = "tables.replaced"
    text = "table replaced"
    table: str
    entries: int


class TableRefused(Event, frozen=True, kw_only=True):
    """A newer version of a table cannot be loaded; the one before stays in use."""

    tag = "tables.refused"
    text = "table refused"
    level = "warning"
    table: str
    error: str


class ProjectionApplied(Event, frozen=True, kw_only=True):
    """A batch of LOG frames and its position are in the read model; `lag` frames are still to come."""

    tag = "projection.applied"
    text = "projection applied"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("projected_frames", "LOG frames applied", amount="frames", labels=("tier", "cell")),
        counter("projected_events", "Events applied", amount="events", labels=("tier", "cell")),
        histogram("projection_apply", "One write of a batch to the read model", labels=("tier", "cell")),
        gauge("projection_lag_frames", "LOG frames not yet applied", amount="lag", labels=("tier", "cell")),
        _tier_up(amount=1),
    )
    tier: str
    cell: str
    frames: int
    events: int
    seconds: float
    lag: int


class TierUnavailable(Event, frozen=True, kw_only=True):
    """The server behind a read model refused or did not answer; the projection waits and tries again."""

    tag = "tier.unavailable"
    text = "tier unavailable"
    level = "warning"
    metrics = (counter("tier_failures", "Failed writes to the tier", labels=("tier",)), _tier_up(amount=0))
    tier: str
    error: str
    retry_in_seconds: float


class TierRecovered(Event, frozen=True, kw_only=True):
    """A read model takes writes again."""

    tag = "tier.recovered"
    text = "tier recovered"
    metrics = (
        counter("tier_outage_seconds", "Time without the tier", amount="outage_seconds", labels=("tier",)),
        _tier_up(amount=1),
    )
    tier: str
    outage_seconds: float


class CellStarted(Event, frozen=True, kw_only=True):
    """A cell works on from `position`."""

    tag = "cell.started"
    text = "cell started"
    metrics = (counter("cell_starts", "Starts of the cell", labels=("cell",)), _cell_running(amount=1))
    cell: str
    position: str | int


class CellStopped(Event, frozen=True, kw_only=True):
    """A cell has ended, its last commit done or given up."""

    tag = "cell.stopped"
    text = "cell stopped"
    metrics = (_cell_running(amount=0),)
    cell: str
    reason: str


class CellFenced(Event, frozen=True, kw_only=True):
    """Another writer moved the cell's position; this one's commit was refused as a whole."""

    tag = "cell.fenced"
    text = "cell fenced"
    level = "warning"
    metrics = (counter("cell_fences", "Commits refused by the fence", labels=("cell",)),)
    cell: str
    reason: str


class CellFailed(Event, frozen=True, kw_only=True):
    """An error that nobody expected: the cell starts afresh, and ends the process if that happens too often."""

    tag = "cell.failed"
    text = "cell failed"
    level = "error"
    metrics = (counter("cell_errors", "Unexpected errors in the cell", labels=("cell",)),)
    cell: str
    error: str
    retry_in_seconds: float
    stack: str


class EntitiesRecovered(Event, frozen=True, kw_only=True):
    """The states of a cell's entities are as the log has them."""

    tag = "entities.recovered"
    text = "entities recovered"
    metrics = (histogram("recovery", "Folding the changes after the snapshot", labels=("cell",)),)
    cell: str
    entities: int
    changes: int
    seconds: float


class EntitiesChanged(Event, frozen=True, kw_only=True):
    """A cell has committed what a batch of commands and events changes."""

    tag = "entities.changed"
    text = "entities changed"
    level = "debug"
    metrics = (
        counter("entity_changes", "Changes of entities", amount="changes", labels=("cell",)),
        counter("entity_commands", "Commands that were decided on", amount="commands", labels=("cell",)),
        gauge("entities", "Entities of which something is known", amount="entities", labels=("cell",)),
        histogram("entity_commit", "From having a batch to its commit", labels=("cell",)),
    )
    cell: str
    messages: int
    commands: int
    changes: int
    entities: int
    seconds: float
    lag: int


class CommandFailed(Event, frozen=True, kw_only=True):
    """An entity stumbled over a command: a bug in its `decide` or `evolve`. The command is refused."""

    tag = "command.failed"
    text = "command failed"
    level = "error"
    metrics = (counter("command_failures", "Commands that an entity stumbled over", labels=("cell",)),)
    cell: str
    error: str


class EffectCalled(Event, frozen=True, kw_only=True):
    """The effect of something that an entity went through has taken place."""

    tag = "effect.called"
    text = "effect called"
    level = "debug"
    metrics = (
        counter("effects", "Effects that took place", labels=("cell",)),
        histogram("effect", "One call of a handler of effects", labels=("cell",)),
    )
    cell: str
    id: str
    seconds: float


class ForwardMissed(Event, frozen=True, kw_only=True):
    """A frame that was routed to a subject had left the log before it was sent."""

    tag = "forward.missed"
    text = "routed frame has left the log"
    level = "error"
    metrics = (
        counter("forwards_missed", "Routed frames that had left the log before they were sent", labels=("cell",)),
    )
    cell: str
    sequence: int


class EffectFailed(Event, frozen=True, kw_only=True):
    """A handler of effects has failed, or was too slow; it is not called again for the same."""

    tag = "effect.failed"
    text = "effect failed"
    level = "error"
    metrics = (counter("effect_failures", "Effects that failed, and are not repeated", labels=("cell",)),)
    cell: str
    id: str
    error: str


class BatchProcessed(Event, frozen=True, kw_only=True):
    """A handler of a subscription has returned; `events` are those of its batch, 0 when it failed."""

    tag = "batch.processed"
    text = "batch processed"
    level = "debug"
    metrics = (
        counter("subscription_events", "Events processed", amount="events", labels=("subscription",)),
        histogram("subscription_batch", "One call of a handler", labels=("subscription",)),
    )
    subscription: str
    events: int
    seconds: float


class BatchFailed(Event, frozen=True, kw_only=True):
    """A handler of a subscription has failed, or was too slow; `next` is what the policy says."""

    tag = "batch.failed"
    text = "batch failed"
    level = "warning"
    metrics = (counter("subscription_failures", "Failed calls of a handler", labels=("subscription",)),)
    subscription: str
    at: str
    error: str
    attempt: int
    next: str


class SubscriptionWaiting(Event, frozen=True, kw_only=True):
    """A member of a subscription can do nothing at the moment, and tries again."""

    tag = "subscription.waiting"
    text = "subscription waiting"
    level = "warning"
    metrics = (counter("subscription_waits", "Troubles that were waited out", labels=("subscription",)),)
    subscription: str
    error: str
    retry_in_seconds: float


class SnapshotStored(Event, frozen=True, kw_only=True):
    """The states of a cell's entities are in the object store, as of `sequence`."""

    tag = "snapshot.stored"
    text = "snapshot stored"
    metrics = (counter("snapshots", "Snapshots stored", labels=("cell",)),)
    cell: str
    entities: int
    sequence: int
    bytes: int
    seconds: float


class SnapshotIgnored(Event, frozen=True, kw_only=True):
    """A snapshot was of no use, or could not be stored; all changes are folded from the log instead."""

    tag = "snapshot.ignored"
    text = "snapshot ignored"
    level = "warning"
    metrics = (counter("snapshots_ignored", "Snapshots that were of no use", labels=("cell",)),)
    cell: str
    reason: str


class CellWaiting(Event, frozen=True, kw_only=True):
    """A cell, or a whole process, could not go on; it tries again."""

    tag = "cell.waiting"
    text = "waiting, will try again"
    level = "warning"
    metrics = (counter("cell_failures", "Failures that were tried again", labels=("cell",)),)
    cell: str
    error: str
    retry_in_seconds: float


class OwnershipGained(Event, frozen=True, kw_only=True):
    """The server pinned the cell's consumer to this process."""

    tag = "ownership.gained"
    text = "ownership gained"
    metrics = (counter("ownership_gains", "Pins gained", labels=("cell",)), _cell_owned(amount=1))
    cell: str


class OwnershipLost(Event, frozen=True, kw_only=True):
    """The server took the pin away, or gave it to another process."""

    tag = "ownership.lost"
    text = "ownership lost"
    metrics = (counter("ownership_losses", "Pins lost", labels=("cell",)), _cell_owned(amount=0))
    cell: str


class CellGaveWay(Event, frozen=True, kw_only=True):
    """Another process runs fewer cells of this kind, and may have it."""

    tag = "cell.gave_way"
    text = "cell gave way to a process that runs fewer"
    metrics = (counter("cell_handovers", "Cells let go to even out", labels=("cell",)), _cell_owned(amount=0))
    cell: str


class BusConnected(Event, frozen=True, kw_only=True):
    """The first connection to NATS stands; `server` is its name and version, never a URL with credentials."""

    tag = "bus.connected"
    text = "bus connected"
    metrics = (_bus_connected(amount=1),)
    server: str


class BusDisconnected(Event, frozen=True, kw_only=True):
    """The connection to NATS is gone; the client keeps trying."""

    tag = "bus.disconnected"
    text = "bus disconnected"
    level = "warning"
    metrics = (counter("bus_disconnects", "Lost connections to NATS"), _bus_connected(amount=0))
    reason: str


class BusReconnected(Event, frozen=True, kw_only=True):
    """The connection to NATS stands again."""

    tag = "bus.reconnected"
    text = "bus reconnected"
    metrics = (
        counter("bus_outage_seconds", "Time without NATS", amount="outage_seconds"),
        _bus_connected(amount=1),
    )
    outage_seconds: float


class QueryServed(Event, frozen=True, kw_only=True):
    """A query was answered from `tier` with `rows` rows."""

    tag = "query.served"
    text = "query served"
    level = "debug"
    on_span = "attributes"
    metrics = (
        histogram("query", "Queries answered", labels=("tier", "kind")),
        counter("query_rows", "Rows answered", amount="rows", labels=("tier", "kind")),
    )
    tier: str
    kind: str
    rows: int
    seconds: float


class AccessAudited(Event, frozen=True, kw_only=True):
    """Calls were refused, or an administrator's let through; `result` is `allowed` or the code of the refusal."""

    tag = "access.audited"
    text = "access"
    level = "info"
    metrics = (
        counter("access_audited", "Calls refused, and administrators' calls", amount="count", labels=("result",)),
    )
    result: str
    who: str
    what: str
    detail: str
    peer: str
    count: int


class ConnectionRefused(Event, frozen=True, kw_only=True):
    """A connection was not taken, as there are as many as there may be."""

    tag = "connection.refused"
    text = "connection refused"
    level = "debug"
    metrics = (counter("connections_refused", "Connections beyond the limit", labels=("edge",)),)
    edge: str


class ChannelCalled(Event, frozen=True, kw_only=True):
    """One attempt of the gateway to call a target has ended; `outcome` is `ok` or the kind of failure."""

    tag = "channel.called"
    text = "channel called"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("channel_attempts", "Attempts to call a target", labels=("target", "outcome")),
        histogram("channel_attempt", "Attempts to call a target", labels=("target",)),
        counter("channel_sent_bytes", "Bytes of requests", amount="sent", labels=("target",)),
        counter("channel_received_bytes", "Bytes of good answers", amount="received", labels=("target",)),
    )
    target: str
    outcome: str
    sent: int
    received: int
    seconds: float


class BreakerChanged(Event, frozen=True, kw_only=True):
    """The breaker of a channel is closed (0), half-open (1) or open (2)."""

    tag = "breaker.changed"
    text = "circuit breaker changed"
    level = "warning"
    metrics = (gauge("channel_breaker", "0 closed, 1 half-open, 2 open", amount="value", labels=("target",)),)
    target: str
    state: str
    value: int


class ConnectionChanged(Event, frozen=True, kw_only=True):
    """A stream connection of the gateway was established, lost or resumed."""

    tag = "connection.changed"
    text = "stream connection changed"
    metrics = (counter("connection_changes", "Changes of stream connections", labels=("target", "state")),)
    id: str
    target: str
    state: str
    reason: str


class HttpServed(Event, frozen=True, kw_only=True):
    """An HTTP request was answered; `route` is the template (`/v1/events/{id}`), never the path as asked."""

    tag = "http.served"
    text = "http served"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("http_requests", "HTTP requests answered", labels=("method", "route", "status")),
        histogram("http_request", "HTTP requests answered", labels=("method", "route")),
    )
    method: str
    route: str
    status: int
    seconds: float


class GrpcServed(Event, frozen=True, kw_only=True):
    """A gRPC call has ended; a stream may have lasted for days."""

    tag = "grpc.served"
    text = "grpc served"
    level = "debug"
    on_span = "attributes"
    metrics = (
        counter("grpc_calls", "gRPC calls ended", labels=("method", "code")),
        histogram("grpc_call", "gRPC calls ended", labels=("method",)),
    )
    method: str
    code: str
    """The status: `OK`, `INVALID_ARGUMENT`, ..."""
    seconds: float


class ProcessStarted(Event, frozen=True, kw_only=True):
    """A process serves."""

    tag = "process.started"
    text = "process started"
    metrics = (_process_up(amount=1),)
    name: str


class ProcessStopped(Event, frozen=True, kw_only=True):
    """A process has ended its work in order."""

    tag = "process.stopped"
    text = "process stopped"
    metrics = (_process_up(amount=0),)
    name: str


class KafkaTaken(Event, frozen=True, kw_only=True):
    """Records of one partition of a topic are in the ingest stream, together with the position after them."""

    tag = "kafka.taken"
    text = "kafka records taken in"
    level = "debug"
    metrics = (
        counter("kafka_taken_messages", "Messages taken in from Kafka", amount="messages", labels=("topic",)),
        counter("kafka_taken_records", "Records in these", amount="records", labels=("topic",)),
        counter("kafka_refused", "Messages that could not be read", amount="refused", labels=("topic",)),
        counter("kafka_empty", "Messages without a value", amount="empty", labels=("topic",)),
        histogram("kafka_take", "From frames to their acknowledgement", labels=("topic",)),
    )
    topic: str
    partition: int
    messages: int
    records: int
    refused: int
    empty: int
    seconds: float


class KafkaWritten(Event, frozen=True, kw_only=True):
    """Events of one shard of the log were acknowledged by all in-sync replicas of a topic."""

    tag = "kafka.written"
    text = "events written to kafka"
    level = "debug"
    metrics = (
        counter("kafka_written_events", "Events written to Kafka", amount="events", labels=("topic",)),
        histogram("kafka_write", "From the last frame of a batch to its acknowledgement", labels=("topic",)),
    )
    topic: str
    shard: int
    events: int
    again: int
    """Events that were found there already, after an interruption."""
    seconds: float


class KafkaAnswered(Event, frozen=True, kw_only=True):
    """Requests to write an event each to one topic were answered."""

    tag = "kafka.answered"
    text = "requests for kafka answered"
    level = "debug"
    metrics = (
        counter("kafka_requests_sent", "Events of requests that are in their topics", amount="sent"),
        counter("kafka_requests_refused", "Requests to write to Kafka that got an error", amount="refused"),
        histogram("kafka_requests", "From the begin of a batch of requests to its last answer"),
    )
    sent: int
    refused: int
    seconds: float


class KafkaWaiting(Event, frozen=True, kw_only=True):
    """Something of what is read from Kafka has to wait."""

    tag = "kafka.waiting"
    text = "kafka waiting"
    level = "warning"
    metrics = (counter("kafka_waits", "Times that reading from Kafka had to wait"),)
    problem: str
    retry_in_seconds: float


class KafkaGap(Event, frozen=True, kw_only=True):
    """A topic has dropped its oldest records before they were taken in; reading goes on at its first."""

    tag = "kafka.gap"
    text = "kafka records lost before they were read"
    level = "error"
    metrics = (
        counter("kafka_lost", "Offsets dropped by a topic before they were read", amount="lost", labels=("topic",)),
    )
    topic: str
    partition: int
    lost: int
    first: int
