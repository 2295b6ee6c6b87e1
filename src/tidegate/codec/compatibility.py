"""Whether data written with one version of an Avro schema can be read with another, by Avro's rules of resolution.

The Protobuf numbers stand in the schemas too (`number`), and must not change: so both formats are checked at once.
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Mode", "compare", "unreadable"]

Mode = Literal["backward", "forward", "full"]
"""Backward: the new schema reads old data. Forward: the old schema reads new data. Full: both."""

_PROMOTED = {"int": {"long", "float", "double"}, "long": {"float", "double"}, "float": {"double"}}
_PROMOTED |= {"string": {"bytes"}, "bytes": {"string"}}


def compare(current: dict[str, Any], earlier: dict[str, Any], mode: Mode) -> list[str]:
    """What stands against it: the field, the rule, and what to do. Empty when compatible."""
    problems = []
    if mode in ("backward", "full"):
        problems += [f"backward: {one}" for one in unreadable(current, earlier)]
    if mode in ("forward", "full"):
        problems += [f"forward: {one}" for one in unreadable(earlier, current)]
    old, new = _numbers(earlier, {}), _numbers(current, {})
    for field in sorted(old.keys() & new.keys()):
        if old[field] != new[field]:
            problems.append(
                f"protobuf: {field}: its number was {old[field]} and is {new[field]}; put the old one into numbers.toml"
            )
    given = {(field.rsplit(".", 1)[0], number): field for field, numbers in old.items() for number in numbers}
    for field, numbers in new.items():
        for number in numbers:
            before = given.get((field.rsplit(".", 1)[0], number), field)
            if before != field:
                problems.append(f"protobuf: {field}: number {number} was that of {before}; give it a new one")
    return problems


def unreadable(reader: dict[str, Any], writer: dict[str, Any]) -> list[str]:
    """Why data of `writer` cannot be read with `reader`."""
    return list(dict.fromkeys(_check(reader, writer, _named(reader, {}), _named(writer, {}), reader["name"])))


def _check(reader: Any, writer: Any, readers: dict[str, Any], writers: dict[str, Any], path: str) -> list[str]:
    reader, writer = readers.get(_key(reader), reader), writers.get(_key(writer), writer)
    if isinstance(writer, list):
        return [problem for one in writer for problem in _check(reader, one, readers, writers, path)]
    if isinstance(reader, list):
        tried = [_check(one, writer, readers, writers, path) for one in reader if _kind(one, readers) != "null"]
        if _kind(writer, writers) == "null" and any(_kind(one, readers) == "null" for one in reader):
            return []
        # The branch of the same kind tells more than that none of them fits.
        same = [_kind(one, readers) for one in reader if _kind(one, readers) != "null"]
        if [] in tried:
            return []
        if _kind(writer, writers) in same:
            return tried[same.index(_kind(writer, writers))]
        return [f"{path}: the type {_kind(writer, writers)} is not among {same}; keep the old types in the union"]
    kind, written = _kind(reader, readers), _kind(writer, writers)
    if kind != written:
        if kind in _PROMOTED.get(written, ()):
            return []
        return [f"{path}: type {written} cannot be read as {kind}; keep the type, and add a field for the new one"]
    if kind == "array":
        return _check(reader["items"], writer["items"], readers, writers, f"{path}[]")
    if kind != "record":
        return []
    if reader["name"] != writer["name"]:
        return [f"{path}: record {writer['name']} is not {reader['name']}; keep the name of the record"]
    there = {field["name"]: field["type"] for field in writer["fields"]}
    problems = []
    for field in reader["fields"]:
        inner = f"{path}.{field['name']}"
        if field["name"] in there:
            problems += _check(field["type"], there[field["name"]], readers, writers, inner)
        elif "default" not in field:
            problems.append(f"{inner}: required, and not in what was written; make it optional, with the default None")
    return problems


def _kind(schema: Any, named: dict[str, Any]) -> str:
    schema = named.get(_key(schema), schema)
    return str(schema["type"]) if isinstance(schema, dict) else str(schema)


def _key(schema: Any) -> str:
    return schema if isinstance(schema, str) else ""


def _named(schema: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The records in a schema, by name."""
    if isinstance(schema, list):
        for one in schema:
            _named(one, found)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            found[schema["name"]] = schema
            for field in schema["fields"]:
                _named(field["type"], found)
        elif schema["type"] == "array":
            _named(schema["items"], found)
    return found


def _numbers(schema: Any, found: dict[str, list[int]]) -> dict[str, list[int]]:
    """`<record>.<field>` -> its Protobuf numbers."""
    for name, record in _named(schema, {}).items():
        for field in record["fields"]:
            number = field.get("number", [])
            found[f"{name}.{field['name']}"] = number if isinstance(number, list) else [number]
    return found
