r"""CEF (ArcSight Common Event Format): a header of seven parts and an extension of key=value pairs.

Facts: `|` and `\` are escaped in the header, `=` and `\` in the extension, where `\n` and `\r` are line ends. A key has
no spaces, a value may have. A value cs1 whose meaning is in cs1Label is named by that label here, under `custom`.
"""

from __future__ import annotations

import re
from typing import Any

from tidegate.pipeline.lines.base import claim, refuse
from tidegate.pipeline.lines.syslog import split_header
from tidegate.pipeline.lines.times import first_time

__all__ = ["extension", "parse_cef"]

_HEADER = ("deviceVendor", "deviceProduct", "deviceVersion", "deviceEventClassId", "name", "severity")
_TIMES = ("rt", "end", "start", "deviceReceiptTime")
_PART = re.compile(r"([^|\\]*+(?:\\.[^|\\]*+)*+)(\||$)", re.DOTALL)
_KEY = re.compile(r"(?<!\S)([A-Za-z0-9_][A-Za-z0-9_.\[\]-]*+)=")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MEANT = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "=": "=", "|": "|"}


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _MEANT.get(match[1], match[0]), text) if "\\" in text else text


def extension(text: str) -> dict[str, Any]:
    """The pairs of an extension; of a key that comes again the last value counts, the others are under `repeated`."""
    found: dict[str, Any] = {}
    repeated: list[str] = []
    key, start = "", 0
    for match in _KEY.finditer(text):
        if key:
            _put(found, key, text[start : match.start()], repeated)
        elif text[: match.start()].strip():
            found["text"] = text[: match.start()].strip()
        key, start = match[1], match.end()
    if key:
        _put(found, key, text[start:], repeated)
    elif text.strip():
        found["text"] = text.strip()
    if repeated:
        claim(found, "repeated", repeated)
    return found


def _put(found: dict[str, Any], key: str, value: str, repeated: list[str]) -> None:
    if key in found:
        repeated.append(f"{key}={found[key]}")
    found[key] = _unescape(value.rstrip())


def _rename(record: dict[str, Any]) -> None:
    """Moves each value with a label to `custom`, under that label."""
    custom: dict[str, str] = {}
    for key in [key for key in record if key.endswith("Label") and key[:-5] in record]:
        label = record[key]
        if label and label not in custom:
            custom[label] = record.pop(key[:-5])
            del record[key]
    if custom:
        claim(record, "custom", custom)


def parse_cef(text: str, received_ms: int) -> dict[str, Any]:
    """Header and extension under the names of CEF, custom values under `custom`, a syslog header under `syslog`.

    `time` is the first of rt, end and start that is a time.
    """
    at = text.find("CEF:")
    if at < 0:
        raise refuse("cef", "there is no CEF: in the line")
    place = at + 4
    parts: list[str] = []
    while len(parts) < 7 and (part := _PART.match(text, place)) is not None:
        parts.append(_unescape(part[1]).strip())
        place = part.end()
        if not part[2]:
            break
    if len(parts) < 7:
        raise refuse("cef", f"a CEF header has 7 parts and |, this one has {len(parts)}")
    record = extension(text[place:])
    for name, value in zip(_HEADER, parts[1:], strict=True):
        if value:
            claim(record, name, value)
    _rename(record)
    if parts[0] not in ("0", "1"):
        claim(record, "cefVersion", parts[0])
    time = first_time([record.get(key) for key in _TIMES], received_ms)
    if time is not None:
        claim(record, "time", time)
    header, _ = split_header(text[:at], received_ms)
    if header:
        claim(record, "syslog", header)
    return record
