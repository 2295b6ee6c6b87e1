"""Examples of requests and of their answers, as OpenAPI shows them; the modules beside have those of each process.

Invariant: an example is a whole exchange under one name: what is sent (parameters, body) and what is answered bear it
in the description, so that a test can send it and compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIResponse, Operation, Parameter, RequestBody, Schema
from msgspec import UNSET, Struct

from tidegate.edges.problems import told

__all__ = ["Exchange", "exchanges", "problem", "showing"]


class Exchange(Struct, frozen=True, kw_only=True):
    """One request, and what is answered to it."""

    answer: Any
    status: int = 200
    body: Any = UNSET
    """Text, or what JSON is made of."""
    media_type: str = "application/json"
    """Of the body."""
    parameters: Mapping[str, str | int | bool] = {}
    """Of the address and the headers."""


Exchanges = Mapping[str, Exchange]


def exchanges(**named: Exchange) -> Exchanges:
    """By their names, which are fit to be keys in OpenAPI."""
    return named


def problem(status: int, title: str, detail: str, **more: object) -> dict[str, object]:
    """An answer that refuses."""
    return told(status, title, detail) | more


def showing(
    given: Exchanges,
    *,
    bodies: Mapping[str, Mapping[str, object]] | None = None,
    about: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> type[Operation]:
    """What describes a route (`operation_class`) with examples.

    `bodies`: media type -> schema, and `about`, for a handler that reads the body by itself; `headers`: name ->
    description, of those that it reads by itself.
    """

    @dataclass  # else the inherited __init__ does not call __post_init__
    class Shown(Operation):
        def __post_init__(self) -> None:
            if bodies is not None:
                content = {
                    kind: OpenAPIMediaType(schema=schema)  # type: ignore[arg-type]
                    for kind, schema in bodies.items()
                }
                self.request_body = RequestBody(description=about, required=True, content=content)
            read = [
                Parameter(name, "header", Schema(type="string"), description=text)  # type: ignore[arg-type]
                for name, text in (headers or {}).items()
            ]
            self.parameters = [*(self.parameters or ()), *read] or None
            for name, one in given.items():
                self._show(name, one)

        def _show(self, name: str, one: Exchange) -> None:
            for parameter in self.parameters or ():
                assert isinstance(parameter, Parameter)
                if parameter.name in one.parameters:
                    parameter.examples = {
                        **(parameter.examples or {}),
                        name: Example(value=one.parameters[parameter.name]),
                    }
            if one.body is not UNSET:
                assert isinstance(self.request_body, RequestBody)
                _add(self.request_body.content[one.media_type], name, one.body)
            response = (self.responses or {})[str(one.status)]
            assert isinstance(response, OpenAPIResponse)
            assert response.content
            _add(next(iter(response.content.values())), name, one.answer)

    return Shown


class _Null(Enum):
    """Litestar leaves out members that are None, but writes an enumeration's value."""

    NULL = None


def _add(place: OpenAPIMediaType, name: str, value: object) -> None:
    place.examples = {**(place.examples or {}), name: Example(value=_whole(value))}


def _whole(value: object) -> object:
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return _Null.NULL if value is None else value
