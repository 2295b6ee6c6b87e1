r"""Zeek's TSV logs, whose header lines say separator, path, names and types; records as in Zeek's JSON logs.

Facts (Zeek 2 to 7, ASCII writer): an unset field is `-` and absent in JSON, an empty set, vector or string `(empty)`;
separators and signs that cannot be printed are written as \xHH. Header lines hold for the lines after them in a frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

from tidegate.pipeline.lines.base import Assembled, Gathered, refuse

__all__ = ["Header", "gather_zeek", "is_header"]

_ESCAPES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+|\\\\")
_NUMBER = re.compile(r"-?[0-9]{1,20}")
_REAL = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")


def is_header(line: str) -> bool:
    """Whether the line says how the others are to be read, or that the log ends, rather than being a record."""
    return line.startswith("#")


def _decode(match: re.Match[str]) -> str:
    text = match[0]
    if text == "\\\\":
        return "\\"
    try:
        return bytes.fromhex(text.replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return text


def _string(text: str) -> str:
    return _ESCAPES.sub(_decode, text) if "\\" in text else text


def _count(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:50]!r} is no whole number")
    return int(text)


def _real(text: str) -> float:
    if _REAL.fullmatch(text) is None:
        raise ValueError(f"{text[:50]!r} is no number")
    return float(text)


def _bool(text: str) -> bool:
    if text not in ("T", "F"):
        raise ValueError(f"{text[:50]!r} is neither T nor F")
    return text == "T"


_TYPES: dict[str, Callable[[str], Any]] = {
    "bool": _bool,
    "count": _count,
    "double": _real,
    "int": _count,
    "interval": _real,
    "port": _count,
    "time": _real,
}


class Header:
    """What the header lines up to here say."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._separator = "\t"
        self._set_separator = ","
        self._unset = "-"
        self._empty = "(empty)"
        self._path = ""
        self._fields: list[str] = []
        self._types: list[str] = []
        self._readers: list[tuple[str, Callable[[str], Any], bool]] = []

    @property
    def places(self) -> list[int]:
        """Where in the frame the lines are."""
        return sorted(self._places.values())

    def with_line(self, line: str, place: int) -> Header:
        """The header with one more line; a `#separator` begins a new one, a `#close` says nothing."""
        if line.startswith("#separator"):
            new = Header()
            new._separator = _string(line[len("#separator") :].strip(" ")) or "\t"
            new._places["#separator"] = place
            return new
        name, _, value = line.partition(self._separator)
        new = copy(self)
        match name:
            case "#set_separator":
                new._set_separator = _string(value) or ","
            case "#empty_field":
                new._empty = value
            case "#unset_field":
                new._unset = value
            case "#path":
                new._path = _string(value)
            case "#fields":
                new._fields = value.split(self._separator)
                new._set_readers()
            case "#types":
                new._types = value.split(self._separator)
                new._set_readers()
            case _:
                return self
        new._places = {**self._places, name: place}
        return new

    def _set_readers(self) -> None:
        self._readers = [
            (field, self._reader(kind), _is_list(kind)) for field, kind in zip(self._fields, self._types, strict=False)
        ]

    def _reader(self, kind: str) -> Callable[[str], Any]:
        inner = kind.partition("[")[2].rstrip("]") if _is_list(kind) else kind
        return _TYPES.get(inner, _string)

    def record(self, line: str) -> dict[str, Any]:
        """The record that Zeek's JSON writer would write for this line; raises RecordError."""
        if not self._readers or len(self._readers) != len(self._fields):
            raise refuse(
                "zeek.header",
                "no #fields and #types lines come before this line in its frame; `tidegate publish` repeats them",
            )
        values = line.split(self._separator)
        if len(values) != len(self._readers):
            raise refuse("zeek.fields", f"the header names {len(self._readers)} fields, the line has {len(values)}")
        found: dict[str, Any] = {"_path": self._path} if self._path else {}
        unset, empty = self._unset, self._empty
        for (field, reader, is_list), value in zip(self._readers, values, strict=True):
            if value == unset:
                continue
            try:
                if is_list:
                    items = [] if value == empty else value.split(self._set_separator)
                    found[field] = [None if item == unset else reader(item) for item in items]
                else:
                    found[field] = "" if value == empty else reader(value)
            except ValueError as error:
                raise refuse("zeek.fields", f"{field}: {error}") from error
        return found


def _is_list(kind: str) -> bool:
    return kind.startswith(("set[", "vector[", "table["))


def gather_zeek(lines: Sequence[str | None], received_ms: int) -> list[Gathered]:
    """Each line with the header lines before it."""
    header = Header()
    places: list[int] = []
    found: list[Gathered] = []
    for place, line in enumerate(lines):
        if line is None:
            found.append(None)
        elif is_header(line):
            header = header.with_line(line, place)
            places = header.places
            found.append("header")
        else:
            found.append(Assembled(partial(header.record, line), places))
    return found
