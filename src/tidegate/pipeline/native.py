"""How generated code reaches the values of a native record: in the dict that a decoder made, or in a learned Struct.

Invariant: whatever an attribute does not take is in what is left of the record (`View.rest`) at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

__all__ = ["MISSING", "DictView", "Known", "Shape", "ShapeView", "View", "identifier", "learn", "read"]


def identifier(text: str) -> str:
    """`text` as a part of a Python name."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def read(keys: tuple[str, ...]) -> str:
    """The value at `keys` in `record`, None where there is none."""
    inner = f"record.get({keys[0]!r})"
    for key in keys[1:]:
        inner = f"(parent if (parent := {inner}).__class__ is dict else EMPTY).get({key!r})"
    return inner


class View(Protocol):
    """What the writer of a rule needs to know of the record. Keys are those that lead to a value."""

    argument: str
    """The name of the function's first argument."""

    rest: str
    """What is left of the record at the end, None where that is nothing."""

    def take(self, keys: tuple[str, ...]) -> str:
        """The value, which is then no longer left; None where there is none."""

    def peek(self, keys: tuple[str, ...]) -> str:
        """The value, which is left as well."""

    def drop(self, keys: tuple[str, ...]) -> str:
        """A line after which the value is no longer left."""

    def put(self, keys: tuple[str, ...], value: str) -> str:
        """A line that leaves `value` at `keys`."""

    def convert(self, keys: tuple[str, ...], function: str, name: str) -> list[str]:
        """Lines that convert the variable `name`, which was taken; what cannot be converted is left after all."""

    def spill(self, pairs: str) -> str:
        """A line that leaves the attributes (path, value) in the tuple `pairs`."""

    def absent(self, keys: tuple[str, ...]) -> str:
        """A condition that is true where the inner object that the value would be in is not there."""

    def lacks(self, keys: tuple[str, ...]) -> bool:
        """Whether it is known that there is no such value."""

    def is_always(self, keys: tuple[str, ...], kind: type) -> bool:
        """Whether it is known that the value, where there is one, is of this type."""

    def prologue(self) -> list[str]:
        """What comes first in the function; to be asked for last."""

    def epilogue(self) -> list[str]:
        """What comes before the event is made."""


class DictView:
    """A decoded record: values are popped off it."""

    argument = "record"
    rest = "record or None"

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], str] = {(): "record"}

    def parent(self, keys: tuple[str, ...]) -> str:
        return self.inner(keys[:-1])

    def inner(self, keys: tuple[str, ...]) -> str:
        """The local variable of an inner object."""
        if keys not in self._names:
            self.inner(keys[:-1])
            self._names[keys] = f"in_{len(self._names)}_{identifier(keys[-1])}"
        return self._names[keys]

    def take(self, keys: tuple[str, ...]) -> str:
        return f"{self.parent(keys)}.pop({keys[-1]!r}, None)"

    def peek(self, keys: tuple[str, ...]) -> str:
        return f"{self.parent(keys)}.get({keys[-1]!r})"

    def drop(self, keys: tuple[str, ...]) -> str:
        return self.take(keys)

    def put(self, keys: tuple[str, ...], value: str) -> str:
        return f"{self.parent(keys)}[{keys[-1]!r}] = {value}"

    def convert(self, keys: tuple[str, ...], function: str, name: str) -> list[str]:
        return [f"{name} = put_back({function}, {self.parent(keys)}, {keys[-1]!r}, {name})"]

    def spill(self, pairs: str) -> str:
        return f"spill(record, {pairs})"

    def absent(self, keys: tuple[str, ...]) -> str:
        return f"{self.parent(keys)} is EMPTY"

    def lacks(self, keys: tuple[str, ...]) -> bool:
        return False

    def is_always(self, keys: tuple[str, ...], kind: type) -> bool:
        return False

    def prologue(self) -> list[str]:
        lines: list[str] = []
        for keys, name in self._names.items():
            if keys:
                lines += [
                    f"    {name} = {self._names[keys[:-1]]}.get({keys[-1]!r})",
                    f"    if {name}.__class__ is not dict:",
                    f"        {name} = EMPTY",
                ]
        return lines

    def epilogue(self) -> list[str]:
        lines: list[str] = []
        for keys, name in reversed(self._names.items()):
            if keys:
                lines += [
                    f"    if not {name} and {name} is not EMPTY:",
                    f"        {self._names[keys[:-1]]}.pop({keys[-1]!r}, None)",
                ]
        return lines


class Known(Struct, frozen=True, kw_only=True):
    """What is known of one key of an object."""

    required: bool
    """Whether every record had it."""
    kind: type | None = None
    """The only type seen, where it is one that a decoder can hold a value to."""
    inside: Shape | None = None
    """The object's own keys, where a rule reaches into it."""


