"""The parts of an expression as Python source, and the source of comparisons of them.

Invariant: a part is repeated in the source only if it is a variable or a literal, so the source stays as short as the
expression.
"""

from __future__ import annotations

import ast
from typing import Any

from msgspec import Struct

from tidegate.errors import ExpressionError
from tidegate.pipeline.expressions.operators import OPERATORS
from tidegate.pipeline.expressions.parser import Source

__all__ = ["LITERALS", "NONE", "Node", "Writer", "group_of", "literal", "named", "one_of"]


class Node(Struct, frozen=True):
    """A part of an expression."""

    code: str
    kind: str
    """As of an `Expression`, or `none`."""
    nullable: bool = True
    variable: bool = False
    literal: bool = False
    value: Any = None
    """Of a literal."""
    at: ast.expr = ast.Name("", lineno=1, col_offset=0)
    """Where it was written."""

    @property
    def plain(self) -> bool:
        """Whether it may be written twice."""
        return self.variable or (self.literal and self.kind != "list")


NONE = Node("None", "none", literal=True)
LITERALS = {str: "text", bool: "bool", int: "int", float: "float"}
_GROUPS = {"float": "number", "int": "number"}


def literal(value: Any) -> Node:
    return Node(repr(value), LITERALS[type(value)], nullable=False, literal=True, value=value)


_NAMES = {"bool": "a truth value", "int": "a whole number", "float": "a number", "list": "a list", "any": "a value"}


def named(kind: str) -> str:
    """The kind of a part or an argument, for people."""
    return _NAMES.get(kind, kind)


def group_of(kind: str) -> str:
    return _GROUPS.get(kind, kind)


def one_of(nodes: list[Node]) -> str:
    """The kind of a value that is one of `nodes`."""
    kinds = {node.kind for node in nodes if node.kind != "none"}
    if len(kinds) == 1:
        return kinds.pop()
    return "float" if kinds == {"int", "float"} else "any"


class Writer:
    """Writes comparisons; `names` holds what the source needs."""

    def __init__(self, source: Source) -> None:
        self.names: dict[str, Any] = {}
        self.source = source

    def fail(self, node: ast.expr | ast.keyword, problem: str) -> ExpressionError:
        return ExpressionError(problem, self.source.column(node))

    def named(self, name: str, value: Any) -> str:
        """The name under which the source finds `value`."""
        self.names[f"x_{name}"] = value
        return f"x_{name}"

    def operator(self, sign: str) -> str:
        return self.named(*OPERATORS[sign])

    def call(self, sign: str, *arguments: str) -> str:
        return f"{self.operator(sign)}({', '.join(arguments)})"

    def check(self, left: Node, sign: str, right: Node) -> None:
        """Refuses `left sign right` (`==` or an order) for kinds that never compare."""
        groups = {group_of(left.kind), group_of(right.kind)} - {"any"}
        equality = sign in ("==", "!=")
        if len(groups - ({"none"} if equality else set())) > 1 or not (equality or groups <= {"number", "text"}):
            raise self._mismatch(left, right)

    def pair(self, left: Node, sign: str, right: Node) -> str:
        """`left sign right`, for `==` and orders."""
        self.check(left, sign, right)
        if sign in ("==", "!="):
            code = self._equality(left, right)
            return code if sign == "==" else f"(not {code})"
        return self._order(left, sign, right)

    def _mismatch(self, left: Node, right: Node) -> ExpressionError:
        hint = "; convert with int(...) or text(...)" if "text" in (left.kind, right.kind) else ""
        return self.fail(right.at, f"cannot compare: {self.shown(left)} and {self.shown(right)}{hint}")

    def shown(self, node: Node) -> str:
        return f"`{self.source.excerpt(node.at)}` is {named(node.kind)}"

    def _equality(self, left: Node, right: Node) -> str:
        if "none" in (left.kind, right.kind):
            other = left if right.kind == "none" else right
            return repr(other.kind == "none") if other.literal else f"({other.code} is None)"
        for one, other in ((left, right), (right, left)):
            if one.literal and one.kind == "bool":
                return f"({other.code} is {one.code})"
        if "list" in (left.kind, right.kind):
            return self.call("==", left.code, right.code)
        if "any" in (left.kind, right.kind):
            known = right if left.kind == "any" else left
            other = left if left.kind == "any" else right
            # In Python 1 == True and 0 == False: with other numbers, and with text, == is exact.
            if known.literal and known.value in (0, 1) and other.variable:
                return f"({left.code} == {right.code} and {other.code}.__class__ is not {self.operator('bool')})"
            if known.kind != "text" and (not known.literal or known.value in (0, 1)):
                return self.call("==", left.code, right.code)
        if not (left.nullable and right.nullable):
            return f"({left.code} == {right.code})"
        for each in (left, right):
            if each.plain:
                return f"({each.code} is not None and {left.code} == {right.code})"
        return self.call("==", left.code, right.code)

    def _order(self, left: Node, sign: str, right: Node) -> str:
        if not (left.plain and right.plain) or left.kind == right.kind == "any":
            return self.call(sign, left.code, right.code)
        conditions = []
        for each, other in ((left, right), (right, left)):
            if each.kind == "any" and other.kind == "text":
                conditions.append(f"{each.code}.__class__ is {self.operator('str')}")
            elif each.kind == "any":
                conditions.append(f"{each.code}.__class__ in {self.operator('numbers')}")
            elif each.nullable:
                conditions.append(f"{each.code} is not None")
        return f"({' and '.join([*conditions, f'{left.code} {sign} {right.code}'])})"

    def membership(self, item: Node, container: Node) -> str:
        """`item in container`."""
        if item.kind == "none":
            raise self.fail(item.at, "none is in nothing; write == none")
        if container.literal and container.kind == "list":
            return self._among(item, container)
        if container.kind not in ("text", "list", "any"):
            raise self.fail(container.at, f"{self.shown(container)}; nothing is in it")
        if container.kind == "text" and item.kind not in ("text", "any"):
            raise self._mismatch(item, container)
        if container.kind == "text" and container.variable and item.kind == "text" and not item.nullable:
            return f"({container.code} is not None and {item.code} in {container.code})"
        return self.call("in", container.code, item.code)

    def _among(self, item: Node, container: Node) -> str:
        values = container.value
        for value in values:
            if item.kind != "any" and group_of(LITERALS[type(value)]) != group_of(item.kind):
                raise self.fail(container.at, f"{self.shown(item)}, and `{value!r}` is {named(LITERALS[type(value)])}")
        if not values:
            return "False"
        members = "{" + ", ".join(map(repr, values)) + "}"
        if item.kind != "any":
            return f"({item.code} in {members})"
        if item.variable and all(isinstance(value, str) for value in values):
            return f"({item.code}.__class__ is {self.operator('str')} and {item.code} in {members})"
        return self.call("among", item.code, repr(tuple(values)))
