"""MMDB files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

__all__ = ["write"]


def write(path: Path, records: dict[str, Any], version: int = 6) -> Path:
    """A file with a record for each network."""
    writer = MMDBWriter(version, "Test", ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path
