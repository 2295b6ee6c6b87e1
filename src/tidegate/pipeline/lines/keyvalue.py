"""key=value pairs, quoted or not, as FortiGate and many others write them; `pairs` serves other formats, too.

Facts: FortiOS quotes text with `"` and escapes quotes and backslashes in it with a backslash; other values are bare.
"""

from __future__ import annotations

import re
from typing import Any

from tidegate.pipeline.functions import to_ms
from tidegate.pipeline.lines.base import claim, refuse
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["pairs", "parse_keyvalue", "tokens"]

# Each match takes a whole token, be it a pair or not, so that no place is looked at twice.
_TOKEN = re.compile(
    r"""([^\s="']++)=(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|'([^']*+)'|(\S*+))|(\S++)""",
    re.DOTALL,
)
tokens = _TOKEN.findall
"""The tokens of a text: (key, value in ", value in ', bare value, word that is no pair)."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ZONE = re.compile(r"[+-][0-9]{2}:?[0-9]{2}")
_ESCAPE = re.compile(r"""\\(["\\'])""")


def pairs(text: str) -> dict[str, Any]:
    """The pairs in `text`. Words after a bare value belong to it; of a key that comes again, the later pairs are
    listed under `repeated`, and words that belong to no value are under `text`.
    """
    found: dict[str, Any] = {}
    repeated: list[str] = []
    loose: list[str] = []
    key = ""
    words: list[str] = []
    for name, quoted, single, bare, word in tokens(text):
        if name:
            if words:
                found[key] = " ".join([found[key], *words])
                words = []
            key = ""
            if name in found:
                repeated.append(f"{name}={quoted or single or bare}")
            elif quoted:
                found[name] = _ESCAPE.sub(r"\1", quoted) if "\\" in quoted else quoted
            elif bare:
                found[name] = bare
                key = name
            else:
                found[name] = single
        elif key:
            words.append(word)
        else:
            loose.append(word)
    if words:
        found[key] = " ".join([found[key], *words])
    if repeated:
        claim(found, "repeated", repeated)
    if loose:
        claim(found, "text", " ".join(loose))
    return found


def parse_keyvalue(text: str, received_ms: int) -> dict[str, Any]:
    """The pairs of a line, `date`, `time` and `tz` together as `timestamp`, and the syslog header under `syslog`."""
    header, rest = split_header(text, received_ms)
    record = pairs(rest)
    if not record or record.keys() <= {"text", "repeated"}:
        raise refuse("keyvalue", "there is no key=value pair in the line")
    if "eventtime" not in record and "time" in record and _DATE.fullmatch(str(record.get("date", ""))):
        zone = str(record.get("tz", ""))
        moment = f"{record['date']}T{record['time']}{zone if _ZONE.fullmatch(zone) else ''}"
        if to_ms(moment) is not None:
            del record["date"], record["time"]
            claim(record, "timestamp", moment)
    if header:
        claim(record, "syslog", header)
    return record
