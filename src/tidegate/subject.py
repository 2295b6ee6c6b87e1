"""Every subject name: built and parsed here, and nowhere else. Streams are declared in `subjects/*.toml`.

Invariant: a record's shard is a function of its correlation id alone, so all records of one correlation stay in order.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate import tomlfile
from tidegate.errors import ConfigError

__all__ = [
    "ALERT_RAISED",
    "COMMAND",
    "INGEST",
    "LOG",
    "STATUS",
    "Declarations",
    "StreamDeclaration",
    "SubjectDeclaration",
    "ask",
    "cell",
    "command",
    "consumer",
    "dead",
    "entity",
    "event",
    "followed",
    "generation",
    "generation_of",
    "ingest",
    "is_own",
    "kafka",
    "load",
    "load_declarations",
    "remade",
    "service",
    "shard_from",
    "shard_of",
    "source_from",
    "taken",
    "valid_outside",
    "valid_source",
    "valid_tenant",
]

COMMAND = "COMMAND"
INGEST = "INGEST"
LOG = "LOG"
ALERT_RAISED = "alert.raised"
"""Plain messages, not stored: each new alert."""

STATUS = "status.processes"
"""Plain requests, not stored: every process answers."""

_OWN = {"alert", "ask", "cmd", "ingest", "kafka", "log", "status"}
_OUTSIDE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,15}")
_SOURCE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def valid_source(source: str) -> bool:
    """Whether `source` can be a subject token: letters, digits, `_` and `-`, at most 64."""
    return _SOURCE.fullmatch(source) is not None


def valid_tenant(tenant: str) -> bool:
    """Whether `tenant` can be a tenant's name: letters, digits, `_` and `-`, at most 64."""
    return _SOURCE.fullmatch(tenant) is not None


def ingest(source: str, partition: int) -> str:
    """`ingest.<source>.<partition>`: raw frames of one source."""
    return f"ingest.{source}.{partition}"


def taken(system: str, place: str) -> str:
    """`ingest.taken.<system>.<place>`: up to where a place of another system has been copied into the ingest stream."""
    return f"ingest.taken.{system}.{place}"


def event(shard: int | Literal["*"]) -> str:
    """`log.event.<shard>`: normalised events."""
    return f"log.event.{shard}"


def dead(shard: int | Literal["*"]) -> str:
    """`log.dead.<shard>`: dead letters."""
    return f"log.dead.{shard}"


def entity(kind: str, shard: int | Literal["*"]) -> str:
    """`log.<kind>.<shard>`: the changes of the entities of one kind."""
    return f"log.{kind}.{shard}"


def generation_of(kind: str, generation: int) -> str:
    """The name of a generation of a kind, in place of the kind in its subjects: `log.<kind>.g2.<shard>`."""
    return kind if generation == 1 else f"{kind}.g{generation}"


def consumer(name: str, shard: int) -> str:
    """The durable consumer of an entity cell; a consumer's name has no dots."""
    return f"{name}-{shard}".replace(".", "-")


def followed(kinds: Sequence[str], shard: int | Literal["*"]) -> list[str]:
    """The subjects of these kinds in the log, in all their generations, in one shard or in all."""
    return [entity(name, shard) for kind in kinds for name in ((kind,) if kind == "event" else (kind, f"{kind}.*"))]


def command(kind: str, shard: int) -> str:
    """`cmd.<kind>.<shard>`: commands to the entities of one kind."""
    return f"cmd.{kind}.{shard}"


def ask(kind: str) -> str:
    """`ask.<kind>`: requests (not stored) that become commands and are answered once those are committed."""
    return f"ask.{kind}"


def service(name: str, endpoint: str) -> str:
    """`svc.<name>.<endpoint>`: requests (not stored) to Tidegate's NATS micro services."""
    return f"svc.{name}.{endpoint}"


def load(process: str) -> str:
    """`status.load.<process>`: plain messages, not stored: how many cells each process of this name runs."""
    return f"status.load.{process}"


def kafka(topic: str) -> str:
    """`kafka.out.<topic>`: requests (not stored) that the bridge writes to a topic, and answers once that is done."""
    return f"kafka.out.{topic}"


