"""The examples of an OpenAPI document as requests that can be sent, and what their answers have to look like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ORDER = ("post", "get", "delete")
_PROBLEM = "problem-example-1"


@dataclass
class Example:
    """One request, with the answer that goes with it."""

    name: str
    method: str
    path: str
    in_path: dict[str, Any]
    query: dict[str, Any]
    headers: dict[str, str]
    content: bytes
    status: int
    answer: Any
    problems: dict[int, Any]
    """Status -> what any refusal of the operation looks like."""


def examples_of(description: Any) -> Iterator[Example]:
    """All of them: first what makes something, last what ends it. Each operation has to have one that succeeds."""
    operations = [
        (method, path, one)
        for path, item in description["paths"].items()
        for method, one in item.items()
        if method in _ORDER
    ]
    for method, path, operation in sorted(operations, key=lambda one: _ORDER.index(one[0])):
        found = list(_of(method, path, operation))
        assert any(one.status < 300 for one in found), f"{method} {path} has no example"
        yield from found


def _examples(place: Any) -> dict[str, Any]:
    return {name: one["value"] for name, one in place.get("examples", {}).items()}


def _of(method: str, path: str, operation: Any) -> Iterator[Example]:
    parameters = operation.get("parameters", [])
    bodies = {
        name: (kind, value)
        for kind, media in operation.get("requestBody", {}).get("content", {}).items()
        for name, value in _examples(media).items()
    }
    answers: dict[str, tuple[int, Any]] = {}
    problems = {}
    for status, response in operation["responses"].items():
        (media,) = response.get("content", {"": {}}).values()
        for name, value in _examples(media).items():
            if name == _PROBLEM:
                problems[int(status)] = value
            else:
                assert name not in answers, f"{method} {path}: two answers to {name}"
                answers[name] = int(status), value
    named = set(bodies).union(*(_examples(one) for one in parameters))
    assert named <= answers.keys(), f"{method} {path}: no answer to {named - answers.keys()}"
    for name, (status, answer) in answers.items():
        given: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
        for one in parameters:
            if name in _examples(one):
                value = _examples(one)[name]
                given[one["in"]][one["name"]] = str(value).lower() if isinstance(value, bool) else value
            assert name in _examples(one) or not one["required"], f"{method} {path}, {name}: {one['name']} is missing"
        assert name in bodies or "requestBody" not in operation, f"{method} {path}: {name} has no body"
        kind, body = bodies.get(name, ("", ""))
        headers = {**given["header"], **({"Content-Type": kind} if kind else {})}
        content = body if isinstance(body, str) else json.dumps(body)
        yield Example(
            name, method, path, given["path"], given["query"], headers, content.encode(), status, answer, problems
        )


def alike(found: Any, example: Any, where: str = "answer") -> str:
    """ "" where both have the same keys and types, else the first difference. Of a list, each has to be as some one."""
    if isinstance(found, dict) and isinstance(example, dict):
        if found.keys() != example.keys():
            return f"{where}: members differ: {sorted(found.keys() ^ example.keys())} in {found}"
        return next(filter(None, (alike(found[key], example[key], f"{where}.{key}") for key in found)), "")
    if isinstance(found, list) and isinstance(example, list):
        if bool(found) != bool(example):
            return f"{where}: {len(found)} and {len(example)} elements"
        differences = ([alike(one, other, f"{where}[{n}]") for other in example] for n, one in enumerate(found))
        return next((some[0] for some in differences if "" not in some), "")
    if isinstance(found, str) and isinstance(example, str) and example.startswith("id: "):
        return _alike_events(found, example, where)
    if None in (found, example) and isinstance(found or example, dict):
        return ""  # an object that may not be there
    return "" if _kind(found) == _kind(example) else f"{where}: {found!r} is not of the type of {example!r}"


def _alike_events(found: str, example: str, where: str) -> str:
    given, shown = (dict(line.split(": ", 1) for line in text.strip().split("\n")) for text in (found, example))
    return alike({**given, "data": json.loads(given["data"])}, {**shown, "data": json.loads(shown["data"])}, where)


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
