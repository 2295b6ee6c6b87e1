"""All that a mapping rule may say after `as`.

Invariant: no two conversions have the same name.
"""

from __future__ import annotations

from tidegate.pipeline import cloud, elements, functions

__all__ = ["CONVERSIONS"]

CONVERSIONS = functions.CONVERSIONS | elements.CONVERSIONS | cloud.CONVERSIONS
