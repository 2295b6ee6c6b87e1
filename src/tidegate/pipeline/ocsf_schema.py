"""What OCSF 1.8.0 says of its classes and objects, all of them, and the check of a whole event against it.

Invariant: what `check` leaves in an event is, of every object, only attributes that OCSF gives it, each of its type.

The table `ocsf-<version>.json` is made from the published schema: of each class (by number, beside what is `common` to
all) and each object the attributes, as `kind`, `[]` for a list, `!` for required; and of which `any` one is required.
Kinds: s text, i whole number, f number, b truth value, j anything, o any object, otherwise the name of an object.
What is required under a profile only does not count as required; which numbers an enumeration has is not checked.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.ocsf import OCSF_VERSION

__all__ = ["Attribute", "Shape", "check", "shapes"]


class Attribute(Struct, frozen=True, kw_only=True):
    """One attribute of a class or an object."""

    types: tuple[type, ...]
    """The types of Python that its value, or each of its elements, may have; none where any may."""
    many: bool
    shape: Shape | None
    """What its object, or each of them, may have; None where that is open."""


class Shape(Struct, kw_only=True):
    """A class or an object."""

    attributes: dict[str, Attribute] = {}
    required: tuple[str, ...] = ()
    choice: frozenset[str] = frozenset()
    """One of these is required."""


class _Row(Struct, frozen=True):
    attributes: dict[str, str]
    any: tuple[str, ...] = ()


class _Table(Struct, frozen=True):
    common: dict[str, str]
    classes: dict[int, _Row]
    objects: dict[str, _Row]


_TYPES: dict[str, tuple[type, ...]] = {"s": (str,), "i": (int,), "f": (float, int), "b": (bool,), "j": (), "o": (dict,)}


@cache
def shapes() -> dict[int, Shape]:
    """The classes by number."""
    text = Path(__file__).with_name(f"ocsf-{OCSF_VERSION}.json").read_bytes()
    table = msgspec.json.decode(text, type=_Table)
    objects = {name: Shape() for name in table.objects}

    def fill(shape: Shape, row: _Row, attributes: dict[str, str]) -> None:
        for name, text in attributes.items():
            kind = text.rstrip("!").removesuffix("[]")
            shape.attributes[name] = Attribute(
                types=_TYPES.get(kind, (dict,)), many="[]" in text, shape=None if kind in _TYPES else objects[kind]
            )
        shape.required = tuple(name for name, text in attributes.items() if text.endswith("!"))
        shape.choice = frozenset(row.any)

    for name, row in table.objects.items():
        fill(objects[name], row, row.attributes)
    classes = {uid: Shape() for uid in table.classes}
    for uid, row in table.classes.items():
        fill(classes[uid], row, table.common | row.attributes)
    return classes


def check(shape: Shape, value: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Takes out of `value`, at any depth, what `shape` does not have, and returns it, each under the objects it was in.

    Nulls are dropped, and so are objects that have nothing else. Raises ValueError, which names the attribute,
    where one has another type or a required one is missing.
    """
    rest: dict[str, Any] = {}
    attributes = shape.attributes
    for name, here in tuple(value.items()):
        attribute = attributes.get(name)
        if attribute is None or here is None:
            del value[name]
            if here is not None:
                rest[name] = here
        elif attribute.many:
            if here.__class__ is not list:
                raise ValueError(f"{path}{name} must be a list, not {here.__class__.__name__}")
            left = [_check_one(attribute, each, path, name) for each in here]
            if any(left):
                rest[name] = left
            if {} in here:
                value[name] = [each for each in here if each != {}]
                if not value[name]:
                    del value[name]
        elif attribute.shape is not None or (attribute.types and here.__class__ not in attribute.types):
            found = _check_one(attribute, here, path, name)
            if found:
                rest[name] = found
            if not here:
                del value[name]
    if path and not value:
        return rest
    for name in shape.required:
        if name not in value:
            raise ValueError(f"{path}{name} is required")
    if shape.choice and shape.choice.isdisjoint(value):
        raise ValueError(f"{path[:-1] or 'the event'} requires one of {', '.join(sorted(shape.choice))}")
    return rest


def _check_one(attribute: Attribute, value: Any, path: str, name: str) -> dict[str, Any]:
    if attribute.types and value.__class__ not in attribute.types:
        raise ValueError(f"{path}{name} must be {attribute.types[0].__name__}, not {value.__class__.__name__}")
    return check(attribute.shape, value, f"{path}{name}.") if attribute.shape is not None else {}
