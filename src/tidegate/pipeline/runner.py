"""Runs frames through the rules: bytes of native records in, encoded OCSF events and dead letters by shard out.

Invariant: each record of a frame ends as exactly one line or one dead letter, whatever its bytes are, and running the
same frame again gives the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import msgspec
from msgspec import Struct

from tidegate.errors import ConfigError, RecordError
from tidegate.event import DeadLetter
from tidegate.ocsf import OcsfEvent
from tidegate.pipeline.compiler import Known, Mapper, compile_source
from tidegate.pipeline.fallback import (
    ENVELOPE_KEYS,
    apply_envelope,
    as_base,
    as_record,
    envelope_time,
    open_envelope,
    unknown_source,
    widen,
)
from tidegate.pipeline.habits import Habit
from tidegate.pipeline.passthrough import PassThrough
from tidegate.pipeline.rules import load_source
from tidegate.subject import shard_of

__all__ = ["Outcome", "Pipeline", "RawFrame", "record_id"]

Codec = Literal["json", "msgpack", "text"]

_CONTENT_TYPES = {"json": "application/json", "msgpack": "application/msgpack", "text": "text/plain"}
_LINE_BYTES = 8192
_MOST_UNKNOWN = 1024
_SUFFIXES = tuple(f"{number:03x}" for number in range(4096))

# What decoding, mapping and encoding can raise on hostile content; anything else is a fault of ours and must be seen.
_CONTENT_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecordError,
    RecursionError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
)


class RawFrame(Struct, frozen=True, kw_only=True):
    """The records of one message, split and inflated."""

    source: str
    """The source in the subject."""
    codec: Codec
    records: list[bytes]
    received_ms: int
    origin: str
    """`<stream>/<sequence>`: ids of events and dead letters are made from it."""
    attempts: int = 1
    trace: str = ""


class Outcome:
    """What became of the records of one or more frames, by shard."""

    __slots__ = ("dead", "filtered", "lines", "records")

    def __init__(self, shards: int) -> None:
        self.lines: list[list[bytes]] = [[] for _ in range(shards)]
        """Encoded events, without line ends."""
        self.dead: list[list[DeadLetter]] = [[] for _ in range(shards)]
        self.filtered: dict[str, int] = {}
        """Rule -> how many events it has dropped."""
        self.records = 0


class Pipeline:
    """The rules of all sources, ready to run; one Pipeline may serve any number of frames, one at a time."""

    def __init__(self, sources: Iterable[Known], shards: int) -> None:
        self._sources: dict[str, Known] = {name: source for source in sources for name in source.names}
        self._habits = {source.name: Habit(source) for source in self._sources.values()}
        self._unknowns: dict[str, Mapper] = {}
        self._shards = shards
        self._encode = msgspec.json.Encoder().encode_into
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            "json": msgspec.json.Decoder().decode,
            "msgpack": msgspec.msgpack.Decoder().decode,
            "text": lambda raw: str(raw, "utf-8"),
        }

    @classmethod
    def load(cls, shards: int, rules_path: Path | None = None) -> Pipeline:
        """The shipped sources, and those of the folder `rules_path`, which win where a name is the same.

        Raises RuleError with file and line for a rule that cannot be compiled.
        """
        shipped = resources.files("tidegate.pipeline") / "sources"
        with resources.as_file(shipped) as folder:
            sources: list[Known] = [compile_source(load_source(path), path) for path in sorted(folder.glob("*.toml"))]
        sources.append(PassThrough())
        if rules_path is not None:
            if not rules_path.is_dir():
                raise ConfigError(str(rules_path), "is not a folder with rule files")
            sources += [compile_source(load_source(path), path) for path in sorted(rules_path.glob("*.toml"))]
        return cls(sources, shards)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the known sources, aliases included."""
        return tuple(sorted(self._sources))

    def run(self, frame: RawFrame, into: Outcome) -> None:
        """Appends what becomes of each record of `frame` to `into`; never raises on content."""
        known = self._sources.get(frame.source)
        route = known.route if known else self._unknown(frame.source)
        codec = "json" if frame.codec == "text" and known else frame.codec
        habit = self._habits[known.name] if known and codec == "json" else None
        specials, fresh = (habit.specials, habit.fresh) if habit else (None, None)
        special = specials.default if specials else None
        by_first_key = specials.by_first_key if specials else None
        # Into a buffer that is large already: a quarter quicker than to let each line grow from nothing.
        decode, encode, buffer = self._decoders[codec], self._encode, bytearray(_LINE_BYTES)
        received_ms, shards = frame.received_ms, self._shards
        lines = into.lines
        into.records += len(frame.records)
        correlation: str | None
        event: Any
        for start in range(0, len(frame.records), len(_SUFFIXES)):
            head = _uid_head(received_ms, frame.origin, start // len(_SUFFIXES))
            for raw, suffix in zip(frame.records[start:], _SUFFIXES, strict=False):
                uid = head + suffix
                if by_first_key:
                    special = by_first_key.get(raw[2 : raw.find(b'"', 2)])
                if special is not None:
                    try:
                        native = special.decode(raw)
                        correlation, event = special.mappers[native.__class__](native, uid, received_ms, None)
                        if correlation is not None:
                            encode(event, buffer)
                            lines[crc32(str.encode(correlation)) % shards].append(bytes(buffer))
                            continue
                    except _CONTENT_ERRORS:
                        correlation = None  # The general way finds out what it is.
                stage = "parse"
                try:
                    record = decode(raw)
                    stage = "normalise"
                    if record.__class__ is not dict or ("data" in record and record.keys() <= ENVELOPE_KEYS):
                        event = self._unusual(decode, raw, known, frame.source, uid, received_ms)
                        correlation = event.metadata.correlation_uid
                    else:
                        correlation, event = route(record, uid, received_ms, None)
                        if correlation is None:
                            event = as_base(known, decode(raw), uid, received_ms, event)
                            correlation = event.metadata.correlation_uid
                        elif fresh is not None:
                            fresh.append(raw)
                    stage = "validate"
                    encode(event, buffer)
                    line = bytes(buffer)
                    shard = crc32(str.encode(correlation)) % shards
                except _CONTENT_ERRORS as error:
                    letter = _dead_letter(error, stage, codec, raw, frame, uid, start + int(suffix, 16))
                    into.dead[shard_of(uid, shards)].append(letter)
                else:
                    lines[shard].append(line)
        if habit is not None:
            habit.after(len(frame.records))

    def _unknown(self, source: str) -> Mapper:
        if source not in self._unknowns:
            if len(self._unknowns) >= _MOST_UNKNOWN:
                self._unknowns.clear()
            self._unknowns[source] = unknown_source(source)
        return self._unknowns[source]

    def _unusual(
        self,
        decode: Callable[[bytes], Any],
        raw: bytes,
        known: Known | None,
        source: str,
        uid: str,
        received_ms: int,
    ) -> OcsfEvent:
        """The event of an envelope, or of a value that is no object."""
        record = decode(raw)
        if record.__class__ is not dict:
            return self._map(lambda: decode(raw), known, source, uid, received_ms, None)
        envelope = open_envelope(record)
        if envelope.source is not None:
            source, known = envelope.source, self._sources.get(envelope.source)
        event = self._map(
            lambda: decode(raw)["data"], known, source, envelope.event_id or uid, received_ms, envelope_time(envelope)
        )
        return apply_envelope(event, envelope)

    def _map(
        self,
        fresh: Callable[[], Any],
        known: Known | None,
        source: str,
        uid: str,
        received_ms: int,
        when: int | None,
    ) -> OcsfEvent:
        """The event of the value that `fresh` decodes anew at each call, as mapping takes a value apart."""
        route = known.route if known else self._unknown(source)
        correlation, mapped = route(as_record(fresh(), known), uid, received_ms, when)
        if correlation is None:
            return as_base(known, as_record(fresh(), known), uid, received_ms, mapped, when)
        return widen(mapped)


def _uid_head(received_ms: int, origin: str, chunk: int) -> str:
    """All but the last three digits of the UUIDs (version 7) of a chunk of a frame."""
    time = f"{received_ms & 0xFFFFFFFFFFFF:012x}"
    digest = blake2b(f"{origin}/{chunk}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{time[:8]}-{time[8:]}-7{digest[:3]}-{'89ab'[int(digest[3], 16) & 3]}{digest[4:7]}-{digest[7:16]}"


def record_id(frame: RawFrame, index: int) -> str:
    """The id that the record at `index` of `frame` gets when it brings none of its own."""
    chunk, place = divmod(index, len(_SUFFIXES))
    return _uid_head(frame.received_ms, frame.origin, chunk) + _SUFFIXES[place]


def _dead_letter(
    error: Exception, stage: str, codec: str, raw: bytes, frame: RawFrame, uid: str, index: int
) -> DeadLetter:
    if isinstance(error, RecordError):
        stage, rule, problem = error.stage, error.rule, error.problem
    else:
        rule = {"parse": codec, "normalise": frame.source, "validate": "encode"}[stage]
        if isinstance(error, RecursionError):
            rule = "depth"
        elif isinstance(error, UnicodeError):
            rule = "utf8"
        problem = f"{error.__class__.__name__}: {error}"
    return DeadLetter(
        id=uid,
        source=frame.source,
        stage=stage,
        rule=rule,
        error=problem[:500].encode("utf-8", "replace").decode(),
        original=raw,
        content_type=_CONTENT_TYPES[frame.codec],
        attempts=frame.attempts,
        received_ms=frame.received_ms,
        origin=f"{frame.origin}#{index}",
        trace=frame.trace,
    )
