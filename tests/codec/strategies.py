"""Random valid envelopes and events, from the Structs."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from tidegate.codec.shape import Field, Record, describe

T = TypeVar("T", bound=msgspec.Struct)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
LONG = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(), "double": FLOAT, "long": LONG, "string": TEXT, "json": JSON,
}  # fmt: skip
OBJECTS = {"unmapped", "metadata"}
"""JSON text that must be an object."""


def of(struct: type[T]) -> st.SearchStrategy[T]:
    """Valid values of a Struct, most of whose optional fields are absent."""
    return _record(describe(struct)).map(lambda found: msgspec.convert(found, struct))


@cache
def _record(record: Record) -> st.SearchStrategy[dict[str, Any]]:
    required = {field.name: _field(field) for field in record.fields if not field.optional}
    rest = {field.name: field for field in record.fields if field.optional}

    @st.composite
    def draw(draw: st.DrawFn) -> dict[str, Any]:
        found = {name: draw(strategy) for name, strategy in required.items()}
        for name in draw(st.lists(st.sampled_from(sorted(rest)), max_size=4, unique=True)) if rest else ():
            found[name] = draw(_field(rest[name]))
        return found

    return draw()


@cache
def _field(field: Field) -> st.SearchStrategy[Any]:
    if field.record is not None:
        one = _record(field.record)
    elif field.name == "parent_process":
        one = st.deferred(lambda: st.fixed_dictionaries({"pid": LONG}))
    elif field.kind == "json" and field.name in OBJECTS:
        one = OBJECT
    else:
        one = st.one_of(*(SCALARS[kind] for kind in field.kinds))
    # Protobuf cannot tell an empty list from none; that is tested by itself.
    return st.lists(one, min_size=1, max_size=3) if field.repeated else one
