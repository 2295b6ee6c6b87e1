"""Every setting, from `tidegate.toml` and the environment, checked at start.

Invariant: a setting exists once, here; an unknown key or variable is refused with its place and the nearest valid name.

Order, later wins: the defaults below, the TOML file (`TIDEGATE_CONFIG`, else `./tidegate.toml` when it exists),
`TIDEGATE_<TABLE>_<KEY>`, then the short names that other tools use too (`NATS_URL`, `REDIS_URL`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from tidegate import tomlfile
from tidegate.errors import ConfigError

__all__ = [
    "S3",
    "SHORT_NAMES",
    "Auth",
    "Catalog",
    "Cold",
    "CorrelationRules",
    "Gateway",
    "Grpc",
    "Hot",
    "Http",
    "Ingest",
    "Intake",
    "Kafka",
    "KafkaInput",
    "KafkaOutput",
    "Lake",
    "Local",
    "MongoDB",
    "Nats",
    "Redis",
    "Settings",
    "Telemetry",
    "Warm",
    "load",
]

Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Nats(_Table, frozen=True):
    url: str | None = None
    """An existing server (`NATS_URL`); without it a local one is run on `local.nats_port`."""
    monitor_url: str | None = None
    """Its monitoring endpoint (`http://host:8222`), from which `doctor` reads the sync interval."""
    credentials_file: str | None = None
    inbox_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "_INBOX"
    """For `tidegate publish` as a user that may subscribe to its own inbox only (`deploy/nats-users.conf`)."""
    connect_timeout_seconds: Seconds = 5.0
    request_timeout_seconds: Seconds = 10.0


class Redis(_Table, frozen=True):
    url: str | None = None
    """`REDIS_URL`; without it a local server is run on `local.redis_port`."""


class MongoDB(_Table, frozen=True):
    uri: str | None = None
    """`MONGODB_URI`; without it a local server is run on `local.mongo_port`."""
    database: str = "tidegate"


class S3(_Table, frozen=True):
    endpoint: str | None = None
    """`S3_ENDPOINT`; without it a local server is run on `local.s3_port`."""
    bucket: str = "cold"
    """`S3_BUCKET`: holds the cold archive."""
    access_key: str = "tidegate"
    secret_key: str = "tidegate-local-only"  # noqa: S105 - of the local server, which listens on loopback only
    region: str = "us-east-1"


class Catalog(_Table, frozen=True):
    uri: str | None = None
    """`CATALOG_URI`: an Iceberg REST catalog; without it the local S3 server's own on `local.catalog_port`."""
    warehouse: str = "s3://lake"
    namespace: str = "tidegate"
    table: str = "events"
    sigv4: bool = True
    """Sign requests with the S3 keys, as the local server and S3 Tables ask for; other catalogs do not (`false`)."""


class Http(_Table, frozen=True):
    host: str = "127.0.0.1"
    event_streaming_port: Port = 8080
    transformation_pipeline_port: Port = 8081
    gateway_port: Port = 8082
    storage_manager_port: Port = 8083
    entities_port: Port = 8084
    kafka_port: Port = 8085
    max_connections: Positive = 500
    """Open at one time in one process, those of WebSockets and of streams included. Each takes a file descriptor."""


class Grpc(_Table, frozen=True):
    """The same over gRPC. Without authentication `host` must be a loopback address, as that of HTTP."""

    host: str = "127.0.0.1"
    event_streaming_port: Port = 8090
    storage_manager_port: Port = 8093
    certificate: str | None = None
    """A file with the server's certificate chain (PEM); with it and `private_key` connections are encrypted."""
    private_key: str | None = None
    client_ca: str | None = None
    """A file with certificates (PEM): only clients with a certificate that one of these has signed can connect."""
    compress_answers: bool = False
    """With gzip, where the client takes it; what clients send may be compressed in any case."""
    max_connections: Positive = 200
    """Open at one time in one process."""
    max_calls: Positive = 1000
    """Under way at one time in one process, on all connections together."""


