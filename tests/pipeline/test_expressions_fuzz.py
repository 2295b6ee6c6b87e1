"""Whatever is written as an expression is refused or harmless: no import, attribute or loop, no error, bounded time."""

from __future__ import annotations

import ast
import dis
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tidegate
from tidegate.errors import ExpressionError
from tidegate.ocsf import Fingerprint
from tidegate.pipeline.expressions import Expression, compile_expression, evaluator
from tidegate.pipeline.expressions.functions import FUNCTIONS
from tidegate.pipeline.expressions.operators import LONGEST, OPERATORS

# -- expressions

ATOMS = {
    "int": ("severity_id", "time", "codes[1]", "0", "1", "-1", "9223372036854775807"),
    "float": ("2.5", "1e308", "0.0"),
    "text": ("message", "src_endpoint.ip", "privileges[1]", "'a'", "''", "'10.0.0.1'", "'a.0'"),
    "bool": ("is_alert", "is_mfa", "true", "False"),
    "list": ("privileges", "codes", "resources", "()", "('a', 'b')", "[1, 0, 2.5, true]"),
    "any": ("unmapped.a", "unmapped.b", 'unmapped["c.d"][1]', "api.request.data"),
}
KIND_OF = {atom: kind for kind, atoms in ATOMS.items() for atom in atoms}
LITERALS = ("'10.0.0.0/8'", "'fc00::/7'", "'(a+)+b'", "'(?P<x>a)|b'", "'iso'", "'date'", "'utf-16'", "'a.0'", "1")
PARAMETERS = {
    "number": ("int", "float"),
    "sized": ("text", "list"),
    "scalar": ("int", "float", "text", "bool"),
    "alike": ("int", "text", "list"),
    "any": tuple(ATOMS),
}
GIVES: dict[str, list[str]] = {}
for _name, _function in FUNCTIONS.items():
    _given = _function.usage.rpartition(" ")[2]
    for _kind in ATOMS if _given == "same" else (_given,):
        GIVES.setdefault(_kind, []).append(_name)


@st.composite
def formed(draw: st.DrawFn, kind: str | None = None, depth: int = 3) -> str:
    """An expression of `kind`, as far as the form goes; one part in twenty is of another kind."""
    if kind is None or draw(st.integers(0, 19)) == 0:
        kind = draw(st.sampled_from(sorted(ATOMS)))
    forms = ["atom", "call", "if"] if depth else ["atom"]
    if depth and kind in ("int", "float", "bool", "text"):
        forms += [kind, kind]
    match draw(st.sampled_from(forms)):
        case "call":
            return draw(called(draw(st.sampled_from(GIVES.get(kind, ["coalesce"]))), depth - 1))
        case "if":
            value, test = formed(kind, depth - 1), formed("bool", depth - 1)
            return f"({draw(value)} if {draw(test)} else {draw(value)})"
        case "int" | "float":
            sign = draw(st.sampled_from(["+", "-", "*", "/", "//", "%"]))
            return f"({draw(formed('int', depth - 1))} {sign} {draw(formed(kind, depth - 1))})"
        case "text":
            return f"({draw(formed('text', depth - 1))} + {draw(formed('text', depth - 1))})"
        case "bool":
            other = draw(st.sampled_from(["bool", "int", "text", "any"]))
            signs = ["and", "or"] if other == "bool" else ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
            parts = draw(st.lists(formed(other, depth - 1), min_size=2, max_size=3))
            text = parts[0]
            for part in parts[1:]:
                text += f" {draw(st.sampled_from(signs))} {part}"
            return f"(not ({text}))" if draw(st.booleans()) else f"({text})"
    return draw(st.sampled_from(ATOMS[kind]))


@st.composite
def called(draw: st.DrawFn, name: str, depth: int) -> str:
    """A call of a function with arguments that it takes."""
    arguments = []
    for kind in FUNCTIONS[name].usage.partition(" -> ")[0].split():
        least, most = int(not kind.endswith("?")), 3 if kind.endswith("+") else 1
        bare = kind.rstrip("?+")
        if bare[0] == "=":
            arguments += draw(st.lists(st.sampled_from(LITERALS), min_size=least, max_size=most))
        else:
            one = draw(st.sampled_from(PARAMETERS.get(bare, (bare,))))
            arguments += draw(st.lists(formed(one, depth), min_size=least, max_size=most))
    return f"{name}({', '.join(arguments)})"


TOKENS = [
    *KIND_OF,
    *LITERALS,
    *FUNCTIONS,
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "==",
    "<",
    ">=",
    "+",
    "-",
    "//",
]
TOKENS += [
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    ":",
    "\n",
    "lambda",
    ":=",
    "=",
    "for",
    "x",
    "await",
    "yield",
]
TOKENS += [
    "__class__",
    "__import__",
    "import",
    "eval",
    "**",
    "*",
    "f'{message}'",
    "b'a'",
    "...",
    "1j",
    "~",
    "@",
    "|",
    "&",
]
TOKENS += ["\\", "#", "'", '"', "0x", "é", "\0", "\r", "\x0c", "\u2028"]
SOUP = st.lists(st.sampled_from(TOKENS), max_size=12)

