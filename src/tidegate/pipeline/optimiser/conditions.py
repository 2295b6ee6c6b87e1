"""Conditions that can never be true.

Invariant: what is called impossible is so for every event that has one of the given classes; in doubt it is possible.
"""

from __future__ import annotations

import ast

from tidegate.pipeline.expressions.parser import Source

__all__ = ["never"]


def never(text: str, classes: frozenset[int]) -> bool:
    """Whether the condition `text`, which has compiled, is false for all events with these `class_uid`."""
    return not _allowed(Source(text).parse(), classes)


def _allowed(node: ast.expr, classes: frozenset[int]) -> frozenset[int]:
    """The classes of the events for which `node` may be true."""
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return frozenset.intersection(*(_allowed(each, classes) for each in values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return frozenset.union(*(_allowed(each, classes) for each in values))
        case ast.Constant(value=False) | ast.Name(id="false"):
            return frozenset()
        case (
            ast.Compare(left=ast.Name(id="class_uid"), ops=[ast.Eq()], comparators=[ast.Constant(value=int() as uid)])
            | ast.Compare(left=ast.Constant(value=int() as uid), ops=[ast.Eq()], comparators=[ast.Name(id="class_uid")])
        ):
            return classes & {uid}
        case ast.Compare(
            left=ast.Name(id="class_uid"),
            ops=[ast.In()],
            comparators=[ast.List(elts=wanted) | ast.Tuple(elts=wanted) | ast.Set(elts=wanted)],
        ) if all(isinstance(each, ast.Constant) for each in wanted):
            return classes & {each.value for each in wanted if isinstance(each, ast.Constant)}
    return classes