class Auth(_Table, frozen=True):
    """Who may come in over HTTP and the other edges."""

    mode: Literal["off", "keys", "jwt", "keys+jwt"] | None = None
    """Must be set. Off: everybody may do everything, and `http.host` must be a loopback address."""
    rate_per_second: Annotated[float, Meta(ge=0)] = 0.0
    """Requests and published records together, of one key or token, in one process; 0: no limit."""
    max_body_bytes: Annotated[int, Meta(ge=0)] = 0
    """Of one request, after inflating; 0: no limit for what can be taken in parts."""
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwks: str | None = None
    """URL or file with the keys of the identity provider (JWKS)."""
    jwt_tenant_claim: str = "tenant"
    wrong_keys_per_second: Annotated[float, Meta(ge=0)] = 2.0
    """Requests without a valid key, from one address; ten seconds' worth at once. Beyond, no key from there is looked
    at that was not right before. 0: no limit."""
    subscriptions_per_key: Positive = 256
    """Open at one time, in one process, over all edges."""


class Local(_Table, frozen=True):
    """Local servers: where their data is, and their ports on 127.0.0.1."""

    data_dir: str = ".tidegate"
    nats_port: Port = 4222
    nats_monitor_port: Port = 8222
    redis_port: Port = 6379
    mongo_port: Port = 27017
    s3_port: Port = 8333
    catalog_port: Port = 8181
    s3_master_port: Port = 9333
    s3_volume_port: Port = 9340
    s3_filer_port: Port = 8888
    s3_grpc_port: Port = 18333
    s3_master_grpc_port: Port = 19333
    s3_volume_grpc_port: Port = 19340
    s3_filer_grpc_port: Port = 18888


class Ingest(_Table, frozen=True):
    max_frame_bytes: Positive = 4 * 1024 * 1024
    """A stored frame larger than this is refused by the server (`max_message_bytes` of the stream)."""
    max_inflated_bytes: Positive = 32 * 1024 * 1024
    """A compressed frame may grow to this many bytes; beyond it the frame is a dead letter."""


TopicName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
KafkaFormat = Literal["json", "avro", "protobuf"]


class KafkaInput(_Table, frozen=True):
    """A topic whose records are published here."""

    topic: TopicName
    source: Token
    """As in `ingest.<source>`: which rules its records are mapped by."""
    format: KafkaFormat = "json"
    """JSON: one record, an array or NDJSON. Avro: Confluent's wire format. Protobuf: `tidegate.v1.Envelope`."""
    tenant: Token | None = None
    """Whose records they are; what a record's headers say of that is not believed."""


class KafkaOutput(_Table, frozen=True):
    """A topic that events of the log are written to."""

    topic: TopicName
    name: Token | None = None
    """What its positions are kept under; by default the topic's name, with `_` for `.`."""
    format: KafkaFormat = "json"
    types: list[str | int] = []
    """Only these: OCSF classes by name or uid, or event codes; none: all."""
    tenant: Token | None = None
    """Only this tenant's events."""
    routed: bool = False
    """Only what a `route` stage of a pipeline has named this topic for."""

    @property
    def key(self) -> str:
        return self.name or self.topic.replace(".", "_")[:64]


class Kafka(_Table, frozen=True):
    """The bridge to Kafka; it runs where `brokers` is set."""

    brokers: str | None = None
    """`KAFKA_BROKERS`: `host:port`, several with commas between."""
    group: TopicName = "tidegate"
    """The consumer group of the inputs. Under another name all of them are read again from the beginning."""
    inputs: list[KafkaInput] = []
    outputs: list[KafkaOutput] = []
    registry: str | None = None
    """URL of a schema registry (Confluent's API), with user and password where it asks for them."""
    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    """Certificates (PEM) of authorities to trust, in place of the system's."""
    batch_records: Positive = 5000
    """Of one partition, or events of one shard, taken at a time at most."""
    request_timeout_seconds: Seconds = 10.0
    session_timeout_seconds: Seconds = 10.0
    """A silent member's partitions go to the others after this long. Brokers have bounds for it, 6 s to 30 min."""


class Intake(_Table, frozen=True):
    batch_records: Positive = 4000
    """Records per commit, about: a batch is closed by the frame that reaches it."""
    rules_path: str | None = None
    """A folder with mapping rules that add to, or replace, the shipped ones (`TRANSFORMATION_RULES_PATH`)."""
    pin_timeout_seconds: Seconds = 3.0
    """A silent owner loses its partition after this long."""


class Gateway(_Table, frozen=True):
    config_path: str | None = None
    """The file with targets, routes and policies (`GATEWAY_CONFIG_PATH`); without it there are no targets."""


class Hot(_Table, frozen=True):
    ttl_seconds: Positive = 3600
    counts_ttl_seconds: Positive = 86_400
    recent_per_key: Positive = 100
    """Event ids kept per correlation id and per observable."""
    batch_events: Positive = 4000
    """Events per script call, about."""


