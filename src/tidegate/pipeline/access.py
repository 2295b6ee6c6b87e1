"""How the code of stages reads and changes attributes of an event in place.

Invariant: an event that stages see has, of every object on the way to an attribute that they touch, one of its own (not
one that is shared or encoded already) with a slot for that attribute; `compiler.py` and `thaw` see to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.ocsf import OcsfEvent
from tidegate.pipeline.expressions import steps_of
from tidegate.pipeline.rules import Attribute, attribute_at, hints_of, shape_of

__all__ = [
    "Touched",
    "assign",
    "check_changeable",
    "check_readable",
    "check_writable",
    "fresh",
    "read",
    "remove",
    "thaw",
    "write",
]

FIXED = ("activity_id", "category_uid", "class_uid", "metadata", "observables", "type_uid")
"""What the pipeline itself says of an event; stages read it."""
REQUIRED = (*FIXED, "severity_id", "time")
_UNMAPPED = "unmapped"
_ANY = Attribute(kind="any", observable=None, many=False)


class Touched:
    """The attributes that the stages of one pipeline read, write, or change where they have a value already."""

    def __init__(self, reads: Iterable[str] = (), writes: Iterable[str] = (), changes: Iterable[str] = ()) -> None:
        reads, writes, changes = frozenset(reads), frozenset(writes), frozenset(changes)
        self.writes = frozenset(path for path in writes if not _in_unmapped(path))
        self._changes = self.writes | {path for path in changes if not _in_unmapped(path)}
        self.paths = self._changes | {path for path in reads if not _in_unmapped(path)}
        self._any = bool(reads or writes or changes)
        self.leftovers = any(path.startswith(_UNMAPPED) for path in reads | writes | changes)
        """Whether stages look into `unmapped`, so that it has to be a dict."""
        below: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            parts = path.split(".")
            for depth in range(len(parts)):
                names = below.setdefault(".".join(parts[:depth]), [])
                name = parts[depth].partition("[")[0]
                if name not in names:
                    names.append(name)
        self._below = below

    def __bool__(self) -> bool:
        """Whether stages touch anything, leftovers in `unmapped` included."""
        return self._any

    def below(self, prefix: str) -> list[str]:
        """The names touched in the object at `prefix`, "" being the event."""
        return self._below.get(prefix, [])

    def changed(self, prefix: str, name: str) -> bool:
        """Whether the value of `name` in the object at `prefix` may be set or removed."""
        return (f"{prefix}.{name}" if prefix else name) in self._changes


def _in_unmapped(path: str) -> bool:
    return path.startswith((f"{_UNMAPPED}.", f"{_UNMAPPED}["))


def check_readable(path: str) -> Attribute:
    """What is known of the attribute at `path`; raises LookupError with a hint where there is none."""
    if _in_unmapped(path):
        if any(step.__class__ is not str for step in steps_of(path)):
            raise LookupError(f'"{path}": elements of a list cannot be reached by stages')
        return _ANY
    if any(step.__class__ is int and step < 0 for step in steps_of(path)):
        raise LookupError(f'"{path}": elements of a list count from 1')
    return attribute_at(path)


def check_changeable(path: str, *, whole: bool = False) -> Attribute:
    """Like `check_readable`, for values that are there already, and may be in lists or deep in `unmapped`.

    Raises LookupError for what stages must not change. `whole`: to be removed, so an object is fine, too.
    """
    if path.partition(".")[0] in FIXED:
        raise LookupError(f'"{path}" is set by the pipeline itself')
    if whole and path in REQUIRED:
        raise LookupError(f'"{path}" is required of every event')
    if whole and _object_at(path) is not None:
        return _ANY
    return check_readable(path)


def check_writable(path: str, *, whole: bool = False) -> Attribute:
    """Like `check_readable`; raises LookupError for what stages must not change. `whole`: an object is fine, too."""
    if path.partition(".")[0] in FIXED:
        raise LookupError(f'"{path}" is set by the pipeline itself')
    if whole and _object_at(path) is not None:
        return _ANY
    if "[" in path and not _in_unmapped(path):
        raise LookupError(f'"{path}": elements of a list can be read, but not changed')
    found = check_readable(path)
    if _in_unmapped(path) and len(steps_of(path)) != 2:
        raise LookupError(f'"{path}": only what is directly in unmapped can be changed; write unmapped["a.b"]')
    return found


def _object_at(path: str) -> type[Struct] | None:
    struct: type[Struct] | None = OcsfEvent
    for name in path.split("."):
        if struct is None or name not in hints_of(struct):
            return None
        struct, many, _ = shape_of(hints_of(struct)[name])
        if many:
            return None
    return struct


@cache
def _python_names(struct: type[Struct]) -> dict[str, str]:
    return {field.encode_name: field.name for field in msgspec.structs.fields(struct)}


def _attributes(path: str) -> list[str | int]:
    """The Python names, and the indexes from 0 of list elements, that lead to `path`, which was checked."""
    struct: type[Struct] | None = OcsfEvent
    names: list[str | int] = []
    for step in steps_of(path):
        if isinstance(step, int):
            names.append(step)
            continue
        assert struct is not None
        names.append(_python_names(struct)[step])
        struct, _, _ = shape_of(hints_of(struct)[step])
    return names


def read(path: str) -> str:
    """The value at `path` of the event `e`, None where there is none."""
    if _in_unmapped(path):
        code = "(e.unmapped or EMPTY)"
        for step in steps_of(path)[1:]:
            code = f"(at.get({step!r}) if (at := {code}).__class__ is dict else None)"
        return code
    return _reach(_attributes(path))


def _reach(names: list[str | int]) -> str:
    code = f"e.{names[0]}"
    for name in names[1:]:
        if isinstance(name, int):
            code = f"(at[{name}] if (at := {code}) is not None and len(at) > {name} else None)"
        else:
            code = f"(None if (at := {code}) is None else at.{name})"
    return code


def assign(path: str, value: str) -> str:
    """Sets the attribute at `path` of `e`, which has a value, to another, or to None."""
    *names, last = _attributes(path)
    return f"{_reach(names) if names else 'e'}.{last} = {value}"


def write(path: str, value: str) -> list[str]:
    """Sets the value at `path` of `e` to the (simple) expression `value`; objects on the way are made."""
    if _in_unmapped(path):
        return ["if e.unmapped is None:", "    e.unmapped = {}", f"e.unmapped[{steps_of(path)[1]!r}] = {value}"]
    names = _attributes(path)
    lines, holder = [], "e"
    for depth, name in enumerate(names[:-1]):
        prefix = ".".join(path.split(".")[: depth + 1])
        lines += [
            f"at_{depth} = {holder}.{name}",
            f"if at_{depth} is None:",
            f"    at_{depth} = {holder}.{name} = NEW[{prefix!r}]()",
        ]
        holder = f"at_{depth}"
    return [*lines, f"{holder}.{names[-1]} = {value}"]


def remove(path: str) -> list[str]:
    """Removes the value at `path` of `e`."""
    if _in_unmapped(path):
        return ["if e.unmapped is not None:", f"    e.unmapped.pop({steps_of(path)[1]!r}, None)"]
    *names, last = _attributes(path)
    lines, indent, holder = [], "", "e"
    for depth, name in enumerate(names):
        lines += [f"{indent}at_{depth} = {holder}.{name}", f"{indent}if at_{depth} is not None:"]
        holder = f"at_{depth}"
        indent += "    "
    return [*lines, f"{indent}{holder}.{last} = None"]


def fresh(touched: Touched) -> dict[str, type[Struct]]:
    """By path, what to make for objects that stages add: with slots for the touched attributes and no others."""
    made: dict[str, type[Struct]] = {}
    for written in touched.writes:
        parts = written.split(".")
        for depth in range(1, len(parts)):
            path = ".".join(parts[:depth])
            struct = _object_at(path)
            assert struct is not None
            made[path] = slots(struct, touched.below(path))
    return made


def slots(struct: type[Struct], names: list[str]) -> type[Struct]:
    """A changeable Struct with these optional attributes of `struct`."""
    python = _python_names(struct)
    fields: list[tuple[str, Any, Any]] = [(python[name], Any, None) for name in names]
    rename = {python[name]: name for name in names}
    return msgspec.defstruct(struct.__name__, fields, omit_defaults=True, gc=False, rename=rename)


@cache
def _twin(struct: type[Struct]) -> type[Struct]:
    """A changeable Struct with the attributes of `struct`, all optional."""
    return slots(struct, list(_python_names(struct)))


def thaw(value: Any) -> Any:
    """A changeable copy of an event or object, down to the last."""
    if isinstance(value, Struct):
        copy = _twin(value.__class__)()
        for name in value.__struct_fields__:
            inner = getattr(value, name)
            if inner is not None:
                setattr(copy, name, thaw(inner))
        return copy
    if value.__class__ is list:
        return [thaw(each) for each in value]
    return value
