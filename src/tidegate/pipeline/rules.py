"""The language of the mapping rules: TOML, one file a source, read and checked here; `compiler.py` compiles it.

Invariant: a rule that names an unknown key, conversion, lookup, class or OCSF attribute is refused when it is loaded,
with file, line and the nearest valid name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from tidegate import tomlfile
from tidegate.errors import ConfigError, RuleError
from tidegate.ocsf import CLASSES, OcsfEvent
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.lines.csvline import Columns
from tidegate.pipeline.lines.formats import FORMATS
from tidegate.pipeline.lines.grok import PatternError, compile_grok
from tidegate.pipeline.lines.patterns import Patterns

__all__ = [
    "Attribute",
    "Condition",
    "CorrelationKey",
    "FieldRule",
    "Reshape",
    "Rule",
    "Source",
    "attribute_at",
    "fields_of",
    "load_source",
]


class FieldRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from", "as_": "as"}):
    """Where the value of an attribute comes from."""

    from_: str | list[str] = []
    """The native field, or several of which the first usable one counts."""
    as_: str | None = None
    """A conversion; by default the one that fits the attribute."""
    lookup: str | None = None
    """The table of `[lookups]` that turns the native value into the attribute's."""
    present: str | int | bool | None = None
    """The value when the native field is there at all, whatever it says."""
    default: str | int | bool | None = None
    """The value when no native field is usable."""
    unless: str | None = None
    """An attribute set before this one; where it has a value, `default` does not count."""
    value: str | int | bool | None = None
    """A constant."""

    @property
    def fields(self) -> list[str]:
        return [self.from_] if isinstance(self.from_, str) else self.from_


Setting = str | int | bool | list[str] | FieldRule
"""A native field or several alternatives (text), a constant (number or truth value), or a table."""

Mapping = dict[str, Setting]
"""Attribute -> where its value comes from."""


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition other than equality."""

    exists: bool | None = None
    starts: list[str] = []
    ends: list[str] = []


class CorrelationKey(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from", "as_": "as"}
):
    """One way to a correlation id: all of these fields, joined by `:`; not used when one is missing or in `skip`."""

    from_: str | list[str]
    as_: str | None = None
    skip: list[str] = []

    @property
    def fields(self) -> list[str]:
        return [self.from_] if isinstance(self.from_, str) else self.from_


class Reshape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Brings records of another shape into the one that the rules below know; what it does not name stays put."""

    when: str
    """Records that have this field."""
    move: dict[str, str] = {}
    """Native field -> top-level field."""
    lift: list[str] = []
    """Objects whose members move to the top level, unless their name is taken.

    A list of one object, and the JSON text of an object, count as that object.
    """


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"class_": "class"}):
    """Records that meet all of `when` become an event of `class`."""

    name: str
    when: dict[str, str | int | bool | list[str | int] | Condition] = {}
    class_: str
    activity: int | FieldRule = 0
    severity: int | FieldRule = 1
    use: list[str] = []
    """Groups whose attributes are set too; the rule's own `set` wins."""
    set: Mapping = {}
    correlation: list[CorrelationKey] | None = None
    time: list[str] | None = None
    """The fields that hold the time of these records, where they are not those of the source."""


