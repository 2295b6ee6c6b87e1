"""What the operators of expressions do, with values of any kind.

Invariant: as in `functions.py`, nothing raises and each result is bounded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import isfinite
from typing import Any

__all__ = ["LONGEST", "NUMBERS", "OPERATORS", "bounded", "contains"]

LONGEST = 65_536
"""Characters of a text that was put together, and of one that is taken apart by a slow function."""

NUMBERS: frozenset[Any] = frozenset((int, float))
_SCALARS = frozenset((int, float, str, bool))


def bounded(value: Any) -> Any:
    """A number that is within bounds, else none."""
    if value.__class__ is int:
        return value if -(2**63) <= value < 2**63 else None
    return value if isfinite(value) else None


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if left.__class__ not in NUMBERS or right.__class__ not in NUMBERS:
            return None
        try:
            return bounded(operation(left, right))
        except ArithmeticError:
            return None

    return apply


_add_numbers = _arithmetic(operator.add)


def _add(left: Any, right: Any) -> Any:
    if left.__class__ is str and right.__class__ is str:
        return left + right if len(left) + len(right) <= LONGEST else None
    return _add_numbers(left, right)


def _ordering(operation: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if left.__class__ in NUMBERS:
            return right.__class__ in NUMBERS and operation(left, right)
        return left.__class__ is str and right.__class__ is str and operation(left, right)

    return compare


def _equal_scalars(left: Any, right: Any) -> bool:
    if left.__class__ is right.__class__:
        return left.__class__ in _SCALARS and bool(left == right)
    return left.__class__ in NUMBERS and right.__class__ in NUMBERS and bool(left == right)


def _equal(left: Any, right: Any) -> bool:
    """Scalars of one kind, or lists of such; objects and lists inside lists are equal to nothing."""
    if left.__class__ is list and right.__class__ is list:
        return len(left) == len(right) and all(map(_equal_scalars, left, right))
    return _equal_scalars(left, right)


def contains(container: Any, item: Any) -> bool:
    """Text in text, a scalar in a list, or a name in an object."""
    if container.__class__ is str or container.__class__ is dict:
        return item.__class__ is str and item in container
    if container.__class__ is list:
        for each in container:
            if _equal_scalars(each, item):
                return True
    return False


def _among(item: Any, values: tuple[Any, ...]) -> bool:
    return any(_equal_scalars(each, item) for each in values)


_ORDERINGS = {
    "<": _ordering(operator.lt),
    "<=": _ordering(operator.le),
    ">": _ordering(operator.gt),
    ">=": _ordering(operator.ge),
}


def _chain(operators: tuple[str, ...], values: tuple[Any, ...]) -> bool:
    """`a < b == c` with all values at hand."""
    for index, sign in enumerate(operators):
        left, right = values[index], values[index + 1]
        holds = _ORDERINGS[sign](left, right) if sign in _ORDERINGS else _equal(left, right) is (sign == "==")
        if not holds:
            return False
    return True


OPERATORS: dict[str, tuple[str, Any]] = {
    "<": ("less", _ORDERINGS["<"]),
    "<=": ("at_most", _ORDERINGS["<="]),
    ">": ("greater", _ORDERINGS[">"]),
    ">=": ("at_least", _ORDERINGS[">="]),
    "+": ("add", _add),
    "-": ("subtract", _arithmetic(operator.sub)),
    "*": ("multiply", _arithmetic(operator.mul)),
    "/": ("divide", _arithmetic(operator.truediv)),
    "//": ("divide_whole", _arithmetic(operator.floordiv)),
    "%": ("modulo", _arithmetic(operator.mod)),
    "==": ("equal", _equal),
    "in": ("contains", contains),
    "among": ("among", _among),
    "chain": ("chain", _chain),
    "numbers": ("numbers", NUMBERS),
    "bool": ("boolean", bool),
    "str": ("str", str),
}
"""Name and value in generated code by sign; those with a word have no sign of their own."""
