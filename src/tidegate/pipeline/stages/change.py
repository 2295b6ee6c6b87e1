"""Stages that change attributes by what other attributes say: transform and parse."""

from __future__ import annotations

from collections.abc import Callable

from tidegate.pipeline import access
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.definition import Operation, Parse, Transform
from tidegate.pipeline.lines.grok import PatternError, compile_grok
from tidegate.pipeline.rules import Attribute
from tidegate.pipeline.stages.body import Body

__all__ = ["write_parse", "write_transform"]

_KINDS = {"int": {"int", "port", "time", "any"}, "bool": {"bool", "any"}, "float": {"any"}, "list": {"any"}}
"""Kinds of expressions that are not converted -> kinds of attributes that they fit; text is converted."""


def write_transform(stage: Transform, body: Body) -> None:
    for index, operation in enumerate(stage.operations):
        at: list[str | int] = ["operations", index]
        given = [name for name in ("set", "rename", "remove", "split") if getattr(operation, name)]
        if len(given) != 1:
            raise body.fail(at, "an operation is one of set, rename, remove, split")
        for path, text in operation.set.items():
            _set(path, text, body, [*at, "set", path])
        for path, target in operation.rename.items():
            _rename(path, target, body, [*at, "rename", path])
        for path in operation.remove:
            body.writable(path, [*at, "remove"], whole=True)
            body.put(*body.remove(path))
        if operation.split:
            _split(operation, body, at)


def _set(path: str, text: str, body: Body, steps: list[str | int]) -> None:
    attribute = body.writable(path, steps)
    code, kind = body.expression(text, steps)
    if kind in _KINDS and attribute.kind not in _KINDS[kind] and not (kind == "list" and attribute.many):
        raise body.fail(steps, f'"{path}" is {attribute.kind}, but {text!r} is {kind}')
    body.put(f"value = {code}")
    _assign(path, attribute, body, converted=kind in ("int", "bool") and attribute.kind == kind)


def _assign(path: str, attribute: Attribute, body: Body, *, converted: bool = False) -> None:
    """Writes `value`, converted to what the attribute takes; without one, the attribute stays as it was."""
    if not converted and attribute.kind != "any":
        convert = body.constant(CONVERSIONS[attribute.kind].function)
        body.put("if value is not None:", f"    value = {convert}(value)")
    body.put("if value is not None:", *(f"    {line}" for line in body.write(path, "value", attribute)))


def _rename(path: str, target: str, body: Body, steps: list[str | int]) -> None:
    body.writable(path, steps, whole=True)
    attribute = body.writable(target, steps)
    body.put(f"before = value = {access.read(path)}")
    _assign(target, attribute, body)
    # What does not fit the other attribute stays where it was.
    body.put("if value is not None:", *(f"    {line}" for line in body.remove(path)))


def _split(operation: Operation, body: Body, at: list[str | int]) -> None:
    if not operation.into or not operation.separator:
        raise body.fail(at, 'a split needs "separator" and "into"')
    body.readable(operation.split, [*at, "split"])
    body.put(
        f"parts = {access.read(operation.split)}",
        f"parts = parts.split({operation.separator!r}, {len(operation.into) - 1}) if parts.__class__ is str else ()",
    )
    for number, path in enumerate(operation.into):
        attribute = body.writable(path, [*at, "into"])
        body.put(f"value = parts[{number}] if len(parts) > {number} else None")
        _assign(path, attribute, body)


def write_parse(stage: Parse, body: Body) -> None:
    body.readable(stage.field, ["field"])
    patterns: list[Callable[[str], dict[str, str] | None]] = []
    for index, pattern in enumerate(stage.patterns):
        try:
            patterns.append(compile_grok(pattern))
        except PatternError as error:
            raise body.fail(["patterns", index], str(error)) from error

    def first(text: str) -> dict[str, str] | None:
        return next((found for each in patterns if (found := each(text)) is not None), None)

    body.put(
        f"text = {access.read(stage.field)}",
        f"found = {body.constant(first)}(text) if text.__class__ is str else None",
    )
    if stage.required:
        problem = f"no pattern matches {stage.field}"
        body.put("if found is None:", f"    raise RecordError('parse', {stage.name!r}, {problem!r})")
    body.put("if found is None:", "    found = EMPTY")
    for path, group in stage.set.items():
        attribute = body.writable(path, ["set", path])
        body.put(f"value = found.get({group!r})")
        _assign(path, attribute, body)
