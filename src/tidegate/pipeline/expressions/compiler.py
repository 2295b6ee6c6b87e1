"""Compiles the syntax tree of an expression to Python source; what the language is stands in `__init__.py`.

Invariant: only the node types named in `Compiler` pass, and attributes and literals enter the source as variables and
by `repr`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from msgspec.structs import replace

from tidegate.pipeline.expressions.functions import FUNCTIONS
from tidegate.pipeline.expressions.parser import MOST_NODES, Source
from tidegate.pipeline.expressions.remembered import Remembered
from tidegate.pipeline.expressions.writer import LITERALS, NONE, Node, Writer, group_of, literal, named, one_of
from tidegate.pipeline.rules import Attribute
from tidegate.tomlfile import nearest

__all__ = ["Compiler"]

MOST_LEVELS = 32

_WORDS = {"none": None, "null": None, "true": True, "false": False}
_KINDS = {"int": "int", "port": "int", "time": "int", "bool": "bool"} | dict.fromkeys(
    ("text", "ip", "mac", "email", "http_method"), "text"
)
"""Kinds of attributes as the mapping rules have them."""
_ACCEPTED = {
    "number": ("int", "float"),
    "sized": ("text", "list"),
    "scalar": ("int", "float", "text", "bool"),
    "alike": ("int", "float", "text", "list"),
    "any": ("int", "float", "text", "list", "bool"),
}
_WANTED = {"number": "a number", "sized": "text or a list", "scalar": "no list", "alike": "numbers or text"}
"""Kinds that an argument may have."""
_SIGNS: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "==",
    ast.IsNot: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
_REFUSED: dict[type[ast.AST], str] = {
    ast.Lambda: "functions cannot be defined",
    ast.JoinedStr: "f-strings are not part of the language; use concat(...)",
    ast.NamedExpr: 'nothing can be assigned; did you mean "=="?',
    ast.Dict: "objects cannot be written",
    ast.Slice: "use substring(text, start, end)",
    ast.Starred: "there is nothing to unpack",
    **dict.fromkeys(
        (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
        "loops are not part of the language; use any_of(...) or all_of(...)",
    ),
}


class Compiler(Writer):
    """Compiles one expression; `paths` and `names` hold what its source needs."""

    def __init__(self, source: Source, attribute: Callable[[str], Attribute]) -> None:
        super().__init__(source)
        self.paths: dict[str, Node] = {}
        self._attribute = attribute

    def compile(self, node: ast.expr, level: int = 1) -> Node:
        """`node`, at `level` of the tree, as Python source; raises ExpressionError."""
        if level > MOST_LEVELS:
            raise self.fail(node, f"more than {MOST_LEVELS} levels; split the expression")
        return replace(self._part(node, level + 1), at=node)

    def _part(self, node: ast.expr, below: int) -> Node:
        match node:
            case ast.Constant(value=value):
                return self._literal(node, value)
            case ast.Name(id=word) if word in _WORDS:
                return self._literal(node, _WORDS[word])
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._path(node)
            case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
                return self._list(elements, below)
            case ast.BoolOp(op=sign, values=values):
                word = " and " if isinstance(sign, ast.And) else " or "
                return Node(f"({word.join(self._truth(each, below) for each in values)})", "bool")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Node(f"(not {self._truth(operand, below)})", "bool", nullable=False)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return self._signed(operand, isinstance(sign, ast.USub), below)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
                return self._arithmetic(node, self.compile(left, below), _SIGNS[type(sign)], self.compile(right, below))
            case ast.Compare():
                return self._comparison(node, below)
            case ast.IfExp(test=test, body=body, orelse=other):
                condition, *both = self._truth(test, below), self.compile(body, below), self.compile(other, below)
                code = f"({both[0].code} if {condition} else {both[1].code})"
                return Node(code, one_of(both), nullable=any(each.nullable for each in both))
            case ast.Call(func=function, args=arguments, keywords=keywords):
                if keywords:
                    raise self.fail(keywords[0], "arguments have no names")
                return self._function(function, arguments, below)
            case ast.BinOp(op=ast.Pow()):
                raise self.fail(node, 'unknown operator "**"; powers are not part of the language')
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as sign):
                raise self.fail(node, f'did you mean "{"and" if isinstance(sign, ast.BitAnd) else "or"}"?')
        raise self.fail(node, _REFUSED.get(type(node), f"{type(node).__name__} is not part of the language"))

    # -- values

    def _literal(self, node: ast.expr, value: Any) -> Node:
        if value is None:
            return NONE
        if type(value) not in LITERALS:
            raise self.fail(node, f"{type(value).__name__} is not part of the language")
        if (type(value) is int and not -(2**63) <= value < 2**63) or value in (float("inf"), float("-inf")):
            raise self.fail(node, "the number has more than 64 bits")
        return literal(value)

    def _list(self, elements: list[ast.expr], level: int) -> Node:
        nodes = [self.compile(each, level) for each in elements]
        for node in nodes:
            if not node.literal or node.kind in ("list", "none"):
                raise self.fail(node.at, "a list has only text, numbers, true and false; or write a == b or a == c")
        values = [node.value for node in nodes]
        return Node(repr(values), "list", nullable=False, literal=True, value=values)

    def _path(self, node: ast.expr) -> Node:
        steps: list[tuple[str | int, bool]] = []
        inner = node
        while not isinstance(inner, ast.Name):
            match inner:
                case ast.Attribute(value=outer, attr=name):
                    steps.append((name, False))
                case ast.Subscript(value=outer, slice=ast.Constant(value=str() | int() as key)):
                    if isinstance(key, int) and (key < 1 or key is True):
                        raise self.fail(inner, "elements count from 1")
                    steps.append((key, True))
                case ast.Subscript(slice=ast.Slice()):
                    raise self.fail(inner, _REFUSED[ast.Slice])
                case ast.Subscript():
                    raise self.fail(inner, 'only [1] or ["name"] can follow an attribute; use split(text, sep, index)')
                case _:
                    raise self.fail(inner, "a value has no attributes; only functions can follow it")
            inner = outer
        steps.append((inner.id, False))
        path = "".join(self._step(node, *step, leftover=inner.id == "unmapped") for step in reversed(steps))[1:]
        if path not in self.paths:
            kind = "any" if inner.id == "unmapped" else self._kind_of(node, path)
            self.paths[path] = Node(f"v{len(self.paths)}", kind, variable=True)
        return self.paths[path]

    def _step(self, node: ast.expr, step: str | int, bracket: bool, leftover: bool) -> str:
        if isinstance(step, int):
            return f"[{step}]"
        if re.fullmatch(r"[^\W\d]\w*", step) and "__" not in step and step not in _WORDS:
            return f".{step}"
        if bracket and leftover:
            return '["{}"]'.format(re.sub(r'(["\\])', r"\\\1", step))
        raise self.fail(node, f'"{step}" cannot be the name of an attribute')

    def _kind_of(self, node: ast.expr, path: str) -> str:
        try:
            found = self._attribute(path)
        except LookupError as error:
            if path in FUNCTIONS:
                raise self.fail(node, f'"{path}" is a function; write {path}(...)') from error
            raise self.fail(node, str(error.args[0])) from error
        if not found.many:
            return _KINDS.get(found.kind, "any")
        element = {"texts": "text", "emails": "text", "ints": "int"}.get(found.kind, "any")
        return element if path.endswith("]") else "list"

    # -- operators

    def _truth(self, node: ast.expr, level: int) -> str:
        found = self.compile(node, level)
        if found.kind == "any":
            return f"({found.code} is True)"
        if found.kind != "bool":
            hint = "use coalesce(...) for a default, or exists(...)"
            raise self.fail(node, f"{self.shown(found)}, not true or false; {hint}")
        return found.code

    def _signed(self, operand: ast.expr, negative: bool, level: int) -> Node:
        found = self.compile(operand, level)
        if found.literal and found.kind in ("int", "float"):
            return literal(-found.value if negative else found.value)
        return self._arithmetic(operand, literal(0), "-" if negative else "+", found)

    def _arithmetic(self, node: ast.expr, left: Node, sign: str, right: Node) -> Node:
        groups = {group_of(left.kind), group_of(right.kind)}
        allowed = [{"any"}, {"number"}, {"number", "any"}, *([{"text"}, {"text", "any"}] if sign == "+" else [])]
        if groups not in allowed:
            what = f"{named(left.kind)} and {named(right.kind)}"
            hint = "; use concat(...)" if sign == "+" and "text" in groups else ""
            raise self.fail(node, f'"{sign}" does not work on {what}{hint}')
        kinds = {left.kind, right.kind}
        if "text" in kinds:
            kind = "text"
        elif kinds == {"any"} and sign == "+":
            kind = "any"
        else:
            kind = "int" if kinds == {"int"} and sign != "/" else "float"
        return Node(self.call(sign, left.code, right.code), kind)

    def _comparison(self, node: ast.Compare, level: int) -> Node:
        nodes = [self.compile(each, level) for each in (node.left, *node.comparators)]
        signs = [self._sign(operator, right) for operator, right in zip(node.ops, nodes[1:], strict=True)]
        if len(signs) == 1:
            code = self._compared(nodes[0], signs[0], nodes[1])
        elif "in" in signs or "not in" in signs or any(each.kind == "none" for each in nodes):
            raise self.fail(node, '"in" and none cannot be part of a chain; write "and"')
        elif all(each.plain for each in nodes[1:-1]):
            pairs = zip(nodes, signs, nodes[1:], strict=False)
            code = f"({' and '.join(self.pair(left, sign, right) for left, sign, right in pairs)})"
        else:
            for left, sign, right in zip(nodes, signs, nodes[1:], strict=False):
                self.check(left, sign, right)
            code = self.call("chain", repr(tuple(signs)), f"({', '.join(each.code for each in nodes)})")
        return Node(code, "bool", nullable=False)

    def _sign(self, operator: ast.cmpop, right: Node) -> str:
        sign = _SIGNS[type(operator)]
        if isinstance(operator, ast.Is | ast.IsNot) and right.code not in ("None", "True", "False"):
            raise self.fail(right.at, f'"is" works with none, true and false only; write "{sign}"')
        return sign

    def _compared(self, left: Node, sign: str, right: Node) -> str:
        if sign in ("in", "not in"):
            code = self.membership(left, right)
            return code if sign == "in" else f"(not {code})"
        return self.pair(left, sign, right)

    # -- functions

    def _function(self, function: ast.expr, sources: list[ast.expr], level: int) -> Node:
        match function:
            case ast.Name(id=name):
                pass
            case ast.Attribute(value=first, attr=name):
                sources = [first, *sources]
                end = (function.end_lineno or 1, max((function.end_col_offset or 0) - len(name.encode()), 0))
                function = ast.Name(name, lineno=end[0], col_offset=end[1])
            case _:
                raise self.fail(function, "only functions can be called")
        if name not in FUNCTIONS:
            raise self.fail(function, f'unknown function "{name}"{nearest(name, list(FUNCTIONS))}')
        runs = FUNCTIONS[name].call
        usage, _, gives = FUNCTIONS[name].usage.partition(" -> ")
        wanted = self._wanted(function, name, usage.split(), len(sources))
        found = [self.compile(each, level) for each in sources]
        for kind, node in zip(wanted, found, strict=True):
            self._check(name, kind, node)
        if "=" not in usage:
            return self._applied(name, self.named(name, runs), found, gives)
        values = [node.value for kind, node in zip(wanted, found, strict=True) if kind[0] == "="]
        try:
            runs = runs(*values)
        except ValueError as error:
            raise self.fail(sources[1], str(error)) from error
        # The same literals give the same name, so that expressions share what was made of them.
        digest = blake2b(repr(values).encode("utf-8", "replace"), digest_size=8).hexdigest()
        nodes = [node for kind, node in zip(wanted, found, strict=True) if kind[0] != "="]
        return self._applied(name, self.named(f"{name}_{digest}", runs), nodes, gives)

    def _applied(self, name: str, callee: str, nodes: list[Node], gives: str) -> Node:
        first = nodes[0]
        nullable = gives != "bool" or name == "bool"
        if gives == "same":
            kinds = {group_of(each.kind) for each in nodes}
            if name in ("min", "max") and len(kinds - {"any"}) > 1:
                raise self.fail(nodes[1].at, f"{name} needs arguments of one kind")
            gives = "any" if "list" in kinds and name != "coalesce" else one_of(nodes)
            nullable = name != "coalesce" or all(each.nullable for each in nodes)
        if name == "round" and len(nodes) == 1:
            gives = "int"
        code = f"{callee}({', '.join(each.code for each in nodes)})"
        if first.variable:
            code = self._inline(name, callee, nodes) or code
        return Node(code, gives, nullable=nullable)

    def _inline(self, name: str, callee: str, nodes: list[Node]) -> str | None:
        """Source that is quicker than a call, when the first argument is a variable."""
        first, *rest = nodes
        there = f"{first.code} is not None"
        if name == "exists":
            return f"({there})"
        if name == "coalesce" and len(rest) == 1:
            return f"({first.code} if {there} else {rest[0].code})"
        if first.kind != "text":
            there = f"{first.code}.__class__ is {self.operator('str')}"
        if name in ("startswith", "endswith") and all(each.literal for each in rest):
            ends = rest[0].code if len(rest) == 1 else f"({', '.join(each.code for each in rest)})"
            return f"({there} and {first.code}.{name}({ends}))"
        if name == "contains" and first.kind == "text":
            return self.membership(rest[0], first)
        made = self.names[callee]
        if isinstance(made, Remembered) and made.otherwise is False:
            return f"({there} and {callee}[{first.code}])"
        return None

    def _wanted(self, at: ast.expr, name: str, usage: list[str], count: int) -> list[str]:
        """The kinds that `count` arguments must have."""
        least = sum(not kind.endswith("?") for kind in usage)
        most = MOST_NODES if usage[-1].endswith("+") else len(usage)
        if not least <= count <= most:
            number = f"{least}" if least == most else f"{least} or more" if most == MOST_NODES else f"{least} to {most}"
            shown = ", ".join(kind.lstrip("=").replace("?", " (optional)").replace("+", ", ...") for kind in usage)
            raise self.fail(at, f"{name}({shown}) takes {number} arguments, not {count}")
        padded = usage + [usage[-1]] * (count - len(usage))
        return [kind.rstrip("?+") for kind in padded[:count]]

    def _check(self, name: str, wanted: str, found: Node) -> None:
        kind = wanted.lstrip("=")
        accepted = (kind, "any", *_ACCEPTED.get(kind, ()), *(("none",) if name == "coalesce" else ()))
        if found.kind not in accepted:
            hint = "; convert with text(...)" if kind == "text" and found.kind in ("int", "float", "bool") else ""
            raise self.fail(found.at, f"{name} needs {_WANTED.get(kind) or named(kind)}: {self.shown(found)}{hint}")
        if wanted[0] == "=" and not found.literal:
            raise self.fail(found.at, f"{name} needs a literal, not `{self.source.excerpt(found.at)}`")
