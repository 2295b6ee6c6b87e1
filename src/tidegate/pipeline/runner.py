"""Runs frames through the rules: bytes of native records in, encoded OCSF events and dead letters by shard out.

Invariant: each record of a frame ends as exactly one line, one dead letter or one count under `filtered`, whatever its
bytes are, and running the same frame again gives the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, cast
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidegate.errors import RecordError
from tidegate.event import DeadLetter
from tidegate.frame import Destination
from tidegate.ocsf import OcsfEvent
from tidegate.pipeline.compiler import KnownSource, Mapper
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
from tidegate.pipeline.flow import CONTENT_ERRORS, Flow
from tidegate.pipeline.habits import Habit
from tidegate.pipeline.tenants import marked, signed
from tidegate.pipeline.text import Unit, original
from tidegate.subject import shard_of

__all__ = ["Outcome", "Pipeline", "RawFrame", "record_id"]

Codec = Literal["json", "msgpack", "text"]

_CONTENT_TYPES = {"json": "application/json", "msgpack": "application/msgpack", "text": "text/plain"}
_LINE_BYTES = 8192
_STAGED = 64
"""Events that go through the stages together: few, so that they are still in the processor's cache when encoded."""
_MOST_UNKNOWN = 1024
_SUFFIXES = tuple(f"{number:03x}" for number in range(4096))


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
    tenant: str = ""
    """Whose records these are; "": of no tenant in particular."""


class Outcome:
    """What became of the records of one or more frames, by shard."""

    __slots__ = ("dead", "filtered", "lines", "records", "routed")

    def __init__(self, shards: int) -> None:
        self.lines: list[list[bytes]] = [[] for _ in range(shards)]
        """Encoded events, without line ends; those that no stage has routed."""
        self.routed: dict[Destination, list[list[bytes]]] = {}
        """The others, likewise."""
        self.dead: list[list[DeadLetter]] = [[] for _ in range(shards)]
        self.filtered: dict[str, int] = {}
        """Rule -> how many events it has dropped."""
        self.records = 0

    @property
    def events(self) -> int:
        return sum(len(lines) for _, shards in self.groups() for lines in shards)

    def groups(self) -> list[tuple[Destination | None, list[list[bytes]]]]:
        """Events by where they go: to all read models and nowhere else (None), or as they were routed."""
        return [(None, self.lines), *self.routed.items()]

    def lines_for(self, destination: Destination | None) -> list[list[bytes]]:
        """Where to put the lines of events that go there."""
        if destination is None:
            return self.lines
        found = self.routed.get(destination)
        if found is None:
            found = self.routed[destination] = [[] for _ in self.lines]
        return found


