"""AWS VPC flow logs: values with spaces between, named by a header line or, without one, by the default format.

Facts: flow log files in S3 begin with a header; records from CloudWatch Logs have none. The default format is version
2 with 14 fields; `-` stands for no value (NODATA, SKIPDATA). Names are written with `_` here, as in Parquet files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tidegate.pipeline.lines.base import Assembled, Gathered, refuse

__all__ = ["DEFAULT_FIELDS", "gather_vpcflow", "is_header"]

_DEFAULT = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
)
_LATER = (
    "vpc-id subnet-id instance-id tcp-flags type pkt-srcaddr pkt-dstaddr region az-id sublocation-type sublocation-id "
    "pkt-src-aws-service pkt-dst-aws-service flow-direction traffic-path ecs-cluster-arn ecs-cluster-name "
    "ecs-container-instance-arn ecs-container-instance-id ecs-container-id ecs-second-container-id ecs-service-name "
    "ecs-task-definition-arn ecs-task-arn ecs-task-id reject-reason resource-id encryption-status"
)
DEFAULT_FIELDS = _DEFAULT.split()
_KNOWN = {*DEFAULT_FIELDS, *_LATER.split()}
_NUMBERS = frozenset(("version", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end", "tcp_flags"))


def is_header(line: str) -> bool:
    """Whether the line names fields."""
    names = line.split(None, 1)
    return bool(names) and names[0] in _KNOWN and all(name in _KNOWN for name in line.split())


def _record(fields: Sequence[str], line: str) -> dict[str, Any]:
    values = line.split()
    if len(values) != len(fields):
        named = "the header names" if fields is not DEFAULT_FIELDS else "without a header line there are"
        raise refuse("aws_vpcflow.fields", f"{named} {len(fields)} fields, the line has {len(values)}")
    found: dict[str, Any] = {}
    for field, value in zip(fields, values, strict=True):
        if value != "-":
            name = field.replace("-", "_")
            number = name in _NUMBERS and value.isdecimal() and value.isascii() and len(value) < 19
            found[name] = int(value) if number else value
    return found


def gather_vpcflow(lines: Sequence[str | None], received_ms: int) -> list[Gathered]:
    """Each line by the names of the header line before it."""
    fields: list[str] = DEFAULT_FIELDS
    places: list[int] = []
    found: list[Gathered] = []
    for place, line in enumerate(lines):
        if line is None:
            found.append(None)
        elif is_header(line):
            fields, places = line.split(), [place]
            found.append("header")
        else:
            found.append(Assembled(partial(_record, fields, line), places))
    return found
