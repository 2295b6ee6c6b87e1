"""Sources whose records are lines of text: from the bytes of a frame to native records for the rules.

A line may come as it is, as a JSON or msgpack string, or in the object of a shipper (Filebeat, Fluent Bit, Docker,
CloudWatch), under `event.original`, `message` or `log`; what else that object says is kept under `shipper`. An object
without such a text, or with fields of the source itself (one that selects the rules and a time), is a record that was
parsed before, and taken as it is; so is JSON in a line.

Invariant: a line that is not UTF-8 is not lost: its bytes that are none are written as \\xHH.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.errors import RecordError
from tidegate.pipeline.lines.base import Assembled, claim
from tidegate.pipeline.lines.formats import FORMATS
from tidegate.pipeline.lines.patterns import compile_patterns
from tidegate.pipeline.rules import Source

__all__ = ["Plan", "TextReader", "Unit", "original"]

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "json": msgspec.json.Decoder().decode,
    "msgpack": msgspec.msgpack.Decoder().decode,
}
_NO_VALUE = (msgspec.MsgspecError, RecursionError, UnicodeError)
_ENDS = "\r\n\0"


class _Assembled(Struct, frozen=True):
    """The event of a line that others of its frame belong to, or explain."""

    assembled: Assembled
    shipper: dict[str, Any] | None


Unit = bytes | _Assembled | None
"""What a record of a frame is decoded from; None where it became part of another, or is none."""


class Plan(Struct, frozen=True, kw_only=True):
    """How the records of a frame are decoded."""

    units: Sequence[Unit]
    """What `decode` takes, for each record."""
    decode: Callable[[Any], Any]
    """May be called again with the same unit; raises RecordError, and what decoding raises."""
    native: bool
    """Whether these are JSON objects that were parsed before, as far as the first one tells."""


class TextReader:
    """Reads the records of one source; made once from its rules."""

    def __init__(self, source: Source) -> None:
        self._name = source.source
        self._format = FORMATS[source.format](source.columns)
        self._patterns = compile_patterns(source.patterns) if source.patterns else None
        self._selecting = frozenset(_own(source, source.select))
        self._times = frozenset(_own(source, source.time.from_)) or self._selecting

    def plan(self, codec: str, records: Sequence[bytes], received_ms: int, filtered: dict[str, int]) -> Plan:
        """How the records of a frame are decoded; lines that are no event by themselves are counted in `filtered`."""

        def decode(unit: Any) -> Any:
            if unit.__class__ is _Assembled:
                return self._finish(unit.assembled.build(), unit.shipper)
            value = self._open(codec, unit)
            if value.__class__ is str or self._line_of(value) is not None:
                return self.record_of(value, received_ms)
            return value

        native = codec == "json" and self._is_native(records)
        if native or self._format.gather is None:
            return Plan(units=records, decode=decode, native=native)
        lines: list[str | None] = []
        shippers: list[dict[str, Any] | None] = []
        for raw in records:
            try:
                value = self._open(codec, raw)
            except _NO_VALUE:
                value = None
            line, shipper = (value, None) if value.__class__ is str else self._line_of(value) or (None, None)
            lines.append(line.strip(_ENDS) if line is not None and line[:1] != "{" else None)
            shippers.append(shipper)
        units: list[Unit] = []
        gathered = self._format.gather(lines, received_ms)
        for raw, shipper, found in zip(records, shippers, gathered, strict=True):
            if isinstance(found, str):
                rule = f"{self._name}.{found}"
                filtered[rule] = filtered.get(rule, 0) + 1
                units.append(None)
            else:
                units.append(raw if found is None else _Assembled(found, shipper))
        return Plan(units=units, decode=decode, native=False)

    def _is_native(self, records: Sequence[bytes]) -> bool:
        if not records or records[0][:1] != b"{":
            return False
        try:
            return self._line_of(_DECODERS["json"](records[0])) is None
        except _NO_VALUE:
            return False

    def record_of(self, value: Any, received_ms: int) -> dict[str, Any]:
        """The native record in a value that is a line, a shipper's object, or was parsed before; raises RecordError."""
        shipper: dict[str, Any] | None = None
        if value.__class__ is dict:
            found = self._line_of(value)
            if found is None:
                return dict(value)
            value, shipper = found
        if value.__class__ is not str:
            raise RecordError(
                "parse", f"{self._name}.line", f"a line of text or an object is needed, not {value.__class__.__name__}"
            )
        line = value.strip(_ENDS)
        if line[:1] == "{":
            # A shipper may have read JSON as lines of text.
            try:
                native = _DECODERS["json"](line.encode())
            except _NO_VALUE:
                native = None
            if native.__class__ is dict:
                return self._finish(native, shipper)
        if self._format.parse is not None:
            return self._finish(self._format.parse(line, received_ms), shipper)
        assert self._format.gather is not None
        (only,) = self._format.gather([line], received_ms)
        if not isinstance(only, Assembled):
            raise RecordError("parse", f"{self._name}.{only}", "the line is no event by itself")
        return self._finish(only.build(), shipper)

    def _open(self, codec: str, raw: bytes) -> Any:
        if codec == "msgpack":
            return _DECODERS[codec](raw)
        first = raw.lstrip()[:1]
        if first in (b"{", b'"', b"["):
            try:
                return _DECODERS["json"](raw)
            except _NO_VALUE:
                if codec == "json" and first == b"{":
                    raise
        return raw.decode("utf-8", "backslashreplace")

    def _line_of(self, value: Any) -> tuple[str, dict[str, Any]] | None:
        """The line in a shipper's object, and the rest of it; None where it is no such object."""
        if value.__class__ is not dict:
            return None
        if not (self._selecting.isdisjoint(value) or self._times.isdisjoint(value)):
            return None
        event = value.get("event")
        if event.__class__ is dict and event.get("original").__class__ is str:
            rest = {**value, "event": {key: each for key, each in event.items() if key != "original"}}
            if rest.get("message") == event["original"]:
                del rest["message"]
            return event["original"], {key: each for key, each in rest.items() if each != {}}
        for key in ("event.original", "message", "log"):
            if value.get(key).__class__ is str:
                return value[key], {name: each for name, each in value.items() if name != key}
        return None

    def _finish(self, record: dict[str, Any], shipper: dict[str, Any] | None) -> dict[str, Any]:
        if self._patterns is not None:
            self._patterns(record)
        if shipper:
            claim(record, "shipper", shipper)
        if "data" in record:
            # What a line says must never be taken for an envelope, which may name another source.
            claim(record, "format", self._name)
        return record


def _own(source: Source, fields: Sequence[str]) -> list[str]:
    """Those of `fields` that a record has at its top; a shipper may have others of the name."""
    return [field for field in fields if not source.nested or "." not in field]


def original(unit: Unit, index: int, records: Sequence[bytes], codec: str) -> bytes:
    """The bytes of the record at `index`, with those others of its frame without which it could not be read again."""
    if not isinstance(unit, _Assembled) or not unit.assembled.others:
        return records[index]
    parts = [records[each] for each in sorted({*unit.assembled.others, index})]
    if codec == "msgpack":
        return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(parts)
    return b"\n".join(parts)