class Pipeline:
    """The rules of all sources and the stages of all pipelines, ready to run.

    One Pipeline may serve any number of frames, one at a time.
    """

    def __init__(
        self, sources: Mapping[str, Callable[[], KnownSource]], shards: int, flows: Mapping[str, Flow] | None = None
    ) -> None:
        """`sources`: name or alias -> what compiles the source, which is asked when the first frame of it comes."""
        self._makers = dict(sources)
        self._sources: dict[str, KnownSource] = {}
        self._habits: dict[str, Habit] = {}
        self._unknowns: dict[str, Mapper] = {}
        self._flows = dict(flows or {})
        self._shards = shards
        self._encode = msgspec.json.Encoder().encode_into
        self._decoders: dict[str, Callable[[Any], Any]] = {
            "json": msgspec.json.Decoder().decode,
            "msgpack": msgspec.msgpack.Decoder().decode,
            "text": lambda raw: str(raw, "utf-8"),
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the known sources, aliases included."""
        return tuple(sorted(self._makers))

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The pipelines with stages."""
        return tuple({id(flow): flow for flow in self._flows.values()}.values())

    def flow(self, source: str) -> Flow | None:
        """The stages that events of `source` go through."""
        known = self._known(source)
        return self._flows.get(known.name if known else source) or self._flows.get("*")

    def _known(self, source: str) -> KnownSource | None:
        """The compiled rules of a source that has some."""
        known = self._sources.get(source)
        if known is None and source in self._makers:
            known = self._makers[source]()
            self._sources |= dict.fromkeys(known.names, known)
            self._habits[known.name] = Habit(known)
        return known

    def run(self, frame: RawFrame, into: Outcome) -> None:
        """Appends what becomes of each record of `frame` to `into`; never raises on content.

        Raises StageError where a stage has failed whose policy is to stop.
        """
        if not frame.tenant:
            self._map_frame(frame, into)
            return
        own = Outcome(self._shards)
        self._map_frame(frame, own)
        chunks = range(0, len(frame.records), len(_SUFFIXES))
        fresh = tuple(_uid_head(frame.received_ms, frame.origin, start // len(_SUFFIXES)) for start in chunks)
        marked(own.lines, frame.tenant, fresh, into.lines)
        signed(own.dead, frame.tenant, into.dead)
        for rule, count in own.filtered.items():
            into.filtered[rule] = into.filtered.get(rule, 0) + count
        into.records += own.records

    def _map_frame(self, frame: RawFrame, into: Outcome, collected: list[Any] | None = None) -> None:
        """Maps the records of `frame` and takes them through the stages, into lines.

        Where `collected` is given, the events are put there instead, as the first stage would get them.
        """
        known = self._known(frame.source)
        route = known.route if known else self._unknown(frame.source)
        flow = self.flow(frame.source)
        staged = flow is not None or collected is not None
        events: list[Any] = []
        uids: list[str] = []
        """Of `events`, as `record_id` makes them: they tell the records."""
        codec = "json" if frame.codec == "text" and known else frame.codec
        plan = (
            known.text.plan(frame.codec, frame.records, frame.received_ms, into.filtered)
            if known and known.text
            else None
        )
        habit = self._habits[known.name] if known and codec == "json" and (plan is None or plan.native) else None
        specials, fresh = (habit.specials, habit.fresh) if habit else (None, None)
        special = specials.default if specials else None
        by_first_key = specials.by_first_key if specials else None
        # Into a buffer that is large already: a quarter quicker than to let each line grow from nothing.
        encode, buffer = self._encode, bytearray(_LINE_BYTES)
        decode: Callable[[Any], Any] = plan.decode if plan else self._decoders[codec]
        units: Sequence[Unit] = plan.units if plan else frame.records
        received_ms, shards = frame.received_ms, self._shards
        lines = into.lines
        into.records += len(frame.records)
        correlation: str | None
        event: Any
        step = _STAGED if staged else len(_SUFFIXES)
        head = ""
        for start in range(0, len(frame.records), step):
            chunk, offset = divmod(start, len(_SUFFIXES))
            first = start - offset
            if not offset:
                head = _uid_head(received_ms, frame.origin, chunk)
            part = slice(start, start + step)
            for raw, unit, suffix in zip(
                frame.records[part], units[part], _SUFFIXES[offset : offset + step], strict=False
            ):
                uid = head + suffix
                if by_first_key:
                    special = by_first_key.get(raw[2 : raw.find(b'"', 2)])
                if special is not None:
                    try:
                        native = special.decode(raw)
                        correlation, event = special.mappers[native.__class__](native, uid, received_ms, None)
                        if correlation is not None:
                            if staged:
                                events.append(event)
                                uids.append(uid)
                            else:
                                encode(event, buffer)
                                lines[crc32(str.encode(correlation)) % shards].append(bytes(buffer))
                            continue
                    except CONTENT_ERRORS:
                        correlation = None  # The general way finds out what it is.
                if unit is None:
                    continue
                stage = "parse"
                try:
                    record = decode(unit)
                    stage = "normalise"
                    if record.__class__ is not dict or ("data" in record and record.keys() <= ENVELOPE_KEYS):
                        event = self._unusual(decode, unit, known, frame.source, uid, received_ms)
                        correlation = event.metadata.correlation_uid
                    else:
                        correlation, event = route(record, uid, received_ms, None)
                        if correlation is None:
                            event = as_base(known, decode(unit), uid, received_ms, event)
                            correlation = event.metadata.correlation_uid
                        elif fresh is not None and raw[:1] == b"{":
                            fresh.append(raw)
                    stage = "validate"
                    if staged:
                        events.append(event)
                        uids.append(uid)
                        continue
                    encode(event, buffer)
                    line = bytes(buffer)
                    shard = crc32(str.encode(correlation)) % shards
                except CONTENT_ERRORS as error:
                    kept = _kept(flow, error, stage, raw, frame, uid) if flow is not None else None
                    if kept is not None:
                        events.append(kept)
                        uids.append(uid)
                        continue
                    place = first + int(suffix, 16)
                    whole = original(unit, place, frame.records, frame.codec)
                    letter = _dead_letter(error, stage, codec, whole, frame, uid, place)
                    into.dead[shard_of(uid, shards)].append(letter)
                else:
                    lines[shard].append(line)
            if collected is not None:
                collected += events
            elif flow is not None:
                flow.bytes_in += sum(map(len, frame.records[part]))
                self._finish(flow, frame, units, first, events, uids, into)
            events, uids = [], []
        if habit is not None:
            habit.after(len(frame.records))

    def _finish(
        self,
        flow: Flow,
        frame: RawFrame,
        units: Sequence[Unit],
        first: int,
        events: list[Any],
        uids: list[str],
        into: Outcome,
    ) -> None:
        """Takes mapped events through the stages, and what is left of them into lines.

        `first`: the index in the frame from which the last three digits of `uids` count.
        """
        passage = flow.run(events)
        routes, lines = passage.routes, into.lines
        encode, buffer, shards = self._encode, bytearray(_LINE_BYTES), self._shards

        def bury(row: int, error: Exception, stage: str, codec: str) -> None:
            uid = uids[row]
            place = first + int(uid[-3:], 16)
            whole = original(units[place], place, frame.records, frame.codec)
            letter = _dead_letter(error, stage, codec, whole, frame, uid, place)
            into.dead[shard_of(uid, shards)].append(letter)

        for row in passage.rows:
            event = events[row]
            try:
                encode(event, buffer)
                shard = crc32(str.encode(event.metadata.correlation_uid)) % shards
            except CONTENT_ERRORS as error:
                bury(row, error, "validate", frame.codec)
            else:
                flow.bytes_out += len(buffer)
                to = into.lines_for(routes.get(row)) if routes else lines
                to[shard].append(bytes(buffer))
        for rule, count in passage.filtered.items():
            into.filtered[rule] = into.filtered.get(rule, 0) + count
        for failure in passage.failures:
            bury(failure.row, RecordError(failure.stage, failure.rule, failure.problem), failure.stage, "")

    def mapped(self, frame: RawFrame) -> list[Any]:
        """The events of those records of `frame` that come to the first stage, as mapping has made them."""
        events: list[Any] = []
        self._map_frame(frame, Outcome(1), events)
        return events

    def map_one(self, frame: RawFrame) -> Any:
        """The event of the only record of `frame` as its first stage gets it, or the text of why there is none."""
        events: list[Any] = []
        outcome = Outcome(1)
        flow = self.flow(frame.source)
        self._map_frame(frame, outcome, events)
        if not events and not outcome.dead[0]:
            return f"filtered: {next(iter(outcome.filtered), 'nothing')}"
        if not events:
            letter = outcome.dead[0][0]
            return f"{letter.stage}/{letter.rule}: {letter.error}"
        return events[0] if flow is None else flow.opened(events[0])

    def _unknown(self, source: str) -> Mapper:
        if source not in self._unknowns:
            if len(self._unknowns) >= _MOST_UNKNOWN:
                self._unknowns.clear()
            self._unknowns[source] = unknown_source(source)
        return self._unknowns[source]

    def _unusual(
        self,
        decode: Callable[[Any], Any],
        raw: Unit,
        known: KnownSource | None,
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
            source, known = envelope.source, self._known(envelope.source)
        event = self._map(
            lambda: decode(raw)["data"], known, source, envelope.event_id or uid, received_ms, envelope_time(envelope)
        )
        return apply_envelope(event, envelope)

    def _map(
        self,
        fresh: Callable[[], Any],
        known: KnownSource | None,
        source: str,
        uid: str,
        received_ms: int,
        when: int | None,
    ) -> OcsfEvent:
        """The event of the value that `fresh` decodes anew at each call, as mapping takes a value apart."""
        route = known.route if known else self._unknown(source)
        correlation, mapped = route(as_record(fresh(), known, received_ms), uid, received_ms, when)
        if correlation is None:
            return as_base(known, as_record(fresh(), known, received_ms), uid, received_ms, mapped, when)
        return widen(mapped)


def _kept(flow: Flow, error: Exception, stage: str, raw: bytes, frame: RawFrame, uid: str) -> OcsfEvent | None:
    """The Base Event of a record that cannot be mapped, where the pipeline has it go on nevertheless."""
    name = "deserialise" if stage == "parse" else "normalise"
    if flow.not_mapped(name, error) != "continue":
        return None
    try:
        message = str(raw, "utf-8")
    except UnicodeDecodeError:
        return None
    _, event = unknown_source(frame.source)({"message": message}, uid, frame.received_ms, None)
    return replace(cast("OcsfEvent", event), status_detail=str(error)[:500])


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
