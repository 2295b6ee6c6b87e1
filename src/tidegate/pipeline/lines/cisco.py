"""Cisco ASA, FTD and PIX: `%ASA-6-302013: text`, after a header of syslog or of the device's own kind."""

from __future__ import annotations

import re
from typing import Any

from tidegate.pipeline.lines.base import refuse
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["parse_cisco"]

_MARK = re.compile(r"%(ASA|FTD|PIX)-(?:[A-Za-z0-9_]{1,32}-)?([0-7])-([0-9]{6}): *+")


def parse_cisco(text: str, received_ms: int) -> dict[str, Any]:
    """`device` (ASA, FTD or PIX), `level` (0 .. 7), `message_id`, `message`, and the header under `syslog`."""
    mark = _MARK.search(text)
    if mark is None:
        raise refuse("cisco", "there is no %ASA-level-number: (nor %FTD, %PIX) in the line")
    record: dict[str, Any] = {
        "device": mark[1],
        "level": int(mark[2]),
        "message_id": mark[3],
        "message": text[mark.end() :].strip(),
    }
    # `timestamp : %ASA`, `timestamp host : %ASA` and `timestamp host %ASA` all occur.
    header, _ = split_header(text[: mark.start()].rstrip(": ") + " ", received_ms)
    if header:
        record["syslog"] = header
    return record
