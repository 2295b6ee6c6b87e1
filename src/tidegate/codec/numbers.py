"""The field numbers of the Protobuf messages: `subjects/schema/numbers.toml`.

Invariant: a number is never changed and never given twice, also when its field is gone; new fields get the next one.
"""

from __future__ import annotations

import tomllib
from functools import cache

from tidegate import resources
from tidegate.codec.shape import SHAPES, Field, Record, describe, records_of

__all__ = ["FILE", "Numbers", "assign", "numbers", "render", "wire_names"]

FILE = "numbers.toml"
Numbers = dict[str, dict[str, int]]
"""Message -> field -> number."""


@cache
def numbers() -> Numbers:
    """Those in the file, and the next free ones for what is not in it."""
    path = resources.folder("subjects") / "schema" / FILE
    known = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    records = [one for struct in SHAPES.values() for one in records_of(describe(struct))]
    return assign(known, records)


def assign(known: Numbers, records: list[Record]) -> Numbers:
    """`known`, with numbers for what is new in `records`."""
    result = {name: dict(fields) for name, fields in known.items()}
    for record in records:
        taken = result.setdefault(record.name, {})
        for field in record.fields:
            for name in wire_names(field):
                if name not in taken:
                    taken[name] = max(taken.values(), default=0) + 1
    return result


def wire_names(field: Field) -> list[str]:
    """The names of a field in a message: one for each kind, where it is one of several scalars."""
    return [field.name] if len(field.kinds) == 1 else [f"{field.name}_{kind}" for kind in field.kinds]


def render(table: Numbers) -> bytes:
    """The content of the file."""
    lines = [
        "# Field numbers of the Protobuf messages, written by `tidegate subjects schema`.",
        "# A number is never changed and never given twice; the line of a field that is gone stays.",
    ]
    for message, fields in table.items():
        lines += ["", f"[{message}]", *(f"{name} = {number}" for name, number in fields.items())]
    return ("\n".join(lines) + "\n").encode()
