"""Synthetic frames of the log: a dozen realistic shapes of OCSF events, the same for the same arguments.

Invariant: nothing here depends on the clock or on the pipeline.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tidegate import frame
from tidegate.projection import Position, Recorded

__all__ = ["START_MS", "encode", "event_id", "events", "log", "odd_lines", "recorded", "start"]

START_MS = 1_750_000_000_000
"""2025-06-15T15:06:40Z: the time of the first event; the others follow 7 ms apart."""

Event = dict[str, Any]

_USERS = ["alice", "bob", "CORP\\svc-backup", "mallory@example.com", "root"]
_HOSTS = ["WS-0142.corp.example", "dc01.corp.example", "web-3", "bastion"]
_TYPES = {"ip": 2, "hostname": 1, "user.name": 4, "domain": 1, "path": 7, "value": 8}


def event_id(index: int, seed: int = 1) -> str:
    """The id of the event `index` that `events` makes with `seed`."""
    return f"{seed:08x}-0000-7000-8000-{index:012x}"


def _endpoint(pick: random.Random, *, inside: bool) -> Event:
    ip = f"10.20.{pick.randrange(4)}.{pick.randrange(250)}" if inside else f"203.0.113.{pick.randrange(250)}"
    return {"ip": ip, "port": pick.choice([22, 53, 80, 443, 445, 3389]) if not inside else pick.randrange(32768, 61000)}


def _flow(pick: random.Random) -> Event:
    return {"src_endpoint": _endpoint(pick, inside=True), "dst_endpoint": _endpoint(pick, inside=False)}


def _network(pick: random.Random) -> Event:
    return {
        **_flow(pick),
        "connection_info": {"protocol_name": "tcp", "direction_id": 2},
        "traffic": {"bytes_in": pick.randrange(10**6), "bytes_out": pick.randrange(10**5), "packets": 12},
    }


def _alert(pick: random.Random) -> Event:
    return {
        **_flow(pick),
        "finding_info": {
            "uid": f"2{pick.randrange(10**6):06}",
            "title": "ET SCAN Suspicious inbound to MSSQL port 1433",
        },
        "unmapped": {"flow_id": pick.randrange(2**50), "alert": {"gid": 1, "rev": 3}},
    }


def _dns(pick: random.Random) -> Event:
    return {
        **_flow(pick),
        "query": {"hostname": f"host{pick.randrange(40)}.example.org", "type": "A"},
        "answers": [{"rdata": "198.51.100.7", "ttl": 60}],
        "rcode": "NoError",
    }


def _http(pick: random.Random) -> Event:
    return {
        **_flow(pick),
        "http_request": {"http_method": "GET", "url": {"path": "/index.php?id=1", "hostname": "shop.example"}},
        "http_response": {"code": pick.choice([200, 302, 404])},
    }


def _tls(pick: random.Random) -> Event:
    return {**_flow(pick), "tls": {"version": "1.3", "sni": "api.example.com", "ja3_hash": {"value": "a" * 32}}}


def _actor(pick: random.Random) -> Event:
    return {"actor": {"user": {"name": pick.choice(_USERS)}}, "device": {"hostname": pick.choice(_HOSTS)}}


def _logon(pick: random.Random) -> Event:
    return {**_actor(pick), "user": {"name": "alice"}, "logon_type_id": 3, "src_endpoint": _endpoint(pick, inside=True)}


def _process(pick: random.Random) -> Event:
    process = {
        "pid": pick.randrange(9999),
        "cmd_line": "powershell.exe -nop -w hidden -enc SQBFAFgA",
        "name": "powershell.exe",
    }
    return {**_actor(pick), "process": process, "unmapped": {"RuleName": "-", "Keywords": "0x8000000000000000"}}


def _file(pick: random.Random) -> Event:
    name = f"~df{pick.randrange(9999)}.tmp"
    return {**_actor(pick), "file": {"name": name, "path": f"C:\\Windows\\Temp\\{name}", "type_id": 1}}


def _api(pick: random.Random) -> Event:
    return {
        **_actor(pick),
        "api": {"operation": "AssumeRole", "service": {"name": "sts.amazonaws.com"}},
        "cloud": {"provider": "AWS", "region": "eu-central-1", "account": {"uid": "123456789012"}},
        "src_endpoint": {"ip": f"198.51.100.{pick.randrange(250)}"},
    }


def _account(pick: random.Random) -> Event:
    return {**_actor(pick), "user": {"name": f"tmp{pick.randrange(50)}"}, "message": "A user account was created."}


def _base(pick: random.Random) -> Event:
    return {
        "message": "Zażółć gęślą jaźń \U0001f512",
        "unmapped": {"raw": {"list": [1, 2.5, None, True], "nested": {"a.b": 1}}},
    }


_SHAPES: list[tuple[int, int, int, str, Callable[[random.Random], Event]]] = [
    (4001, 6, 1, "zeek", _network),
    (2004, 1, 4, "suricata", _alert),
    (4003, 1, 1, "zeek", _dns),
    (4002, 3, 1, "suricata", _http),
    (4001, 1, 1, "suricata", _tls),
    (3002, 1, 2, "windows", _logon),
    (1007, 1, 1, "windows", _process),
    (1001, 1, 1, "windows", _file),
    (6003, 1, 1, "aws", _api),
    (3001, 1, 3, "windows", _account),
    (4001, 2, 1, "zeek", _network),
    (0, 0, 1, "other", _base),
]


def _observables(event: Event) -> list[Event]:
    found = []
    for name in (
        "src_endpoint.ip",
        "dst_endpoint.ip",
        "actor.user.name",
        "device.hostname",
        "query.hostname",
        "file.path",
    ):
        value: Any = event
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found.append({"name": name, "type_id": _TYPES[name.split(".", 1)[1]], "value": value})
    return found


def events(count: int, *, first: int = 0, seed: int = 1) -> list[Event]:
    """`count` events, numbered from `first`; about four of them share a correlation id."""
    made = []
    for index in range(first, first + count):
        pick = random.Random(seed * 1_000_003 + index)
        class_uid, activity_id, severity_id, source, shape = _SHAPES[index % len(_SHAPES)]
        event: Event = {
            "metadata": {
                "version": "1.8.0",
                "uid": event_id(index, seed),
                "correlation_uid": f"{source}:{seed}:{index // 48}-{index % 12}",
                "product": {"name": source, "vendor_name": "Example"},
                "log_source": source,
                "original_time": "2025-06-15T15:06:40.000Z",
            },
            "class_uid": class_uid,
            "category_uid": class_uid // 1000,
            "activity_id": activity_id,
            "type_uid": class_uid * 100 + activity_id,
            "severity_id": severity_id,
            "time": START_MS + 7 * index,
            **shape(pick),
        }
        if observables := _observables(event):
            event["observables"] = observables
        made.append(event)
    return made


def encode(event: Event) -> bytes:
    """An event as it stands on a line of a frame."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def recorded(sequence: int, lines: Sequence[bytes], *, shard: int = 0) -> Recorded:
    """`lines` as the frame at `sequence` of the log."""
    return Recorded(
        sequence=sequence,
        shard=shard,
        time_ms=START_MS + 1000 * sequence,
        count=len(lines),
        digest=frame.digest_of(lines),
        payload=frame.seal(lines),
    )


