"""What a GraphQL document would cost, before anything else looks at it: how deep it is, and how much it could return.

Invariant: the measure takes time in proportion to the length of the document, whatever its fragments and aliases do;
validating and executing take more, and are not begun with a document that is over a limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    SelectionSetNode,
    VariableNode,
)
from strawberry.extensions import SchemaExtension

from tidegate.errors import Code, RefusedError

__all__ = ["MAX_COST", "MAX_DEPTH", "MAX_TOKENS", "Limits", "Measure", "measured"]

MAX_TOKENS = 5000
MAX_DEPTH = 16
"""The introspection query of common tools goes 13 deep."""
MAX_COST = 50_000
"""About as many values may be in an answer."""
MAX_FIELDS = 1000
"""In one set of selections: whether they can be merged is looked at for each pair (GraphQL, 5.3.2)."""

_ITSELF = {"event": 5, "sql": 500, "entity": 5, "publish": 5, "command": 5, "positions": 50}
"""What a field costs beside the values that it returns."""
_MANY = {"counts": 60, "types": 30, "fields": 8, "args": 2, "inputFields": 4, "enumValues": 4, "interfaces": 2}
_MANY |= {"possibleTypes": 4, "directives": 8}
"""How many of its kind a field returns, about, where no argument says it."""
_FIRST = 100


class Measure(NamedTuple):
    depth: int
    cost: int
    fields: int
    """Those of the set itself, fragments included."""


class Limits(SchemaExtension):
    """Refuses documents that are over a limit."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = MAX_TOKENS
        yield

    def on_parse(self) -> Iterator[None]:
        yield
        document = self.execution_context.graphql_document
        if document is not None:
            _check(measured(document, self.execution_context.variables or {}))


def _check(found: Measure) -> None:
    for what, is_, most in (("deep", found.depth, MAX_DEPTH), ("costly", found.cost, MAX_COST)):
        if is_ > most:
            raise RefusedError(Code.TOO_LARGE, f"this document is too {what}: {is_}, and at most {most} is taken")
    if found.fields > MAX_FIELDS:
        raise RefusedError(Code.TOO_LARGE, f"a selection has {found.fields} fields, more than {MAX_FIELDS}")


def measured(document: DocumentNode, variables: Mapping[str, Any]) -> Measure:
    """Of all operations together."""
    fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
    known: dict[str, Measure | None] = {}

    def of_fragment(name: str) -> Measure:
        if name not in known:
            known[name] = None
            fragment = fragments.get(name)
            known[name] = of_set(fragment.selection_set) if fragment else Measure(0, 0, 0)
        # One that is within itself is refused when the document is validated.
        return known[name] or Measure(0, 0, 0)

    widest = 0

    def of_set(selections: SelectionSetNode | None) -> Measure:
        nonlocal widest
        depth = cost = fields = 0
        for one in selections.selections if selections else ():
            match one:
                case FieldNode():
                    below = of_set(one.selection_set)
                    name = one.name.value
                    part = Measure(below.depth + 1, _ITSELF.get(name, 1) + _many(one, variables) * below.cost, 1)
                case FragmentSpreadNode():
                    part = of_fragment(one.name.value)
                case InlineFragmentNode():
                    part = of_set(one.selection_set)
                case _:
                    continue
            # Not beyond what is refused anyway: numbers would grow without bound in documents of nested fragments.
            depth, cost = max(depth, part.depth), min(cost + part.cost, 10 * MAX_COST)
            fields = min(fields + part.fields, 10 * MAX_FIELDS)
        widest = max(widest, fields)
        return Measure(depth, cost, fields)

    found = [of_set(one.selection_set) for one in document.definitions if not isinstance(one, FragmentDefinitionNode)
             and hasattr(one, "selection_set")]  # fmt: skip
    return Measure(max((one.depth for one in found), default=0), sum(one.cost for one in found), widest)


def _many(field: FieldNode, variables: Mapping[str, Any]) -> int:
    name = field.name.value
    if name != "events":
        return _MANY.get(name, 1)
    for argument in field.arguments or ():
        if argument.name.value == "first":
            match argument.value:
                case IntValueNode(value=text):
                    return max(1, int(text[:9]))
                case VariableNode(name=called):
                    given = variables.get(called.value)
                    return max(1, given) if isinstance(given, int) else _FIRST
    return _FIRST