def cell(kind: str, shard: int | str) -> str:
    """`log.cell.<kind>.<shard>`: the newest progress record of one cell."""
    return f"log.cell.{kind}.{shard}"


def remade(number: int, shard: int | Literal["*"]) -> str:
    """`log.remade.<set>.<shard>`: what frames of the log become by later rules."""
    return f"log.remade.{number}.{shard}"


def generation(tier: str) -> str:
    """`log.generation.<tier>`: which generation of a read model serves, and which one is being built."""
    return f"log.generation.{tier}"


def source_from(subject: str) -> str:
    """The source in `ingest.<source>.<partition>`."""
    return subject.split(".", 2)[1]


def is_own(name: str) -> bool:
    """Whether the subject `name` has a meaning inside Tidegate."""
    return name.split(".", 1)[0] in _OWN


def valid_outside(name: str) -> bool:
    """Whether `name` is a subject that services may be sent something on: plain, and none that Tidegate reads."""
    return _OUTSIDE.fullmatch(name) is not None and not is_own(name)


def shard_from(subject: str) -> int:
    """The shard in `log.event.<shard>` or `log.dead.<shard>`."""
    return int(subject.rsplit(".", 1)[1])


def shard_of(correlation_id: str, shards: int) -> int:
    """The shard (0 <= shard < shards) of all records with this correlation id: CRC-32 of its UTF-8 bytes, modulo."""
    return zlib.crc32(correlation_id.encode("utf-8", "surrogatepass")) % shards


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class SubjectDeclaration(_Table, frozen=True):
    """One kind of subject in a stream."""

    pattern: str
    """Tokens; a variable one is in angle brackets: `ingest.<source>.<partition>`."""
    owner: str
    """The process that writes it."""
    schema: str
    """The shape of its records: a name in `subjects/schema/`."""
    description: str


class StreamDeclaration(_Table, frozen=True):
    """One JetStream stream."""

    name: str
    description: str
    subjects: Annotated[list[str], Meta(min_length=1)]
    subject: list[SubjectDeclaration]
    partitions: Annotated[int, Meta(ge=1, le=256)]
    """How many partitions or shards its subjects have."""
    storage: Literal["file", "memory"] = "file"
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    max_age_seconds: Annotated[int, Meta(ge=0)] = 0
    """0: kept for ever."""
    max_bytes: int = -1
    max_message_bytes: int = -1
    duplicate_window_seconds: Annotated[int, Meta(ge=1)] = 120
    discard: Literal["old", "new"] = "old"
    allow_atomic: bool = False
    allow_rollup: bool = False
    allow_ttl: bool = False
    """Whether a message may have a lifetime of its own, an endless one included."""
    spread_plain: bool = False
    """Whether plain `<prefix>.<source>` publishes are taken too and given a partition."""


class Declarations(Struct, frozen=True, kw_only=True):
    """All declared streams."""

    streams: dict[str, StreamDeclaration]

    @property
    def partitions(self) -> int:
        """Partitions of the ingest stream."""
        return self.streams[INGEST].partitions

    @property
    def shards(self) -> int:
        """Shards of the log."""
        return self.streams[LOG].partitions


class _File(_Table, frozen=True):
    stream: StreamDeclaration


def load_declarations(folder: Path) -> Declarations:
    """All `*.toml` in `folder`, one stream each. Raises ConfigError with file and line."""
    paths = sorted(folder.glob("*.toml"))
    streams: dict[str, StreamDeclaration] = {}
    for path in paths:
        declared = tomlfile.load(path, _File).stream
        if declared.name in streams:
            raise ConfigError(str(path), f"stream {declared.name} is declared twice")
        streams[declared.name] = declared
    for name in (COMMAND, INGEST, LOG):
        if name not in streams:
            raise ConfigError(str(folder), f"no file here declares the stream {name}")
    if streams[COMMAND].partitions != streams[LOG].partitions:
        raise ConfigError(str(folder), f"{COMMAND} and {LOG} must have the same number of partitions: entities' shards")
    return Declarations(streams=streams)