def log(count: int, per_frame: int, *, first_sequence: int = 5, shard: int = 0, seed: int = 1) -> list[Recorded]:
    """`count` frames of `per_frame` events; sequences have gaps, as other records stand in the log too."""
    return [
        recorded(
            first_sequence + 3 * index,
            [encode(event) for event in events(per_frame, first=index * per_frame, seed=seed)],
            shard=shard,
        )
        for index in range(count)
    ]


def start(stream: str = "LOG") -> Position:
    """Where a cell stands before the first frame: `start().after(frames)` is its first stored position."""
    return Position(stream=stream, created="2026-01-02T03:04:05.678901234Z", sequence=0)


def odd_lines(seed: int = 99) -> list[bytes]:
    """Valid events that stores tend to stumble over; each has the id `event_id(<its index>, seed)`, but the last two
    repeat the id of the first."""
    nested: Any = "bottom"
    for level in range(100):
        nested = {"deeper": nested} if level % 2 else [nested]
    contents: list[Event] = [
        {"unmapped": {"big": 2**63, "bigger": 2**64 - 1, "biggest": 10**40, "low": -(2**63), "lower": -(10**30)}},
        {"unmapped": {"dotted.key": 1, "a..b": {"": {"": 0}}, ".": 1}},
        {"unmapped": {"$set": {"$where": "1"}, "$": 1, "a$": 2}},
        {"unmapped": {"nul\0key": "nul\0value", "\0": "\0"}},
        {"message": "\U0001f9ea\u202e\ufffe\ufeff\u2028 \x7f \x01", "unmapped": {"\U0001f511": "\U0001f512"}},
        {"message": "m" * 200_000},
        {"unmapped": nested},
        {"unmapped": {"floats": [0.1, -0.0, 1e308, 5e-324], "none": None, "empty": [{}, [], ""]}},
        {"unmapped": {"_id": 1, "_crc": 2, "oid": {"$oid": "0123456789abcdef01234567"}, "date": {"$date": 1}}},
        {"observables": [{"name": "path", "type_id": 7, "value": "C:\\" + "long\\" * 1000}] * 2, "unmapped": {"x": 1}},
        {"observables": [{"name": "nothing", "type_id": 0}], "message": ""},
        {"message": "again"},
        {"message": "again"},
    ]
    lines = []
    for index, content in enumerate(contents):
        event = events(1, first=index, seed=seed)[0]
        if index >= len(contents) - 2:
            event["metadata"]["uid"] = event_id(0, seed)
        lines.append(encode({**event, **content}))
    return lines
