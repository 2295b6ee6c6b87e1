import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Records(_message.Message):
    __slots__ = ("source", "body", "content_type", "content_encoding", "idempotency_key")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ENCODING_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    source: str
    body: bytes
    content_type: str
    content_encoding: str
    idempotency_key: str
    def __init__(self, source: _Optional[str] = ..., body: _Optional[bytes] = ..., content_type: _Optional[str] = ..., content_encoding: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("positions", "records", "duplicates", "refused", "refused_count")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedScalarFieldContainer[str]
    records: int
    duplicates: int
    refused: _containers.RepeatedCompositeFieldContainer[Refusal]
    refused_count: int
    def __init__(self, positions: _Optional[_Iterable[str]] = ..., records: _Optional[int] = ..., duplicates: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., refused_count: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("index", "reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("published", "failure")
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    published: Published
    failure: Failure
    def __init__(self, published: _Optional[_Union[Published, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "problem", "published")
    CODE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    code: str
    problem: str
    published: Published
    def __init__(self, code: _Optional[str] = ..., problem: _Optional[str] = ..., published: _Optional[_Union[Published, _Mapping]] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("position", "time", "beginning", "types", "source", "correlation_id", "min_severity", "buffer", "skip")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    BEGINNING_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_SEVERITY_FIELD_NUMBER: _ClassVar[int]
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    position: str
    time: _timestamp_pb2.Timestamp
    beginning: bool
    types: _containers.RepeatedScalarFieldContainer[str]
    source: str
    correlation_id: str
    min_severity: int
    buffer: int
    skip: bool
    def __init__(self, position: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., beginning: _Optional[bool] = ..., types: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ..., correlation_id: _Optional[str] = ..., min_severity: _Optional[int] = ..., buffer: _Optional[int] = ..., skip: _Optional[bool] = ...) -> None: ...

class Following(_message.Message):
    __slots__ = ("start", "ack")
    START_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    start: Subscription
    ack: str
    def __init__(self, start: _Optional[_Union[Subscription, _Mapping]] = ..., ack: _Optional[str] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("position", "line")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    position: str
    line: bytes
    def __init__(self, position: _Optional[str] = ..., line: _Optional[bytes] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("items", "left_out")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    left_out: int
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., left_out: _Optional[int] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("kind", "id", "command", "command_id", "expected_version")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    command: bytes
    command_id: str
    expected_version: int
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., command: _Optional[bytes] = ..., command_id: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("id", "version", "sequence", "events", "state", "duplicate")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    sequence: int
    events: bytes
    state: bytes
    duplicate: bool
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., sequence: _Optional[int] = ..., events: _Optional[bytes] = ..., state: _Optional[bytes] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("ready", "waiting_for", "principal", "sections")
    READY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    waiting_for: str
    principal: Principal
    sections: bytes
    def __init__(self, ready: _Optional[bool] = ..., waiting_for: _Optional[str] = ..., principal: _Optional[_Union[Principal, _Mapping]] = ..., sections: _Optional[bytes] = ...) -> None: ...

class Principal(_message.Message):
    __slots__ = ("id", "scopes", "tenant", "sources", "rate_per_second", "max_body_bytes", "expires_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    RATE_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    sources: _containers.RepeatedScalarFieldContainer[str]
    rate_per_second: float
    max_body_bytes: int
    expires_ms: int
    def __init__(self, id: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ..., sources: _Optional[_Iterable[str]] = ..., rate_per_second: _Optional[float] = ..., max_body_bytes: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class EventRequest(_message.Message):
    __slots__ = ("id", "tier", "after")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    tier: str
    after: str
    def __init__(self, id: _Optional[str] = ..., tier: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("tier", "line")
    TIER_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    tier: str
    line: bytes
    def __init__(self, tier: _Optional[str] = ..., line: _Optional[bytes] = ...) -> None: ...

class FindRequest(_message.Message):
    __slots__ = ("correlation_id", "observable", "since", "until", "limit", "tier", "cursor", "after")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVABLE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    observable: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    limit: int
    tier: str
    cursor: str
    after: str
    def __init__(self, correlation_id: _Optional[str] = ..., observable: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[int] = ..., tier: _Optional[str] = ..., cursor: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("tier", "events", "complete", "cursor")
    TIER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    tier: str
    events: _containers.RepeatedScalarFieldContainer[bytes]
    complete: bool
    cursor: str
    def __init__(self, tier: _Optional[str] = ..., events: _Optional[_Iterable[bytes]] = ..., complete: _Optional[bool] = ..., cursor: _Optional[str] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("since", "until", "after")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    after: str
    def __init__(self, since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., after: _Optional[str] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[MinuteCount]
    def __init__(self, counts: _Optional[_Iterable[_Union[MinuteCount, _Mapping]]] = ...) -> None: ...

class MinuteCount(_message.Message):
    __slots__ = ("minute_ms", "class_uid", "severity_id", "count")
    MINUTE_MS_FIELD_NUMBER: _ClassVar[int]
    CLASS_UID_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    minute_ms: int
    class_uid: int
    severity_id: int
    count: int
    def __init__(self, minute_ms: _Optional[int] = ..., class_uid: _Optional[int] = ..., severity_id: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class SqlRequest(_message.Message):
    __slots__ = ("sql", "max_rows", "timeout_seconds", "after")
    SQL_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    sql: str
    max_rows: int
    timeout_seconds: float
    after: str
    def __init__(self, sql: _Optional[str] = ..., max_rows: _Optional[int] = ..., timeout_seconds: _Optional[float] = ..., after: _Optional[str] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("columns", "rows", "truncated")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    rows: _containers.RepeatedScalarFieldContainer[bytes]
    truncated: bool
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., rows: _Optional[_Iterable[bytes]] = ..., truncated: _Optional[bool] = ...) -> None: ...
