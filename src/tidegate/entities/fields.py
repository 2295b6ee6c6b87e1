"""Chosen fields of events, such as `src_endpoint.ip`, read without building the rest of them.

Invariant: every line of the log can be read; a field of an unexpected type is None, it never stops an entity.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from tidegate.errors import ConfigError
from tidegate.ocsf import OcsfEvent
from tidegate.tomlfile import nearest

__all__ = ["Fields", "check_path"]

_TIME = "time"
_Tree = dict[str, Any]
"""Name -> the tree of the object's fields; empty for a value."""


class Fields:
    """Reads the fields at `paths`, and the time, of events."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Raises ConfigError where one path leads into what another takes for a value."""
        self._tree: _Tree = {}
        wanted = {_TIME, *paths}
        for path in sorted(wanted):
            if any(other.startswith(f"{path}.") for other in wanted):
                raise ConfigError(path, "the field is taken for both a value and an object")
            here = self._tree
            for name in path.split("."):
                here = here.setdefault(name, {})
        self._shapes: dict[int, type[Any]] = {}
        self._shape = self._make(self._tree)
        self._decode = msgspec.json.Decoder(self._shape).decode

    def _make(self, tree: _Tree, top: bool = True) -> type[Any]:
        fields: list[tuple[str, Any, Any]] = []
        for name, below in tree.items():
            if below:
                shape = self._make(below, top=False)
                fields.append((f"f_{name}", shape, msgspec.field(default=shape(), name=name)))
            elif top and name == _TIME:
                fields.append((f"f_{name}", int, msgspec.field(default=-1, name=name)))
            else:
                fields.append((f"f_{name}", Any, msgspec.field(default=None, name=name)))
        shape = msgspec.defstruct("Fields", fields, frozen=True, gc=False)
        self._shapes[id(tree)] = shape
        return shape

    def read(self, lines: Sequence[bytes], stored_ms: int) -> list[Any]:
        """What `getter` and `row` take their fields from, for each line; the time is at most `stored_ms`.

        An event without a usable time counts as of `stored_ms`, when the log stored it, as does one from the future.
        """
        try:
            events = list(map(self._decode, lines))
        except msgspec.DecodeError:
            events = [self._leniently(line) for line in lines]
        times = [event.f_time for event in events]
        if events and (min(times) < 0 or max(times) > stored_ms):
            replace = msgspec.structs.replace
            events = [one if 0 <= one.f_time <= stored_ms else replace(one, f_time=stored_ms) for one in events]
        return events

    def _leniently(self, line: bytes) -> Any:
        try:
            return self._decode(line)
        except msgspec.DecodeError:
            pass
        try:
            return self._build(self._tree, msgspec.json.decode(line))
        except (msgspec.DecodeError, RecursionError):
            return self._shape()

    def _build(self, tree: _Tree, value: Any) -> Any:
        usable: dict[str, Any] = {}
        for name, below in tree.items() if isinstance(value, dict) else ():
            if name not in value:
                continue
            if below:
                usable[f"f_{name}"] = self._build(below, value[name])
            elif tree is not self._tree or name != _TIME or type(value[name]) is int:
                usable[f"f_{name}"] = value[name]
        return self._shapes[id(tree)](**usable)

    @staticmethod
    def getter(paths: Sequence[str]) -> Callable[[Any], Any]:
        """Takes the field at the only path, or a tuple of those at several."""
        return attrgetter(*(".".join(f"f_{name}" for name in path.split(".")) for path in paths))


def check_path(where: str, path: str) -> None:
    """Raises ConfigError, naming `where`, unless `path` leads to a single value in an OCSF event."""
    kind: Any = OcsfEvent
    seen: list[str] = []
    for name in path.split("."):
        at = ".".join(seen) or "an event"
        if not name.isascii() or not name.isidentifier():
            raise ConfigError(where, f'"{path}" is not a path of names with dots between, such as src_endpoint.ip')
        if isinstance(kind, type) and issubclass(kind, Struct):
            fields = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
            if name not in fields:
                raise ConfigError(where, f'"{path}": {at} has no field "{name}"{nearest(name, list(fields))}')
            kind = _plain(get_type_hints(kind)[fields[name]])
        elif kind is dict:
            kind = Any
        elif kind is not Any:
            raise ConfigError(where, f'"{path}": {at} is {"a list" if kind is list else "a value"}, not an object')
        seen.append(name)
    if kind in (list, dict) or (isinstance(kind, type) and issubclass(kind, Struct)):
        raise ConfigError(where, f'"{path}" is {"a list" if kind is list else "an object"}, not a single value')


def _plain(hint: Any) -> Any:
    """The type without None and annotations; of a list or dict only that it is one."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _plain(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return _plain(next(one for one in get_args(hint) if one is not type(None)))
    return origin or hint
