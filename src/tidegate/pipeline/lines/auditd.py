"""Linux audit: all records of one event, which share `audit(time:serial)`, become one native record.

Facts: a text with a space, a quote or a control sign is written as upper-case hexadecimal without quotes, a plain one
in quotes. `?` and `(null)` stand for no value, 4294967295 for no login user. Programs put their own pairs in msg='...'.
Behind the sign 0x1D the enriched format repeats numbers as names, under keys in upper case. EOE only ends an event.
An event whose lines are in two frames becomes two events with the same audit id, which is their correlation id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from socket import AF_INET6, inet_ntop
from typing import Any

from msgspec import Struct

from tidegate.errors import RecordError
from tidegate.pipeline.lines.auditnames import CALLS, EXECVE, TYPES
from tidegate.pipeline.lines.base import Assembled, Gathered, claim, refuse
from tidegate.pipeline.lines.keyvalue import pairs, tokens
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["audit_key", "gather_auditd"]

_STAMP = re.compile(r"audit\(([0-9]{1,12}\.[0-9]{1,9}):([0-9]{1,20})\):? *+")
_HEX = re.compile(r"(?:[0-9A-F]{2})+")
_ARGUMENT = re.compile(r"a([0-9]{1,6})(?:\[([0-9]{1,6})\])?")
_ENCODED_KEYS = "acct cmd comm cwd data dir exe file grp hostname key name new_group path proctitle unit vm watch"
_ENCODED = frozenset(_ENCODED_KEYS.split())
_NOTHING = frozenset(("?", "(null)", "(none)"))
_UNSET = frozenset(("4294967295", "-1"))
_MAY_BE_UNSET = frozenset(("auid", "ses", "old-auid", "old-ses"))
_DETAILS = ("EXECVE", "SOCKADDR", "PATH", "CWD", "PROCTITLE", "EOE")
"""Records that add to another one, the most telling first."""


class _Line(Struct, frozen=True):
    kind: str
    audit_id: str
    time: str
    node: str
    header: dict[str, Any]
    body: str


def audit_key(line: str) -> str | None:
    """`time:serial` of a line, which all lines of one event share; None where it has none."""
    at = line.find("audit(")
    stamp = _STAMP.match(line, at) if at >= 0 else None
    return f"{stamp[1]}:{stamp[2]}" if stamp else None


def _read(line: str, received_ms: int) -> _Line:
    at = line.find("audit(")
    stamp = _STAMP.match(line, at) if at >= 0 else None
    if stamp is None:
        raise refuse("linux_auditd.id", "there is no audit(time:serial) in the line")
    head = line[:at]
    start = head.rfind("type=")
    if start < 0:
        raise refuse("linux_auditd.type", "there is no type= before audit(time:serial)")
    kind = head[start + 5 :].split(None, 1)
    node = ""
    begin = head.rfind("node=", 0, start)
    if begin >= 0:
        node = head[begin + 5 : start].strip()
        start = begin
    header, _ = split_header(head[:start], received_ms) if start else ({}, "")
    if not kind or kind[0] == "msg=":
        raise refuse("linux_auditd.type", "the type of the record is empty")
    return _Line(TYPES.get(kind[0], kind[0]), f"{stamp[1]}:{stamp[2]}", stamp[1], node, header, line[stamp.end() :])


def _unhex(value: str) -> str:
    text = bytes.fromhex(value).decode("utf-8", "backslashreplace").rstrip("\0")
    return text.replace("\0", " ")


def _fields(body: str) -> dict[str, Any]:
    """The pairs of one line, decoded; those that stand for no value are left out, words that are no pair are `text`."""
    plain, _, enriched = body.partition("\x1d")
    found: dict[str, Any] = {}
    repeated: list[str] = []
    words: list[str] = []
    for key, quoted, single, bare, word in tokens(plain):
        value = quoted or bare or single
        if word:
            words.append(word)
        elif not value or value in _NOTHING or (value in _UNSET and key in _MAY_BE_UNSET):
            continue
        elif single and key == "msg":
            for inner, each in _fields(single).items():
                found.setdefault(inner, each)
        elif key in found:
            repeated.append(f"{key}={value}")
        elif quoted or single:
            found[key] = value
        else:
            value = value.rstrip(",")
            found[key] = _unhex(value) if key in _ENCODED and _HEX.fullmatch(value) is not None else value
    if enriched:
        for key, each in pairs(enriched).items():
            found.setdefault(key, each)
    if repeated:
        claim(found, "repeated", repeated)
    if words:
        claim(found, "text", " ".join(words))
    return found


def _arguments(body: str) -> tuple[list[str], dict[str, Any]]:
    """The arguments of an EXECVE record in their order, long ones put together again, and the other fields."""
    parts: dict[int, dict[int, bytes]] = {}
    others: dict[str, Any] = {}
    words: list[str] = []
    plain, _, enriched = body.partition("\x1d")
    for key, quoted, single, bare, word in tokens(plain):
        argument = _ARGUMENT.fullmatch(key)
        if argument is not None:
            value = bytes.fromhex(bare) if bare and _HEX.fullmatch(bare) else (quoted or single or bare).encode()
            parts.setdefault(int(argument[1]), {})[int(argument[2] or 0)] = value
        elif word:
            words.append(word)
        elif not key.endswith("_len") and key != "argc":
            others[key] = quoted or single or bare
    if enriched:
        others["enriched"] = enriched
    if words:
        claim(others, "text", " ".join(words))
    found = [b"".join(part for _, part in sorted(inner.items())) for _, inner in sorted(parts.items())]
    return [each.decode("utf-8", "backslashreplace") for each in found], others


def _address(value: str) -> dict[str, Any]:
    """The socket address in `saddr`, which is a C struct in hexadecimal (its family in the order of the host)."""
    if _HEX.fullmatch(value) is None or len(value) < 8:
        return {"raw": value}
    data = bytes.fromhex(value)
    match data[0], len(data):
        case 2, size if size >= 8:
            return {"family": "inet", "port": int.from_bytes(data[2:4], "big"), "ip": ".".join(map(str, data[4:8]))}
        case 10, size if size >= 24:
            return {
                "family": "inet6",
                "port": int.from_bytes(data[2:4], "big"),
                "ip": inet_ntop(AF_INET6, data[8:24]),
            }
        case 1, _:
            path = data[2:].split(b"\0", 1)[0] or data[3:].split(b"\0", 1)[0]
            return {"family": "unix", "path": path.decode("utf-8", "backslashreplace")}
        case family, _:
            return {"family": {16: "netlink"}.get(family, str(family)), "raw": value}


def _rank(line: _Line) -> int:
    """What comes first says what the event is."""
    if line.kind == "SYSCALL":
        return 0
    return _DETAILS.index(line.kind) + 2 if line.kind in _DETAILS else 1


def _call(record: dict[str, Any]) -> str | None:
    """The name of the system call, as far as it is known."""
    named, arch, number = record.get("SYSCALL"), record.get("arch"), record.get("syscall")
    if named.__class__ is str:
        return str(named)
    if (arch, number) in EXECVE:
        return "execve"
    return CALLS.get(str(number)) if arch == "c000003e" else None


def _build(lines: Sequence[_Line]) -> dict[str, Any]:
    main = min(lines, key=_rank)
    record: dict[str, Any] = _fields(main.body) if main.kind not in ("EXECVE", "SOCKADDR", "PATH") else {}
    paths: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for line in lines:
        match line.kind:
            case "EXECVE":
                arguments, others = _arguments(line.body)
                claim(record, "argv", arguments)
                claim(record, "cmd_line", " ".join(arguments))
                if others:
                    claim(record, "execve", others)
            case "PATH":
                paths.append(_fields(line.body))
            case "SOCKADDR":
                fields = _fields(line.body)
                claim(record, "address", _address(str(fields.pop("saddr", ""))))
                if fields:
                    claim(record, "sockaddr", fields)
            case "CWD" | "PROCTITLE":
                for key, value in _fields(line.body).items():
                    if line is not main:
                        claim(record, key, value)
            case "EOE":
                pass
            case kind if line is not main:
                records.append({"type": kind, **_fields(line.body)})
    if paths:
        claim(record, "paths", paths)
        name = next((each.get("name") for each in paths if each.get("nametype") not in ("PARENT", None)), None)
        if name is not None:
            claim(record, "path_name", name)
    if records:
        claim(record, "records", records)
    if main.kind == "SYSCALL":
        call = _call(record)
        if call is not None:
            claim(record, "syscall_name", call)
    claim(record, "type", main.kind)
    claim(record, "audit_id", main.audit_id)
    claim(record, "time", main.time)
    if len(lines) > 1:
        claim(record, "types", [line.kind for line in lines])
    if main.node:
        claim(record, "node", main.node)
    if main.header:
        claim(record, "syslog", main.header)
    return record


def gather_auditd(lines: Sequence[str | None], received_ms: int) -> list[Gathered]:
    """The first line of each event stands for all of them; the others are `joined` to it."""
    found: list[Gathered] = [None] * len(lines)
    groups: dict[tuple[str, str], list[tuple[int, _Line]]] = {}
    for place, text in enumerate(lines):
        if text is None:
            continue
        try:
            line = _read(text, received_ms)
        except RecordError as error:
            found[place] = Assembled(partial(_fail, error), ())
            continue
        groups.setdefault((line.node, line.audit_id), []).append((place, line))
        found[place] = "joined"
    for group in groups.values():
        members = [line for _, line in group]
        if any(line.kind != "EOE" for line in members):
            first, *others = (place for place, _ in group)
            found[first] = Assembled(partial(_build, members), others)
    return found


def _fail(error: RecordError) -> dict[str, Any]:
    raise refuse(error.rule, error.problem)
