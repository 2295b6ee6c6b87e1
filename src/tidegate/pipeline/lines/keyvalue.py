"""key=value pairs, quoted or not, as FortiGate and many others write them; `pairs` serves other formats, too.

Facts: FortiOS quotes text with `"` and escapes quotes and backslashes in it with a backslash; other values are bare.
"""

from __future__ import annotations

import re
from typing import Any

from tidegate.pipeline.lines.base import claim, refuse
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["pairs", "parse_keyvalue"]

# Each match takes a whole token, be it a pair or not, so that no place is looked at twice.
_TOKEN = re.compile(
    r"""([^\s="']++)=(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|'([^']*+)'|(\S*+))|(\S++)""",
    re.DOTALL,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ZONE = re.compile(r"[+-][0-9]{2}:?[0-9]{2}")
_ESCAPE = re.compile(r"""\\(["\\'])""")


def pairs(text: str) -> dict[str, Any]:
    """The pairs in `text`. Words after a bare value belong to it; of a key that comes again, the later pairs are
    listed under `repeated`, and words before the first pair are under `text`.
    """
    found: dict[str, Any] = {}
    repeated: list[str] = []
    key, start = "", 0
    loose: list[str] = []
    for token in _TOKEN.finditer(text):
        name, quoted, single, bare, word = token.groups()
        if word is not None:
            if start:
                found[key] = ""  # The value ends later; it is cut out once, below.
            else:
                loose.append(word)
            continue
        if start:
            found[key] = text[start : token.start()].rstrip()
            start = 0
        if name in found:
            repeated.append(token[0])
        elif quoted is not None:
            found[name] = _ESCAPE.sub(r"\1", quoted) if "\\" in quoted else quoted
        elif single is not None:
            found[name] = single
        else:
            found[name] = bare
            key, start = name, token.start(4)
    if start:
        found[key] = text[start:].rstrip()
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
    if "date" in record and "time" in record and _DATE.fullmatch(str(record["date"])):
        zone = str(record.get("tz", ""))
        claim(record, "timestamp", f"{record['date']}T{record['time']}{zone if _ZONE.fullmatch(zone) else ''}")
    if header:
        claim(record, "syslog", header)
    return record