# -- values

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["10.0.0.1", "::1", "aGk=", "%41%", "1e5", "0x1F", "true", '{"a": [1]}', "[" * 3000, "\ud800", "\0"]
)
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**63 - 1])
SCALARS = TEXTS | INTEGERS | st.floats() | st.booleans() | st.none() | st.sampled_from([10**400, -(10**4000)])
ANYTHING = st.recursive(
    SCALARS | st.builds(Fingerprint, algorithm_id=INTEGERS, value=TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OF_KIND: dict[str, st.SearchStrategy[Any]] = {
    "int": INTEGERS,
    "text": TEXTS,
    "bool": st.booleans(),
    "list": st.lists(ANYTHING, max_size=3),
    "any": ANYTHING,
}
CLASSES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "text": (str,),
    "bool": (bool,),
    "list": (list,),
}

# -- what must hold

# Whatever imports, defines, stores, deletes, iterates, raises or waits.
FORBIDDEN: tuple[str, ...] = (
    "IMPORT",
    "MAKE",
    "STORE",
    "DELETE",
    "FOR_ITER",
    "GET_",
    "YIELD",
    "RAISE",
    "SETUP",
    "SEND",
    "FORMAT",
)
FORBIDDEN += ("LOAD_BUILD", "LOAD_CLOSURE", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_LOCALS")
ATTRIBUTES = {"startswith", "endswith", "__class__"}


def assert_harmless(expression: Expression) -> None:
    """The bytecode reads its variables and names only, and goes only forward."""
    variables = [f"v{index}" for index in range(len(expression.paths))]
    code = compile(expression.code, "<test>", "eval")
    assert set(code.co_names) <= {*expression.names, *variables, *ATTRIBUTES}
    assert all(name.startswith("x_") for name in expression.names)
    assert not any(isinstance(each, CodeType) for each in code.co_consts)
    for instruction in dis.get_instructions(code):
        assert not instruction.opname.startswith(FORBIDDEN), instruction
        assert "BACKWARD" not in instruction.opname, instruction
        if "ATTR" in instruction.opname or "METHOD" in instruction.opname:
            assert instruction.argval in ATTRIBUTES, instruction


def assert_of_kind(expression: Expression, result: Any) -> None:
    if result is None or expression.kind == "any":
        return
    assert type(result) in CLASSES[expression.kind]
    if type(result) is int:
        assert -(2**63) <= result < 2**63
    elif type(result) is float:
        assert result - result == 0
    elif type(result) is str:
        assert len(result) <= LONGEST


def attempt(text: str) -> Expression | None:
    """The expression, which is harmless; None when it is refused, at a place in the text."""
    try:
        expression = compile_expression(text)
    except ExpressionError as error:
        column = error.column
    else:
        assert_harmless(expression)
        return expression
    assert 1 <= column <= len(text) + 1
    return None


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(text=formed(), data=st.data())
def test_well_formed_expressions_are_refused_or_never_fail(text: str, data: st.DataObject) -> None:
    expression = attempt(text)
    if expression is None:
        return
    evaluate = evaluator(expression)
    values = {path: data.draw(st.none() | OF_KIND[KIND_OF[path]]) for path in expression.paths}
    assert_of_kind(expression, evaluate(values.get))
    assert_of_kind(expression, evaluate(lambda path: None))


HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -5,
    7,
    2**63 - 1,
    10**5000,
    2.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "a.b",
]
HOSTILE += [
    "\ud800",
    "\0",
    "10.0.0.1",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "aGk",
    "%f",
    "[" * 60_000,
    [],
    ["a", 1],
    [None, [1]],
]
HOSTILE += [{}, {"a": {"b": []}}, Fingerprint(algorithm_id=1, value="a")]
LITERALS_OF: dict[str, list[tuple[Any, ...] | None]] = {
    "base64_decode": [(), ("utf-16",)],
    "extract": [("(a)|b",), ("(?P<x>a)?b", "x"), (".*", 0)],
    "format_time": [("iso",), ("date",)],
    "in_cidr": [("10.0.0.0/8", "::/0")],
    "in_domain": [("a.b", "")],
    "json_get": [("a.b",), ("",), ("0.0",)],
    "matches": [("(a+)+$",), ("",)],
}


def calls(name: str) -> Iterator[tuple[Callable[..., Any], int, str]]:
    """What runs for a function or operator, with the number of its arguments at most and the kind of its result."""
    if name in OPERATORS:
        yield OPERATORS[name][1], 2, "bool" if name[0] in "<>=i" else "any"
        return
    usage, _, gives = FUNCTIONS[name].usage.partition(" -> ")
    kinds = usage.split()
    count = len([kind for kind in kinds if kind[0] != "="]) + (kinds[-1][0] != "=" and kinds[-1][-1] == "+")
    for literals in LITERALS_OF.get(name, [None]):
        call = FUNCTIONS[name].call
        yield call if literals is None else call(*literals), count, gives


@pytest.mark.parametrize("name", [*FUNCTIONS, "<", "<=", ">", ">=", "==", "in", "+", "-", "*", "/", "//", "%"])
def test_functions_never_fail_and_keep_to_their_kind(name: str) -> None:
    for call, count, gives in calls(name):
        for values in product(HOSTILE, repeat=min(count, 3)):
            result = call(*values)
            assert result is None or gives in ("any", "same") or type(result) in CLASSES[gives]
            if name in ("abs", "min", "max", "round", "int", "float", *"+-*/%", "//") and type(result) in (int, float):
                assert -(2**63) <= result < 2**63 or type(result) is float
                assert result - result == 0


@settings(deadline=None, max_examples=500)
@given(text=SOUP.map(" ".join) | SOUP.map("".join) | st.text(max_size=40))
def test_token_soup_is_refused_or_harmless(text: str) -> None:
    expression = attempt(text)
    if expression is not None:
        assert_of_kind(expression, evaluator(expression)(lambda path: None))


def sources() -> Iterator[str]:
    for name in ("config.py", "pipeline/writer.py"):
        tree = ast.parse((Path(tidegate.__file__).parent / name).read_text(encoding="utf-8"))
        yield from (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.expr))