class Warm(_Table, frozen=True):
    ttl_days: Positive = 30
    batch_events: Positive = 4000
    """Events per bulk write, about."""
    journal: bool = True


class Cold(_Table, frozen=True):
    object_events: Positive = 50_000
    """An object is closed at about this many events ..."""
    object_seconds: Seconds = 2.0
    """... or when its first frame has waited this long."""


class Lake(_Table, frozen=True):
    commit_rows: Positive = 250_000
    """A commit is made at this many rows ..."""
    commit_seconds: Seconds = 5.0
    """... or when its first frame has waited this long."""
    target_file_bytes: Positive = 128 * 1024 * 1024


class CorrelationRules(_Table, frozen=True):
    """When a correlation changes its status. Times are of event time, in milliseconds."""

    active_events: Count = 2
    """From so many events on it is active."""
    escalate_severity: Count = 4
    """An event of this OCSF severity or a worse one escalates it: 4 high, 5 critical, 6 fatal. 0: none does."""
    escalate_classes: Count = 5
    """Events of so many distinct classes escalate it. 0: never."""
    escalate_events: Count = 10_000
    """So many events escalate it. 0: never."""
    timeout_ms: Positive = 30 * 60_000
    """Closed after so long without an event."""
    keep_ms: Count = 60 * 60_000
    """Forgotten so long after it was closed."""
    observables: Count = 64
    """How many distinct observables are kept: the newest."""

    def verdict(self, events: int, severity: int, classes: int) -> str:
        """Why a correlation with so many events is escalated; empty if it is not."""
        if severity >= self.escalate_severity and self.escalate_severity:
            return "severity"
        if classes >= self.escalate_classes and self.escalate_classes:
            return "classes"
        if events >= self.escalate_events and self.escalate_events:
            return "events"
        return ""


class Telemetry(_Table, frozen=True):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    local_spans: bool = True
    """Keep spans in `<local.data_dir>/spans.db` for `tidegate trace`."""


class Settings(_Table, frozen=True):
    nats: Nats = field(default_factory=Nats)
    redis: Redis = field(default_factory=Redis)
    mongodb: MongoDB = field(default_factory=MongoDB)
    s3: S3 = field(default_factory=S3)
    catalog: Catalog = field(default_factory=Catalog)
    http: Http = field(default_factory=Http)
    grpc: Grpc = field(default_factory=Grpc)
    auth: Auth = field(default_factory=Auth)
    local: Local = field(default_factory=Local)
    ingest: Ingest = field(default_factory=Ingest)
    intake: Intake = field(default_factory=Intake)
    gateway: Gateway = field(default_factory=Gateway)
    kafka: Kafka = field(default_factory=Kafka)
    hot: Hot = field(default_factory=Hot)
    warm: Warm = field(default_factory=Warm)
    cold: Cold = field(default_factory=Cold)
    lake: Lake = field(default_factory=Lake)
    correlation: CorrelationRules = field(default_factory=CorrelationRules)
    telemetry: Telemetry = field(default_factory=Telemetry)
    windows: list[dict[str, Any]] = []
    """Aggregates over time, each as in `entities.window_definition.WindowDefinition`."""
    subjects_path: str | None = None
    """A folder with stream declarations to use instead of the shipped `subjects/`."""

    @property
    def nats_url(self) -> str:
        return self.nats.url or f"nats://127.0.0.1:{self.local.nats_port}"

    @property
    def nats_monitor_url(self) -> str | None:
        if self.nats.url:
            return self.nats.monitor_url
        return f"http://127.0.0.1:{self.local.nats_monitor_port}"

    @property
    def redis_url(self) -> str:
        return self.redis.url or f"redis://127.0.0.1:{self.local.redis_port}/0"

    @property
    def mongodb_uri(self) -> str:
        return self.mongodb.uri or f"mongodb://127.0.0.1:{self.local.mongo_port}/"

    @property
    def s3_endpoint(self) -> str:
        return self.s3.endpoint or f"http://127.0.0.1:{self.local.s3_port}"

    @property
    def catalog_uri(self) -> str:
        return self.catalog.uri or f"http://127.0.0.1:{self.local.catalog_port}"

    @property
    def data_dir(self) -> Path:
        return Path(self.local.data_dir)

    @property
    def spans_path(self) -> Path | None:
        return self.data_dir / "spans.db" if self.telemetry.local_spans else None