class Product(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    vendor: str


class Time(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: list[str]
    """The first of these that is present must be a time; text without a zone is UTC."""
    missing: Annotated[str, Meta(pattern="^(dead_letter|received)$")] = "dead_letter"
    """What becomes of a record without any of them: a dead letter, or the time at which it was received counts."""


class Identity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which fields identify a record, wherever and however often it arrives; without them its position does."""

    from_: list[str] = []
    """These together, hashed; not used when the first is missing."""
    uuid: str | None = None
    """A field that holds a UUID, which is the event's id as it is."""


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source: how its records are recognised, and the rules that map them."""

    source: str
    aliases: list[str] = []
    product: Product
    format: str = "json"
    """How records that are text are read (`lines/formats.py`); objects are taken as they are."""
    columns: Columns | None = None
    """The names of the columns, for the format `csv`."""
    patterns: Patterns | None = None
    """What is found in the message of a record that is text."""
    select: list[str]
    """The field (the first present of these) whose value picks the rules."""
    nested: bool = True
    """Whether a dot in a native field leads into an object, but for what is in double quotes (`labels."k8s.io/kind"`);
    otherwise it is part of the name."""
    absent: list[str] = []
    """Texts that stand for no value."""
    time: Time
    id: Identity = Identity()
    correlation: list[CorrelationKey]
    reshape: list[Reshape] = []
    lookups: dict[str, dict[str, str | int]] = {}
    groups: dict[str, Mapping] = {}
    rule: list[Rule]
    other: list[str] = []
    """Groups for records that no rule takes: they become Base Events."""


class Attribute(Struct, frozen=True, kw_only=True):
    """What OCSF says of one attribute path."""

    kind: str
    """The conversion that fits."""
    observable: int | None
    many: bool
    """Whether the value is a list."""


def load_source(path: Path) -> Source:
    """The checked rules in the file at `path`; raises RuleError with file, line and the nearest valid name."""
    try:
        source = tomlfile.load(path, Source)
    except ConfigError as error:
        raise RuleError(error.where, error.problem) from error
    _Checker(path, source).check()
    return source


class _Checker:
    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._text = path.read_text(encoding="utf-8")
        self._source = source

    def _fail(self, steps: list[str | int], problem: str) -> RuleError:
        return RuleError(f"{self._path}:{tomlfile.line_of(self._text, steps)}", problem)

    def check(self) -> None:
        source = self._source
        self._format()
        self._keys(["correlation"], source.correlation)
        for name, group in source.groups.items():
            for attribute, setting in group.items():
                self._attribute(["groups", name, attribute], attribute, setting)
        self._groups(["other"], source.other)
        names: set[str] = set()
        for index, rule in enumerate(source.rule):
            at: list[str | int] = ["rule", index]
            if rule.name in names:
                raise self._fail([*at, "name"], f'a second rule is named "{rule.name}"')
            names.add(rule.name)
            if rule.class_ not in CLASSES:
                hint = tomlfile.nearest(rule.class_, list(CLASSES))
                raise self._fail([*at, "class"], f'unknown class "{rule.class_}"{hint}')
            self._groups([*at, "use"], rule.use)
            self._keys([*at, "correlation"], rule.correlation or [])
            for attribute, setting in rule.set.items():
                self._attribute([*at, "set", attribute], attribute, setting)
            for attribute, number in (("activity", rule.activity), ("severity", rule.severity)):
                self._attribute([*at, attribute], f"{attribute}_id", number)

    def _format(self) -> None:
        source = self._source
        formats = ["json", *FORMATS]
        if source.format not in formats:
            raise self._fail(["format"], f'unknown format "{source.format}"{tomlfile.nearest(source.format, formats)}')
        if source.columns is not None and source.format != "csv":
            raise self._fail(["columns"], f'only the format "csv" has columns, not "{source.format}"')
        for value, group in (source.patterns.match if source.patterns else {}).items():
            for name, pattern in group.items():
                try:
                    compile_grok(pattern)
                except PatternError as error:
                    raise self._fail(["patterns", "match", value, name], str(error)) from error

    def _keys(self, at: list[str | int], keys: list[CorrelationKey]) -> None:
        for index, key in enumerate(keys):
            if key.as_ is not None and key.as_ not in CONVERSIONS:
                hint = tomlfile.nearest(key.as_, list(CONVERSIONS))
                raise self._fail([*at, index, "as"], f'unknown conversion "{key.as_}"{hint}')

    def _groups(self, at: list[str | int], names: list[str]) -> None:
        for name in names:
            if name not in self._source.groups:
                hint = tomlfile.nearest(name, list(self._source.groups))
                raise self._fail(at, f'unknown group "{name}"{hint}')

    def _attribute(self, at: list[str | int], path: str, setting: Setting) -> None:
        try:
            attribute_at(path)
        except LookupError as error:
            raise self._fail(at, str(error.args[0])) from error
        if not isinstance(setting, FieldRule):
            return
        if setting.as_ is not None and setting.as_ not in CONVERSIONS:
            hint = tomlfile.nearest(setting.as_, list(CONVERSIONS))
            raise self._fail(at, f'unknown conversion "{setting.as_}"{hint}')
        if setting.lookup is not None and setting.lookup not in self._source.lookups:
            hint = tomlfile.nearest(setting.lookup, list(self._source.lookups))
            raise self._fail(at, f'unknown lookup "{setting.lookup}"{hint}')
        if setting.unless is not None:
            self._attribute(at, setting.unless, True)
        if bool(setting.fields) == (setting.value is not None):
            raise self._fail(at, f'"{path}" needs either "from" or "value"')


def split(path: str) -> list[tuple[str, str | None]]:
    """`file.hashes[md5].value` as names, each with the label of the list element that it stands for."""
    parts: list[tuple[str, str | None]] = []
    for part in path.split("."):
        name, bracket, label = part.partition("[")
        parts.append((name, label.rstrip("]") if bracket else None))
    return parts


def shape_of(hint: Any) -> tuple[type[Struct] | None, bool, dict[str, Any]]:
    """The Struct (None for a plain value), whether it is a list, and the marks of an annotation in `ocsf.py`."""
    many = False
    marks: dict[str, Any] = {}
    while True:
        origin = get_origin(hint)
        if origin is Union or origin is UnionType:
            hint = next(each for each in get_args(hint) if each is not type(None))
        elif origin is list:
            many, hint = True, get_args(hint)[0]
        elif origin is Annotated:
            hint, *rest = get_args(hint)
            marks = rest[0].extra
        else:
            break
    if isinstance(hint, type) and issubclass(hint, Struct):
        return hint, many, marks
    return None, many, {"kind": {bool: "bool", float: "float", int: "int", str: "text"}.get(hint, "any"), **marks}


# Kept, as msgspec evaluates all annotations anew at each call.
fields_of = cache(msgspec.structs.fields)


@cache
def hints_of(struct: type[Struct]) -> dict[str, Any]:
    """The annotations of `struct` by encoded name."""
    hints = get_type_hints(struct, include_extras=True)
    return {field.encode_name: hints[field.name] for field in fields_of(struct)}


@cache
def attribute_at(path: str) -> Attribute:
    """The attribute at `path` of an event; raises LookupError with a hint when OCSF (as we have it) has none."""
    struct: type[Struct] = OcsfEvent
    parts = split(path)
    for position, (name, label) in enumerate(parts):
        hints = hints_of(struct)
        if name not in hints:
            raise LookupError(f'unknown attribute "{name}" in "{path}"{tomlfile.nearest(name, list(hints))}')
        inner, many, marks = shape_of(hints[name])
        last = position == len(parts) - 1
        if label is not None and not many:
            raise LookupError(f'"{name}" in "{path}" is not a list')
        if last:
            if inner is not None and not many:
                raise LookupError(f'"{path}" is an object; set one of its attributes')
            kind = marks.get("kind", "any") if inner is None else "any"
            if many and inner is None:
                kind = {"email": "emails", "int": "ints"}.get(kind, "texts")
            observable = 8 if name == "hashes" else marks.get("observable")
            return Attribute(kind=kind, observable=observable, many=many)
        if inner is None:
            raise LookupError(f'"{name}" in "{path}" has no attributes')
        if many and label is None:
            raise LookupError(f'"{name}" in "{path}" is a list; write {name}[1]')
        struct = inner
    raise LookupError("an attribute needs a name")