class Shape(Struct, frozen=True, kw_only=True):
    """The keys of an object."""

    keys: dict[str, Known]


def learn(records: list[dict[str, Any]], fields: set[tuple[str, ...]], most_keys: int) -> Shape | None:
    """What keys `records` have, down to the `fields` that are looked at; None where that is not clear enough."""
    names = dict.fromkeys(key for record in records for key in record)
    if len(names) > most_keys:
        return None
    keys: dict[str, Known] = {}
    for name in names:
        values = [record[name] for record in records if name in record]
        there = [value for value in values if value is not None]
        below = {each[1:] for each in fields if each[0] == name and len(each) > 1}
        required = len(there) == len(records)
        if below and there:
            if any(value.__class__ is not dict for value in there):
                return None
            inside = learn(there, below, most_keys)
            if inside is None:
                return None
            keys[name] = Known(required=required, inside=inside)
            continue
        kinds = {value.__class__ for value in there}
        kind = kinds.pop() if (name,) in fields and len(kinds) == 1 else None
        if kind is not None and kind not in (str, int, bool):
            kind = None
        keys[name] = Known(required=required if kind is not None else len(values) == len(records), kind=kind)
    return Shape(keys=keys)


class ShapeView:
    """A record decoded into a Struct that has the keys of `shape` and no others.

    What is left is put into another Struct at the end: to build and to encode it takes a third of the time of a dict.
    """

    argument = "native"
    rest = "rest"

    def __init__(
        self,
        shape: Shape,
        tag_field: str,
        tag: str | int | None,
        renames: dict[str, str],
        leftovers: Callable[[tuple[str, ...]], str],
        *,
        plain: bool,
    ) -> None:
        """`leftovers`: the name of the Struct with such keys. `plain`: what is left is to be a dict."""
        self._shape = shape
        self._tag_field = tag_field
        self._tag = tag
        self._renames = renames
        self._leftovers = leftovers
        self._plain = plain
        self._spills = False
        self._taken: set[tuple[str, ...]] = set()
        self._variables: dict[tuple[str, ...], str] = {}
        """Variables of values that may cease to be left, or be left after all."""
        self._objects: dict[tuple[str, ...], str] = {(): "native"}
        self.struct = self._struct(shape, tag_field if tag is not None else None)

    def _struct(self, shape: Shape, tag_field: str | None = None) -> type[Struct]:
        required: list[tuple[str, Any]] = []
        optional: list[tuple[str, Any, Any]] = []
        names: dict[str, str] = {}
        for number, (key, known) in enumerate(shape.keys.items()):
            if key == tag_field:
                continue
            name = f"f{number}"
            names[name] = key
            if known.inside is not None:
                kind: Any = self._struct(known.inside)
            else:
                kind = Any if known.kind is None else known.kind
            if known.required:
                required.append((name, kind))
            elif known.inside is not None or known.kind is not None:
                optional.append((name, kind | None, None))
            else:
                optional.append((name, Any, MISSING))
        return msgspec.defstruct(
            "Native",
            [*required, *optional],
            tag_field=tag_field,
            tag=self._tag if tag_field else None,
            rename={name: self._renames.get(key, key) for name, key in names.items()},
            forbid_unknown_fields=True,
            frozen=True,
            gc=False,
        )

    def _known(self, keys: tuple[str, ...]) -> Known | None:
        shape: Shape | None = self._shape
        known: Known | None = None
        for key in keys:
            known = shape.keys.get(key) if shape else None
            shape = known.inside if known else None
        return known

    def _is_tag(self, keys: tuple[str, ...]) -> bool:
        return self._tag is not None and keys == (self._tag_field,)

    def _object(self, keys: tuple[str, ...]) -> str:
        if keys not in self._objects:
            self._object(keys[:-1])
            self._objects[keys] = f"at_{len(self._objects)}"
        return self._objects[keys]

    def _value(self, keys: tuple[str, ...]) -> str:
        if self._is_tag(keys):
            return repr(self._tag)
        known = self._known(keys)
        if known is None:
            return "None"
        shape = self._inside(keys[:-1])
        value = f"{self._object(keys[:-1])}.f{list(shape.keys).index(keys[-1])}"
        if not self._is_there(keys[:-1]):
            value = f"(None if {self._object(keys[:-1])} is None else {value})"
        if not known.required and known.kind is None and known.inside is None:
            value = f"(None if {value} is MISSING else {value})"
        return value

    def _inside(self, keys: tuple[str, ...]) -> Shape:
        if not keys:
            return self._shape
        known = self._known(keys)
        assert known is not None
        assert known.inside is not None
        return known.inside

    def _is_there(self, keys: tuple[str, ...]) -> bool:
        """Whether every record has the object at `keys`."""
        all_known = [self._known(keys[:length]) for length in range(1, len(keys) + 1)]
        return all(known is not None and known.required for known in all_known)

    def _variable(self, keys: tuple[str, ...]) -> str:
        if self.absent(keys) == "True":
            keys = (".".join(keys),)
        return self._variables.setdefault(keys, f"left_{len(self._variables)}_{identifier(keys[-1])}")

    def take(self, keys: tuple[str, ...]) -> str:
        self._taken.add(keys)
        return self.peek(keys)

    def peek(self, keys: tuple[str, ...]) -> str:
        self.absent(keys)
        return self._value(keys)

    def drop(self, keys: tuple[str, ...]) -> str:
        return f"{self._variable(keys)} = MISSING"

    def put(self, keys: tuple[str, ...], value: str) -> str:
        return f"{self._variable(keys)} = {value}"

    def convert(self, keys: tuple[str, ...], function: str, name: str) -> list[str]:
        left = self._variable(keys)
        return [f"{left} = {name}", f"{name} = {function}({name})", f"if {name} is not None:", f"    {left} = MISSING"]

    def spill(self, pairs: str) -> str:
        self._spills = True
        return f"record = spill({{}} if record is None else record, {pairs})"

    def absent(self, keys: tuple[str, ...]) -> str:
        for length in range(1, len(keys)):
            known = self._known(keys[:length])
            if known is None or known.inside is None:
                return "True"
            self._object(keys[:length])
        return "False" if self._is_there(keys[:-1]) else f"{self._objects[keys[:-1]]} is None"

    def lacks(self, keys: tuple[str, ...]) -> bool:
        return self._known(keys) is None and not self._is_tag(keys)

    def is_always(self, keys: tuple[str, ...], kind: type) -> bool:
        if self._is_tag(keys):
            return isinstance(self._tag, kind)
        known = self._known(keys)
        return known is not None and known.kind is kind

    def prologue(self) -> list[str]:
        lines = [f"    {name} = {self._value(keys)}" for keys, name in self._objects.items() if keys]
        for keys, name in self._variables.items():
            kept = keys not in self._taken and (self._known(keys) is not None or self._is_tag(keys))
            there = f"MISSING if {self.absent(keys)} else " if not self._is_there(keys[:-1]) else ""
            lines.append(f"    {name} = {there + self._left(keys) if kept else 'MISSING'}")
        return [*lines, "    record = None"] if self._spills else lines

    def _left(self, keys: tuple[str, ...]) -> str:
        """The value at `keys` of an object that is there, MISSING where there is none."""
        known = self._known(keys)
        if self._is_tag(keys):
            return repr(self._tag)
        assert known is not None
        thing = self._object(keys[:-1])
        value = f"{thing}.f{list(self._inside(keys[:-1]).keys).index(keys[-1])}"
        if not known.required and known.kind is not None:
            value = f"(MISSING if {value} is None else {value})"
        return value

    def epilogue(self) -> list[str]:
        """What is left of inner objects comes after everything else of the object that they are in."""
        lines: list[str] = []
        inner: dict[tuple[str, ...], dict[str, str]] = {}
        for keys, thing in reversed(self._objects.items()):
            shape = self._inside(keys)
            paths = [(*keys, key) for key in shape.keys if (*keys, key) not in self._taken | self._objects.keys()]
            paths.sort(key=lambda path: not (shape.keys[path[-1]].required or self._is_tag(path)))
            paths += [path for path in self._variables if path[:-1] == keys and path not in paths]
            there = self._is_there(keys)
            values = {path[-1]: self._variables.get(path) or self._left(path) for path in paths}
            certain = any(path not in self._variables and shape.keys[path[-1]].required for path in paths)
            values |= inner.get(keys, {})
            if not values:
                lines += ["    rest = None"] if not keys else []
                continue
            made = f"{self._leftovers(tuple(values))}({', '.join(values.values())})"
            nothing = [] if there else [f"{thing} is None"]
            if not certain:
                nothing.append(f"{' is '.join(values.values())} is MISSING")
            name, none = ("rest", "None") if not keys else (f"rest_{thing}", "MISSING")
            lines.append(f"    {name} = " + (f"{none} if {' or '.join(nothing)} else {made}" if nothing else made))
            if keys:
                inner.setdefault(keys[:-1], {})[keys[-1]] = name
        if self._spills:
            lines += ["    if record is not None:", f"        rest = join(rest, record, {tuple(inner.get((), {}))!r})"]
        return [*lines, "    rest = to_builtins(rest)"] if self._plain else lines


MISSING = msgspec.UNSET
"""In the place of an optional value of any type that is not there."""
