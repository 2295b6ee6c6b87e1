"""Reads much of an MMDB file in a process of its own: `python mmdb_check.py FILE`. Imports nothing of Tidegate.

The C extension (seen with maxminddb 3.2) can die of a segmentation fault where bytes inside a file are damaged, and the
format has no checksum. Small files are read whole, of large ones a part.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from itertools import islice

import maxminddb

_NETWORKS = 50_000
_ADDRESSES = 20_000


def main() -> None:
    """Prints what is wrong and exits with 1, unless everything that was tried could be read."""
    try:
        with maxminddb.open_database(sys.argv[1], maxminddb.MODE_AUTO) as reader:
            for _ in islice(reader, _NETWORKS):
                pass
            for address in range(0, 1 << 32, (1 << 32) // _ADDRESSES):
                reader.get(IPv4Address(address))
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
