"""LEEF 1.0 and 2.0 (IBM QRadar): a header of five parts and attributes, one tab or the header's own sign apart.

Facts: 2.0 has a sixth part, the delimiter: one character, or its code as x09 or 0x09; senders leave it out. Values are
not escaped. Senders that put spaces instead of tabs are read like the extension of CEF.
"""

from __future__ import annotations

import re
from typing import Any

from tidegate.pipeline.lines.base import claim, refuse
from tidegate.pipeline.lines.cef import extension
from tidegate.pipeline.lines.syslog import split_header
from tidegate.pipeline.lines.times import first_time

__all__ = ["parse_leef"]

_HEADER = ("vendor", "product", "version", "event_id")
_CODE = re.compile(r"(?:0?[xX]|\\x)([0-9a-fA-F]{1,4})")


def _delimiter(text: str) -> str | None:
    """The delimiter that the sixth part of a 2.0 header names; None where it is no delimiter."""
    if not text:
        return "\t"
    if len(text) == 1:
        return text
    code = _CODE.fullmatch(text)
    return chr(int(code[1], 16)) if code and int(code[1], 16) else "\t" if text == "\\t" else None


def _attributes(text: str, delimiter: str) -> dict[str, Any]:
    if delimiter == "\t" and "\t" not in text:
        return extension(text)
    found: dict[str, Any] = {}
    repeated: list[str] = []
    loose: list[str] = []
    for part in text.split(delimiter):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            loose += [part] if part.strip() else []
        elif key in found:
            repeated.append(part)
        else:
            found[key] = value.strip()
    if repeated:
        claim(found, "repeated", repeated)
    if loose:
        claim(found, "text", delimiter.join(loose))
    return found


def parse_leef(text: str, received_ms: int) -> dict[str, Any]:
    """Header (`vendor`, `product`, `version`, `event_id`) under `leef`, attributes by name, `time`, and `syslog`."""
    at = text.find("LEEF:")
    if at < 0:
        raise refuse("leef", "there is no LEEF: in the line")
    parts = text[at + 5 :].split("|", 5)
    if len(parts) < 5 or parts[0] not in ("1", "1.0", "2", "2.0"):
        raise refuse("leef", "a LEEF header is LEEF:1.0|vendor|product|version|event id| or LEEF:2.0|...")
    rest = parts[5] if len(parts) > 5 else ""
    delimiter = "\t"
    if parts[0][0] == "2":
        sixth, bar, after = rest.partition("|")
        named = _delimiter(sixth) if bar else None
        if named is not None:
            delimiter, rest = named, after
    record = _attributes(rest, delimiter)
    head = {name: value.strip() for name, value in zip(_HEADER, parts[1:5], strict=True) if value.strip()}
    claim(record, "leef", head)
    time = first_time([record.get("devTime")], received_ms)
    if time is not None:
        claim(record, "time", time)
    header, _ = split_header(text[:at], received_ms)
    if header:
        claim(record, "syslog", header)
    return record
