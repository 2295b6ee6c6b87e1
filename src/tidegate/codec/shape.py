"""What a Struct is made of, in the few words that Avro, Protobuf and Parquet share.

Invariant: no record is inside itself, so that no bytes can make a decoder recurse deeper than the schema: fastavro ends
the process when they do. A Struct inside itself becomes a second record, and JSON text below that.

A free-form value (`Any`, a dict) is JSON text everywhere: none of the formats has a type for it that the readers of
the others would understand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import inspect

from tidegate.errors import CodecError
from tidegate.event import Envelope
from tidegate.ocsf import OcsfEvent

__all__ = ["NAMESPACE", "SHAPES", "Field", "Kind", "Packer", "Record", "describe", "records_of", "to_struct"]

NAMESPACE = "tidegate.v1"
SHAPES: dict[str, type[msgspec.Struct]] = {"envelope": Envelope, "ocsf_event": OcsfEvent}
"""What has schemas in these formats: the name of the file -> the Struct."""

Kind = Literal["boolean", "double", "json", "long", "record", "string"]
T = TypeVar("T", bound=msgspec.Struct)

_SCALARS: dict[type, Kind] = {bool: "boolean", float: "double", int: "long", str: "string"}

_KINDS: dict[type[inspect.Type], Kind] = {
    inspect.AnyType: "json",
    inspect.BoolType: "boolean",
    inspect.DictType: "json",
    inspect.FloatType: "double",
    inspect.IntType: "long",
    inspect.StrType: "string",
}


class Field(msgspec.Struct, frozen=True):
    """A field of a record. More than one kind means that it is one of several scalars."""

    name: str
    kinds: tuple[Kind, ...]
    optional: bool
    repeated: bool = False
    record: Record | None = None

    @property
    def kind(self) -> Kind:
        return self.kinds[0]


class Record(msgspec.Struct, frozen=True):
    """A Struct; `name` is its type name in every format."""

    name: str
    fields: tuple[Field, ...]


@cache
def describe(struct: type[msgspec.Struct]) -> Record:
    """The description of a Struct. Raises TypeError for what has no place in all of the formats."""
    return _record(struct, struct.__name__, ())


def _record(struct: type[msgspec.Struct], name: str, above: tuple[type, ...]) -> Record:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return Record(name, tuple(_field(field, struct, (*above, struct)) for field in info.fields))


def _field(field: inspect.Field, struct: type, above: tuple[type, ...]) -> Field:
    where = f"{struct.__name__}.{field.name}"
    if not field.required and field.default is not None:
        raise TypeError(f"{where}: a default other than None is not carried over")
    parts = [_plain(one) for one in (field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,))]
    values = [one for one in parts if not isinstance(one, inspect.NoneType)]
    optional = len(values) < len(parts) or not field.required
    repeated = isinstance(values[0], inspect.ListType)
    if isinstance(values[0], inspect.ListType):
        values = [_plain(values[0].item_type), *values[1:]]
    if isinstance(values[0], inspect.StructType) and len(values) == 1:
        inner = values[0].cls
        if (times := above.count(inner)) == 2:
            return Field(field.encode_name, ("json",), optional)
        name = "".join(word.title() for word in field.name.split("_")) if times else inner.__name__
        return Field(field.encode_name, ("record",), optional, repeated, _record(inner, name, above))
    kinds = tuple(_KINDS[type(one)] for one in values if type(one) in _KINDS)
    if len(kinds) < len(values) or (len(kinds) > 1 and ("json" in kinds or repeated)):
        raise TypeError(f"{where}: {field.type} has no place in every format")
    return Field(field.encode_name, kinds, optional, repeated)


def _plain(one: inspect.Type) -> inspect.Type:
    return one.type if isinstance(one, inspect.Metadata) else one


def records_of(record: Record) -> Iterator[Record]:
    """The record and those inside it, each name once, outer ones first."""
    seen: dict[str, Record] = {}

    def walk(one: Record) -> None:
        if seen.setdefault(one.name, one) != one:
            raise TypeError(f"two different records would be named {one.name}")
        for field in one.fields:
            if field.record is not None and seen.get(field.record.name) is not field.record:
                walk(field.record)

    walk(record)
    yield from seen.values()


_DUMPS = msgspec.json.Encoder().encode
_LOADS = msgspec.json.Decoder().decode


class Packer:
    """Between a Struct and the dict that an encoder takes, with free-form values as JSON text.

    `is_text` says which fields are JSON text in the format at hand; with `split`, one of several scalars is in a field
    of its own, `<name>_<kind>`.
    """

    def __init__(self, record: Record, is_text: Callable[[Field], bool], *, split: bool = False) -> None:
        self._texts = [field.name for field in record.fields if is_text(field)]
        self._split = split
        self._scalars = [field for field in record.fields if len(field.kinds) > 1 and not is_text(field)]
        self._inner: list[tuple[str, bool, Packer]] = []
        for field in record.fields:
            if field.record is not None and not is_text(field):
                inner = Packer(field.record, is_text, split=split)
                if inner._texts or inner._scalars or inner._inner:
                    self._inner.append((field.name, field.repeated, inner))

    def pack(self, value: msgspec.Struct) -> dict[str, Any]:
        """The fields that have a value. Raises OverflowError, TypeError."""
        packed: dict[str, Any] = msgspec.to_builtins(value, str_keys=True)
        self._to_text(packed)
        return packed

    def _to_text(self, packed: dict[str, Any]) -> None:
        for name in self._texts:
            if name in packed:
                packed[name] = _DUMPS(packed[name]).decode()
        for field in self._scalars:
            if (value := packed.get(field.name)) is not None:
                if isinstance(value, int) and not -(2**63) <= value < 2**63:
                    raise OverflowError(f"{field.name} is {value}, more than 64 bits hold")
                if self._split:
                    packed[f"{field.name}_{_SCALARS[type(value)]}"] = packed.pop(field.name)
        for name, repeated, inner in self._inner:
            if found := packed.get(name):
                for one in found if repeated else (found,):
                    inner._to_text(one)

    def unpack(self, packed: dict[str, Any]) -> None:
        """Put the values in the place of their texts. Raises msgspec.DecodeError, RecursionError."""
        for name in self._texts:
            if (text := packed.get(name)) is not None:
                packed[name] = _LOADS(text)
        if self._split:
            for field in self._scalars:
                for kind in field.kinds:
                    if (value := packed.pop(f"{field.name}_{kind}", None)) is not None:
                        packed[field.name] = value
        for name, repeated, inner in self._inner:
            if found := packed.get(name):
                for one in found if repeated else (found,):
                    inner.unpack(one)


def to_struct(codec: str, packer: Packer, kind: type[T], decoded: list[dict[str, Any]]) -> list[T]:
    """What was decoded, as Structs. Raises CodecError for a record that is none of the kind."""
    values = []
    for index, one in enumerate(decoded):
        try:
            packer.unpack(one)
            values.append(msgspec.convert(one, kind))
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(codec, f"record {index} is no {kind.__name__}: {error}") from error
    return values