SHORT_NAMES = {
    "AWS_ACCESS_KEY_ID": ("s3", "access_key"),
    "AWS_REGION": ("s3", "region"),
    "AWS_SECRET_ACCESS_KEY": ("s3", "secret_key"),
    "CATALOG_URI": ("catalog", "uri"),
    "GATEWAY_CONFIG_PATH": ("gateway", "config_path"),
    "KAFKA_BROKERS": ("kafka", "brokers"),
    "MONGODB_URI": ("mongodb", "uri"),
    "NATS_URL": ("nats", "url"),
    "REDIS_URL": ("redis", "url"),
    "S3_BUCKET": ("s3", "bucket"),
    "S3_ENDPOINT": ("s3", "endpoint"),
    "TIDEGATE_SUBJECTS_PATH": ("", "subjects_path"),
    "TRANSFORMATION_RULES_PATH": ("intake", "rules_path"),
}
_SCHEMES = {
    ("nats", "url"): ("nats://", "tls://", "ws://", "wss://"),
    ("nats", "monitor_url"): ("http://", "https://"),
    ("redis", "url"): ("redis://", "rediss://", "unix://"),
    ("mongodb", "uri"): ("mongodb://", "mongodb+srv://"),
    ("s3", "endpoint"): ("http://", "https://"),
    ("catalog", "uri"): ("http://", "https://"),
    ("kafka", "registry"): ("http://", "https://"),
}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force. `path` wins over TIDEGATE_CONFIG; `environ` defaults to the process environment.

    Raises ConfigError naming file and line, or the variable.
    """
    environ = os.environ if environ is None else environ
    if path is None:
        named = environ.get("TIDEGATE_CONFIG")
        path = Path(named) if named else Path("tidegate.toml")
        if not named and not path.exists():
            path = None
    settings = tomlfile.load(path, Settings) if path is not None else Settings()
    document: dict[str, Any] = msgspec.to_builtins(settings)
    origins = _overlay(document, environ)
    settings = msgspec.convert(document, Settings)
    for (table, key), schemes in _SCHEMES.items():
        value = document[table][key]
        if value is not None and not value.startswith(schemes):
            where = origins.get((table, key))
            if where is None and path is not None:
                where = f"{path}:{tomlfile.line_of(path.read_text(encoding='utf-8'), [table, key])}"
            raise ConfigError(where or f"{table}.{key}", f"must start with {' or '.join(schemes)}")
    return settings


def port_key(process: str) -> str:
    """The key of a process's port in the tables `http` and `grpc`."""
    return f"{process.replace('-', '_')}_port"


def without_keys(settings: Settings) -> Settings:
    """`settings` with `auth.mode` off where it is not set."""
    if settings.auth.mode is not None:
        return settings
    return replace(settings, auth=replace(settings.auth, mode="off"))


def _overlay(document: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Put the environment's values into `document`; returns which variable set what."""
    tables = {name: kind for name, kind in get_type_hints(Settings).items() if isinstance(kind, type)}
    origins: dict[tuple[str, str], str] = {}
    for variable in sorted(environ, key=lambda name: name in SHORT_NAMES):
        value = environ[variable]
        if variable in SHORT_NAMES:
            table, key = SHORT_NAMES[variable]
        elif variable.startswith("TIDEGATE_") and variable != "TIDEGATE_CONFIG":
            name = variable.removeprefix("TIDEGATE_").lower()
            table, _, key = name.partition("_")
            if table not in tables or key not in tables[table].__struct_fields__:  # type: ignore[attr-defined]
                valid = [
                    f"TIDEGATE_{t}_{k}".upper()
                    for t, kind in tables.items()
                    for k in kind.__struct_fields__  # type: ignore[attr-defined]
                ]
                raise ConfigError(variable, f"unknown setting{tomlfile.nearest(variable, valid)}")
        else:
            continue
        if not value:
            continue
        if not table:
            document[key] = value
            continue
        try:
            shape = get_type_hints(tables[table], include_extras=True)[key]
            if get_origin(shape) is list:  # as JSON
                document[table][key] = msgspec.to_builtins(msgspec.json.decode(value, type=shape))
            else:
                document[table][key] = msgspec.convert(value, shape, strict=False)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise ConfigError(variable, f"{error} (got {value!r})") from error
        origins[(table, key)] = variable
    return origins
