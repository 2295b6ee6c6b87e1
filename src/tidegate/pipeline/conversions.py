"""All that a mapping rule may say after `as`.

Invariant: no two conversions have the same name.
"""

from __future__ import annotations

from tidegate.pipeline import cloud, functions

__all__ = ["CONVERSIONS"]

CONVERSIONS = functions.CONVERSIONS | cloud.CONVERSIONS
