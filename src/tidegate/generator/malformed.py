"""Spoils good records in the ways in which real feeds spoil them.

Invariant: what comes out is unusable for any correct reader: no UTF-8, no JSON, no object, or without a usable time.
It stays on one line, and it is one record also for a reader that takes an array for a list of records.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.generator.world import Dice

__all__ = ["TIME_FIELDS", "spoil"]

TIME_FIELDS = frozenset(
    ("timestamp", "start", "end", "eventTime", "ts", "_write_ts", "@timestamp", "TimeCreated", "EventTime",
     "EventReceivedTime", "UtcTime")
)  # fmt: skip
"""Every field of the four sources that a reader may fairly take for the time of the event."""


def spoil(dice: Dice, data: bytes) -> bytes:
    """One of eight kinds of damage to `data`, a good record."""
    match dice.bits(3):
        case 0:
            # A proper prefix of an object never closes it. From the half on, so that no two are the same.
            half = len(data) // 2
            return data[: half + dice.below(len(data) - half)]
        case 1:
            # The last text becomes Latin-1: a byte of 0xe9 before an ASCII one is no UTF-8.
            cut = data.rindex(b'":"') + 3
            return data[:cut] + b"\xe9t" + data[cut:]
        case 2:
            return data[:-1] + b',"score":NaN}'
        case 3:
            return _retimed(data, [])
        case 4:
            return _retimed(data, {"seconds": dice.bits(31), "nanos": 0})
        case 5:
            return _retimed(data, [dice.bits(31), dice.bits(31)])
        case 6:
            return b'["' + dice.hex(16).encode() + b'"]'
        case _:
            return str(dice.bits(48)).encode()


def _retimed(data: bytes, replacement: object) -> bytes:
    """The record with every time replaced."""

    def walked(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: replacement if key in TIME_FIELDS else walked(inner) for key, inner in value.items()}

    return msgspec.json.encode(walked(msgspec.json.decode(data)))
