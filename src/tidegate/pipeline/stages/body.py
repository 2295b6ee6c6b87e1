"""The code of one stage, and what each type of stage builds it from.

Invariant: a stage changes an event only after everything of it that can fail has been done, so that an event whose
stage has failed is as it was before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tidegate.errors import ExpressionError, RecordError, RuleError
from tidegate.ocsf import Observable
from tidegate.pipeline import access
from tidegate.pipeline.definition import Definition
from tidegate.pipeline.enrichment.library import Library as Tables
from tidegate.pipeline.expressions import compile_expression
from tidegate.pipeline.rules import Attribute
from tidegate.pipeline.support import Shared

__all__ = ["Body", "remove_observables"]


class Body:
    """Lines of Python that work on the event `e`, at the index `row`; `continue` once `drop` was called."""

    def __init__(self, definition: Definition, index: int, tables: Tables | None) -> None:
        self.definition = definition
        self.tables = tables
        self.index = index
        self.first: list[str] = []
        """What is done once for each list of events."""
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"EMPTY": {}, "RecordError": RecordError}
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.changes: set[str] = set()
        self.found: Counter[str] | None = None
        """By detector, how often a stage that redacts texts has found something."""
        self._constants = 0

    def fail(self, steps: list[str | int], problem: str) -> RuleError:
        """The error for what is at `steps` of the stage."""
        return self.definition.fail(["stage", self.index, *steps], problem)

    def put(self, *lines: str) -> None:
        self.lines += lines

    def constant(self, value: Any) -> str:
        """A name for `value` in the code."""
        name = f"C{self._constants}"
        self._constants += 1
        self.names[name] = value
        return name

    def expression(self, text: str, steps: list[str | int]) -> tuple[str, str]:
        """Code for the value of an expression (the loads that it needs are put before), and its kind."""
        try:
            found = compile_expression(text, access.check_readable)
        except ExpressionError as error:
            raise self.fail(steps, f"{error} in {text!r}") from error
        for number, path in enumerate(found.paths):
            self.reads.add(path)
            self.put(f"v{number} = {access.read(path)}")
        self.names |= found.names
        return found.code, found.kind

    def condition(self, text: str, steps: list[str | int]) -> str:
        """Code for an expression that is true or not."""
        code, kind = self.expression(text, steps)
        if kind not in ("bool", "any"):
            raise self.fail(steps, f"a condition is true or false, but {text!r} is {kind}")
        # Texts and numbers of unknown kind are not true, whatever Python takes them for.
        return f"({code}) is True" if kind == "any" else code

    def readable(self, path: str, steps: list[str | int]) -> Attribute:
        """Checks that there is such an attribute, and notes that it is read."""
        return self._checked(access.check_readable, path, steps, self.reads)

    def writable(self, path: str, steps: list[str | int], *, whole: bool = False) -> Attribute:
        """Checks that stages may change the attribute, and notes that this one does."""
        if whole and path in access.REQUIRED:
            raise self.fail(steps, f'"{path}" is required of every event')
        found = self._checked(lambda one: access.check_writable(one, whole=whole), path, steps, self.writes)
        if found.observable is not None:
            self.reads.add("observables")
        return found

    def changeable(self, path: str, steps: list[str | int], *, whole: bool = False) -> Attribute:
        """Checks that stages may change the attribute where it has a value, and notes that this one does."""
        return self._checked(lambda one: access.check_changeable(one, whole=whole), path, steps, self.changes)

    def _checked(
        self, check: Callable[[str], Attribute], path: str, steps: list[str | int], noted: set[str]
    ) -> Attribute:
        try:
            found = check(path)
        except LookupError as error:
            raise self.fail(steps, str(error.args[0])) from error
        noted.add(path)
        return found

    def write(self, path: str, value: str, attribute: Attribute) -> list[str]:
        """Lines that set an attribute, and the observable of the same name with it."""
        lines = access.write(path, value)
        if attribute.observable is not None and not attribute.many:
            lines.append(f"replace_observable(e, {self._observables(path, attribute.observable)}, {path!r}, {value})")
        return lines

    def remove(self, path: str) -> list[str]:
        """Lines that remove an attribute or object, and the observables in it."""
        self.reads.add("observables")
        self.names["remove_observables"] = remove_observables
        return [*access.remove(path), f"remove_observables(e, {path!r}, {path + '.'!r})"]

    def _observables(self, path: str, type_id: int) -> str:
        self.names["replace_observable"] = replace_observable
        return self.constant(Shared(lambda value: Observable(name=path, type_id=type_id, value=value)))


def replace_observable(event: Any, table: Shared, path: str, value: Any) -> None:
    """Makes `value` the only observable of that name."""
    remove_observables(event, path, path)
    if value.__class__ is str:
        event.observables = [*(event.observables or ()), table[value]]


def remove_observables(event: Any, path: str, prefix: str) -> None:
    """Removes the observables named `path`, or whose name begins with `prefix`."""
    if event.observables:
        kept = [one for one in event.observables if one.name != path and not one.name.startswith(prefix)]
        event.observables = kept or None
