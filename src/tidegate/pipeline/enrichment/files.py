"""Opening the files of tables, compressed or not, and what was wrong in them.

Invariant: a bad line never stops a file from being loaded; it is counted, and the first few are kept with their place.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import IO

from tidegate.errors import TableError

__all__ = ["Report", "open_binary", "open_text", "read_all", "stem_suffix"]

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MOST_BYTES = 1 << 30
_KEPT = 5


class Report:
    """What was read and what was not."""

    __slots__ = ("bad", "first_bad", "repeated", "rows", "skipped")

    def __init__(self) -> None:
        self.rows = 0
        """Lines, objects or documents with content."""
        self.repeated = 0
        """Rows for a key that was there already."""
        self.bad = 0
        self.first_bad: list[str] = []
        """`line 7: ...`, of the first few."""
        self.skipped: Counter[str] = Counter()
        """Reason -> how many things were understood and are of no use here."""

    def reject(self, where: str, problem: str) -> None:
        self.bad += 1
        if len(self.first_bad) < _KEPT:
            self.first_bad.append(f"{where}: {problem}")


def open_binary(path: Path) -> IO[bytes]:
    """The content, inflated when it begins like gzip or zstd; reading raises OSError where that is damaged or cut."""
    with path.open("rb") as file:
        start = file.read(4)
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            # Only here, as it is large: not every process has packed tables.
            import pyarrow as pa

            # Arrow's readers, unlike those of zstandard, tell a stream that ends in the middle, and read what follows
            # the first frame.
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), name), 1 << 16)
    return path.open("rb")


def open_text(path: Path) -> IO[str]:
    """The content as text, without a byte order mark; bytes that are not UTF-8 are replaced, and fail as values."""
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", errors="replace", newline="")


def read_all(path: Path) -> bytes:
    """The whole content. Raises TableError when it is larger than 1 GiB."""
    with open_binary(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise TableError(str(path), "is larger than 1 GiB; split it, or use CSV or lines, which are read one by one")
    return content.removeprefix(b"\xef\xbb\xbf")


def stem_suffix(path: Path) -> str:
    """The suffix that tells the format: `.csv` of `iocs.csv.gz`."""
    name = path.name.lower()
    for packed in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(packed)
    return Path(name).suffix
