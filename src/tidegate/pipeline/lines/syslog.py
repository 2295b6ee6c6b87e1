"""Syslog: the headers of RFC 3164 and RFC 5424, and lines that are a header and a message.

Year and zone: RFC 3164 gives neither. The time counts as UTC, in the latest year in which its day is at most one day
after the day of reception: a line of 31 December read on 1 January is of the old year, and a sender up to a day ahead
is believed. Leap days go to the last leap year.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

__all__ = ["FACILITIES", "parse_syslog", "priority", "split_header", "structured_data"]

_FACILITIES = (
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock "
    "local0 local1 local2 local3 local4 local5 local6 local7"
)
FACILITIES = _FACILITIES.split()

# Before it, senders over TCP write the length of the message (RFC 6587).
_PRI = re.compile(r"(?:[0-9]{1,6} )?<([0-9]{1,3})>")
_NAMES = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
_MONTHS = {name: number for number, name in enumerate(_NAMES.split(), 1)}
_CLOCK = r"[0-2][0-9]:[0-5][0-9]:[0-6][0-9](?:[.,][0-9]{1,9})?"
# `Oct 11 22:14:15`, with the year as Cisco writes it before or after the clock, and a zone that it may name.
_BSD = re.compile(
    rf"[*.]?({'|'.join(_MONTHS)}) {{1,2}}([0-9]{{1,2}}) ([12][0-9]{{3}} )?({_CLOCK})( [12][0-9]{{3}})?"
    r"(?: (?:UTC|GMT))?(?::(?= )| |$) *+"
)
_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)"
    r"(?: |$) *+"
)
# A host has none of the signs that tell a tag (`sshd[7]:`), a value (`date=`) or a list (`1,2012/04/09`).
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.:/-]{0,254}+)(?<!:) +")
_TAG = re.compile(
    r"([^\s:\[\]=|,<>]{1,128}+)(?:\[([^\]\s]{0,64}+)\])?: ?|([^\s:\[\]=|,<>]{1,128}+)\[([^\]\s]{0,64}+)\] "
)
_HEADER_5424 = re.compile(r"1 (-|[0-9]{4}-\S{1,40}+) (\S{1,255}+) (\S{1,128}+) (\S{1,128}+) (\S{1,64}+) ")
_ELEMENT = re.compile(r"\[([^\s\]=\"]{1,128}+)")
_PARAMETER = re.compile(r' +([^\s\]="]{1,128}+)="([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\\]])')


def priority(number: int) -> dict[str, Any]:
    """Facility by name and severity by number (0 emergency .. 7 debug) of a PRI value; of none above 191."""
    if not 0 <= number <= 191:
        return {}
    return {"priority": number, "facility": FACILITIES[number >> 3], "severity": number & 7}


def split_header(text: str, received_ms: int) -> tuple[dict[str, Any], str]:
    """What the header says, as far as there is one (the tag of RFC 3164 is not of it), and the rest."""
    header: dict[str, Any] = {}
    at = 0
    if (pri := _PRI.match(text)) is not None:
        header = priority(int(pri[1]))
        if header:
            at = pri.end()
            if text.startswith("1 ", at) and (found := _HEADER_5424.match(text, at)) is not None:
                return _rfc5424(header, found, text)
            # Cisco devices put a colon, others a space, before the time.
            while text[at : at + 1] in (":", " "):
                at += 1
    if (found := _BSD.match(text, at)) is not None:
        day = _date(found[1], int(found[2]), (found[3] or found[5] or "").strip(), received_ms // 86_400_000)
        if day is not None:
            header["time"] = f"{day}T{found[4].replace(',', '.')}"
            at = found.end()
    elif (found := _ISO.match(text, at)) is not None:
        header["time"] = found[1]
        at = found.end()
    if "time" in header and (found := _HOST.match(text, at)) is not None:
        header["host"] = found[1]
        at = found.end()
    return header, text[at:]


@lru_cache(maxsize=4096)
def _date(month: str, day: int, year: str, received_day: int) -> str | None:
    """The ISO date of a day, in the given or the inferred year; None where there is no such day."""
    try:
        if year:
            return date(int(year), _MONTHS[month], day).isoformat()
        last = date(1970, 1, 1) + timedelta(days=received_day + 1)
    except (ValueError, OverflowError):
        return None
    for each in range(last.year, last.year - 9, -1):
        try:
            found = date(each, _MONTHS[month], day)
        except ValueError:
            continue
        if found <= last:
            return found.isoformat()
    return None


def _rfc5424(header: dict[str, Any], found: re.Match[str], text: str) -> tuple[dict[str, Any], str]:
    names = ("time", "host", "app", "pid", "msgid")
    header |= {name: value for name, value in zip(names, found.groups(), strict=True) if value != "-"}
    data, at = structured_data(text, found.end())
    if data:
        header["data"] = data
    return header, text[at:].removeprefix(" ").removeprefix("\ufeff")


def structured_data(text: str, at: int) -> tuple[dict[str, dict[str, str]], int]:
    """The elements of RFC 5424 at `at`, by id, and where they end; what is no element is left to the message."""
    elements: dict[str, dict[str, str]] = {}
    if text.startswith("-", at):
        return elements, at + 1
    while (element := _ELEMENT.match(text, at)) is not None:
        values: dict[str, str] = {}
        end = element.end()
        while (pair := _PARAMETER.match(text, end)) is not None:
            values[pair[1]] = _ESCAPE.sub(r"\1", pair[2]) if "\\" in pair[2] else pair[2]
            end = pair.end()
        if not text.startswith("]", end):
            break
        elements.setdefault(element[1], {}).update(values)
        at = end + 1
    return elements, at


def parse_syslog(text: str, received_ms: int) -> dict[str, Any]:
    """`syslog` (the header, with `app` and `pid` from the tag) and `message`.

    A line without header is all message, as RFC 3164 (4.3.3) has it.
    """
    header, rest = split_header(text, received_ms)
    if "app" not in header and (tag := _TAG.match(rest)) is not None:
        header["app"] = tag[1] or tag[3]
        pid = tag[2] or tag[4]
        if pid:
            header["pid"] = pid
        rest = rest[tag.end() :]
    record: dict[str, Any] = {"message": rest.strip()}
    if header:
        record["syslog"] = header
    return record
