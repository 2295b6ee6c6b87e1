"""The expression language of the pipeline: a whitelisted subset of Python, written again as Python source.

    class_uid == 4001 and severity_id >= 3 and not in_cidr(src_endpoint.ip, "10.0.0.0/8")
    user.name in ("root", "admin") or matches(process.cmd_line, r"(?i)mimikatz|sekurlsa")
    concat(lower(coalesce(device.hostname, "unknown")), ":", dst_endpoint.port)

Invariant: only the node types in `compiler.py` pass, and what is generated consists of the values of attributes,
literals, Python operators on values of known kinds, and calls of the functions in this room. So an expression reaches
no import, no attribute of a Python object and no loop; it neither raises nor gives an unbounded result, and it takes
time linear in the lengths of the texts.

What can be written:

- literals: text, numbers, `true false none` (also as Python and JSON spell them), and lists of literals;
- attributes: `src_endpoint.ip`, `observables[1].value` (elements count from 1, as in the mapping rules),
  `email["from"]` for a name that is a word of Python, `unmapped.alert.gid` or `unmapped["alert.gid"]` for leftovers;
- `and or not`, `== != < <= > >=` also chained, `in`, `not in`, `is none`, `a if condition else b`,
  `+ - * / // %` on numbers, `+` on text, and the functions in `functions.py`, also as methods: `user.name.lower()`.

What it means:

- A missing attribute is none. Functions and operators give none, and tests give false, for none and for values of the
  wrong kind. `a == b` is true where both are there and equal, and `a == none` where `a` is missing; `!=`, `not in` and
  `not` are exact opposites: `status != "ok"` is true where there is no status. A truth value is not a number.
- Where a kind is known (every attribute has one, except in `unmapped`), a wrong one is refused when compiling.
  `and`, `or`, `not` and `if` take truth values only; of values of unknown kind only true counts as true.
- Whole numbers beyond 64 bits, infinite numbers, and texts of more than 65,536 characters that were put together are
  none, and so is what `base64_decode`, `url_decode`, `json_get` and `entropy` make of a longer text.
- Times are in ms since 1970 (UTC), Monday is weekday 0, regular expressions are those of RE2 and match anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, cast

from msgspec import Struct

from tidegate.pipeline.expressions.compiler import Compiler
from tidegate.pipeline.expressions.parser import Source
from tidegate.pipeline.rules import Attribute, attribute_at

__all__ = ["Expression", "Kind", "compile_expression", "evaluator", "steps_of"]

Kind = Literal["bool", "int", "float", "text", "list", "any"]
"""`float` is a number of either kind. Each may be none; `any` may be any value, so use only `true` of it as a truth."""


class Expression(Struct, frozen=True):
    """A checked expression and the Python source that computes it."""

    text: str
    """As written."""
    paths: tuple[str, ...]
    """The attributes it reads, in order of first use; `steps_of` takes a path apart."""
    code: str
    """A Python expression over `v0`, `v1`, ... (the values of `paths`, None where missing) and `names`.

    Values of attributes of a known kind must be of that kind or None: they are not checked again.
    """
    names: dict[str, Any]
    """What `code` needs in its globals; a name stands for the same thing in all expressions."""
    kind: Kind


def compile_expression(text: str, attribute: Callable[[str], Attribute] = attribute_at) -> Expression:
    """The expression in `text`; `attribute` tells the kind of a path, or raises LookupError with a hint.

    Raises ExpressionError, which names the column and the nearest valid name.
    """
    source = Source(text)
    compiler = Compiler(source, attribute)
    found = compiler.compile(source.parse())
    kind = "any" if found.kind == "none" else found.kind
    used = set(re.findall(r"x_\w+", found.code))
    names = {name: value for name, value in compiler.names.items() if name in used}
    return Expression(text, tuple(compiler.paths), found.code, names, cast("Kind", kind))


def evaluator(expression: Expression) -> Callable[[Callable[[str], Any]], Any]:
    """A function that computes `expression`, given a function from path to value."""
    parameters = ", ".join(f"v{index}" for index in range(len(expression.paths)))
    source = f"lambda {parameters}: {expression.code}"
    code = compile(source, "<expression>", "eval")
    function = eval(code, {"__builtins__": {}, **expression.names})  # noqa: S307 - source made here, of checked parts
    paths = expression.paths
    return lambda get: function(*map(get, paths))


_STEP = re.compile(r'\.?(?P<name>\w+)|\[(?P<index>[0-9]+)\]|\["(?P<key>(?:[^"\\]|\\.)*)"\]')


def steps_of(path: str) -> tuple[str | int, ...]:
    """The names and indexes (from 0) that lead to `path`: `observables[1].value` is ("observables", 0, "value")."""
    steps: list[str | int] = []
    for match in _STEP.finditer(path):
        if match["index"]:
            steps.append(int(match["index"]) - 1)
        else:
            steps.append(match["name"] or re.sub(r"\\(.)", r"\1", match["key"], flags=re.DOTALL))
    return tuple(steps)