def test_python_source_is_refused_or_harmless() -> None:
    texts = set(sources())
    passed = [text for text in texts if attempt(text) is not None]
    # Literals and comparisons of them are expressions; Python's names, attributes and calls are not.
    assert len(texts) > 1000
    assert 0 < len(passed) < len(texts) / 2


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000,
        "[" * 2000 + "]" * 2000,
        "not " * 1000 + "true",
        "-" * 4095 + "1",
        "unmapped" + ".a" * 2000,
        "a" + "()" * 2000,
        "1" + "+1" * 2000,
        "1 if " * 250 + "1" + " else 1" * 250,
        "9" * 4096,
        "'" + "\\x41" * 1000 + "'",
        "lower(" * 400 + "message" + ")" * 400,
        "1 <" * 1000 + "2",
        "matches(message, '" + "(a{9}" * 400 + ")" * 400 + "')",
    ],
)
def test_long_texts_are_compiled_or_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    attempt(text)
    assert time.perf_counter() - start < 5


def nested(form: str, inner: str = "message", levels: int = 30) -> str:
    for _ in range(levels):
        inner = form.format(inner)
    return inner


@pytest.mark.parametrize(
    "text",
    [
        nested("concat({0}, 'aaaa')"),
        nested("replace({0}, 'a', 'aaaaaaaaaa')"),
        nested("({0} + message)"),
        nested("upper(lower({0}))", levels=5),
        nested("url_decode({0})"),
        nested("json_get({0}, '0')"),
        nested("(1 if 1 < {0} < 3 else 2)", "length(message)", 10),
        nested("({0} * 9223372036854775807)", "1.5"),
        nested("(not {0})", "is_alert"),
        "concat(" + ", ".join(["message"] * 400) + ")",
        "replace(message, message, message)",
        "strip(message, message)",
        "split(message, 'a', -1)",
        "split(message, concat(substring(message, 0, 60000), 'b'), -1)",
        "contains(message, concat(substring(message, 0, 60000), 'b'))",
        "entropy(substring(message, 0, 65000))",
        "base64_decode(message)",
        "matches(message, '(a|aa|a*)*(a?){100}a{100}b$')",
        "extract(message, '((a*)*)*b')",
        "in_domain(message, 'example.com') or in_cidr(message, '10.0.0.0/8') or is_ip(message)",
        "domain(message, 8)",
        "any_of(privileges, 'x', 'y', 1, 2)",
    ],
)
def test_time_and_results_are_bounded(text: str) -> None:
    expression = compile_expression(text)
    assert_harmless(expression)
    for part in ("a", "%41", "\u0390", ".", "é\ud800"):
        message = part * (1_000_000 // len(part))
        values: dict[str, Any] = {"message": message, "privileges": [part] * 100_000, "is_alert": True}
        start = time.perf_counter()
        result = evaluator(expression)(values.get)
        assert time.perf_counter() - start < 5
        # `upper` and `lower` may make up to three times as much of a text that is longer already.
        assert not isinstance(result, str) or len(result) <= 9 * len(message)
