"""Reading TOML into Structs, with errors that name the file, the line and the nearest valid name.

Invariant: unknown keys are refused, never ignored.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from tidegate.errors import ConfigError

__all__ = ["line_of", "load", "nearest", "parse", "read"]

T = TypeVar("T")

_HEADER = re.compile(r"^\s*\[{1,2}\s*(?P<name>[^\[\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""^\s*(?P<key>"[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=""")
_PATH = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_AT = re.compile(r" - at `(?P<path>[^`]*)`$")
_TAG = re.compile(r"Invalid value '(?P<name>[^']*)'")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")


def parse(text: str, where: str) -> dict[str, Any]:
    """The TOML document in `text`; `where` names it in errors."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, f"not valid TOML: {error}") from error


def load(path: Path, shape: type[T]) -> T:
    """The TOML file at `path` as a `shape` (a Struct that forbids unknown fields).

    Raises ConfigError naming `path:line` for an unreadable file, bad TOML, an unknown key or a wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
    return read(text, str(path), shape)


def read(text: str, where: str, shape: type[T]) -> T:
    """The TOML document in `text` as a `shape`; `where` names it in errors. Raises ConfigError as `load` does."""
    document = parse(text, where)
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        steps, problem = _explain(error, shape)
        raise ConfigError(f"{where}:{line_of(text, steps)}", problem) from error


def nearest(name: str, valid: list[str]) -> str:
    """A hint such as `; did you mean "url"?`, or the list of valid names."""
    close = difflib.get_close_matches(name, valid, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; valid are: {', '.join(sorted(valid))}"


def _explain(error: msgspec.ValidationError, shape: type[Any]) -> tuple[list[str | int], str]:
    text = str(error)
    steps: list[str | int] = []
    if at := _AT.search(text):
        text = text[: at.start()]
        for name, index in _PATH.findall(at["path"]):
            if name:
                steps.append(name)
            elif index.isdigit():
                steps.append(int(index))
    if unknown := _UNKNOWN.search(text):
        valid = _keys_at(inspect.type_info(shape), steps)
        steps.append(unknown["name"])
        return steps, f'unknown key "{unknown["name"]}"{nearest(unknown["name"], valid)}'
    if (wrong := _TAG.match(text)) and (tags := _tags_at(inspect.type_info(shape), steps[:-1], steps[-1:])):
        return steps, f'unknown {steps[-1]} "{wrong["name"]}"{nearest(wrong["name"], tags)}'
    return steps, f"{'.'.join(map(str, steps)) or 'the document'}: {text}"


def _keys_at(shape: inspect.Type, steps: list[str | int]) -> list[str]:
    """The keys that the table at `steps` may have."""
    match shape:
        case inspect.Metadata(type=inner):
            return _keys_at(inner, steps)
        case inspect.UnionType(types=kinds):
            return list(dict.fromkeys(key for kind in kinds for key in _keys_at(kind, steps)))
        case inspect.StructType(fields=fields) if not steps:
            return [one.encode_name for one in fields]
        case inspect.StructType(fields=fields):
            return [key for one in fields if one.encode_name == steps[0] for key in _keys_at(one.type, steps[1:])]
        case inspect.ListType(item_type=item) | inspect.DictType(value_type=item) if steps:
            return _keys_at(item, steps[1:])
        case _:
            return []


def _tags_at(shape: inspect.Type, steps: list[str | int], last: list[str | int]) -> list[str]:
    """The tags that tell the kinds of table at `steps` apart, where `last` is the key that holds them."""
    match shape:
        case inspect.UnionType(types=kinds):
            return [tag for kind in kinds for tag in _tags_at(kind, steps, last)]
        case inspect.StructType(tag=str(tag), tag_field=str(field)) if not steps and [field] == last:
            return [tag]
        case inspect.StructType(fields=fields) if steps:
            return [t for one in fields if one.encode_name == steps[0] for t in _tags_at(one.type, steps[1:], last)]
        case inspect.ListType(item_type=item) | inspect.DictType(value_type=item) if steps:
            return _tags_at(item, steps[1:], last)
        case inspect.Metadata(type=inner):
            return _tags_at(inner, steps, last)
        case _:
            return []


def line_of(text: str, steps: list[str | int]) -> int:
    """The line (from 1) where the value at `steps` (table names, keys, list indexes) is set, or its nearest parent."""
    best_line, best_depth = 1, 0
    table: list[str | int] = []
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            parts = [part.strip().strip("\"'") for part in header["name"].split(".")]
            table = []
            for depth, part in enumerate(parts, start=1):
                table.append(part)
                if depth == len(parts) and line.lstrip().startswith("[["):
                    counts[tuple(table)] = counts.get(tuple(table), -1) + 1
                if tuple(table) in counts:
                    table.append(counts[tuple(table)])
            here = table
        elif key := _KEY.match(line):
            quoted = key["key"]
            here = [*table, quoted.strip("\"'")] if quoted[0] in "\"'" else [*table, *quoted.split(".")]
        else:
            continue
        depth = 0
        for ours, theirs in zip(here, steps, strict=False):
            if ours != theirs:
                break
            depth += 1
        if depth == min(len(here), len(steps)) and depth > best_depth:
            best_line, best_depth = number, depth
    return best_line
