"""The text formats that a source can name as its `format`."""

from __future__ import annotations

from collections.abc import Callable

from tidegate.pipeline.lines.auditd import gather_auditd
from tidegate.pipeline.lines.base import Format
from tidegate.pipeline.lines.cef import parse_cef
from tidegate.pipeline.lines.cisco import parse_cisco
from tidegate.pipeline.lines.csvline import Columns, csv_parser
from tidegate.pipeline.lines.keyvalue import parse_keyvalue
from tidegate.pipeline.lines.leef import parse_leef
from tidegate.pipeline.lines.syslog import parse_syslog
from tidegate.pipeline.lines.vpcflow import gather_vpcflow
from tidegate.pipeline.lines.zeek import gather_zeek

__all__ = ["FORMATS"]

FORMATS: dict[str, Callable[[Columns | None], Format]] = {
    "auditd": lambda _: Format(gather=gather_auditd),
    "cef": lambda _: Format(parse=parse_cef),
    "cisco": lambda _: Format(parse=parse_cisco),
    "csv": lambda columns: Format(parse=csv_parser(columns)),
    "keyvalue": lambda _: Format(parse=parse_keyvalue),
    "leef": lambda _: Format(parse=parse_leef),
    "syslog": lambda _: Format(parse=parse_syslog),
    "vpcflow": lambda _: Format(gather=gather_vpcflow),
    "zeek": lambda _: Format(gather=gather_zeek),
}
"""Name -> what makes the format, given the columns of the source; `json` is not among them, as it is no text."""
