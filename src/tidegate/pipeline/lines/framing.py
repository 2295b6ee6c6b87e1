"""Cuts a file of log lines into frames that can each be read by itself.

Invariant: header lines (Zeek's `#...`, the names of AWS VPC flow logs) are the first lines of every frame after them,
and lines of one audit event are in one frame where they stand one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tidegate.pipeline.lines import vpcflow
from tidegate.pipeline.lines.auditd import audit_key

__all__ = ["frames_of"]

_MOST_BYTES = 512 * 1024


_ZEEK = (b"#separator", b"#set_separator", b"#empty_field", b"#unset_field", b"#path", b"#fields", b"#types")


def _header(raw: bytes, line: str, header: list[bytes]) -> list[bytes]:
    """The header lines once this line has been read."""
    if raw.startswith(b"#separator ") or vpcflow.is_header(line):
        return [raw]
    if raw.startswith(_ZEEK) and header and header[0].startswith(b"#separator") and len(header) < len(_ZEEK):
        return [*header, raw]
    return header


def frames_of(lines: Iterable[bytes], most_records: int = 1000) -> Iterator[tuple[list[bytes], int]]:
    """Frames of about `most_records` lines or half a megabyte, each with the number of its lines that are repeated.

    A frame is longer only where an audit event goes on; `most_records` more end it in any case.
    """
    header: list[bytes] = []
    frame: list[bytes] = []
    size, repeated, last = 0, 0, ""
    for raw in lines:
        line = raw.decode("utf-8", "replace")
        key = audit_key(line) or ""
        full = len(frame) - repeated >= most_records or size >= _MOST_BYTES
        goes_on = bool(key) and key == last and len(frame) < 2 * most_records and size < 2 * _MOST_BYTES
        if full and not goes_on:
            yield frame, repeated
            frame = list(header)
            size, repeated = sum(map(len, frame)), len(frame)
        header = _header(raw, line, header)
        frame.append(raw)
        size += len(raw)
        last = key
    if len(frame) > repeated:
        yield frame, repeated
