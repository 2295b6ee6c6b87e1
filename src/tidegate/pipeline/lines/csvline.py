"""Comma-separated values with named columns, which may depend on the type that one of them names (PAN-OS)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tidegate.pipeline.lines.base import claim, refuse
from tidegate.pipeline.lines.syslog import split_header

__all__ = ["Columns", "csv_parser", "split_csv"]


class Columns(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names of the columns of a CSV source."""

    by: int | None = None
    """The place (from 0) of the value that says which names apply."""
    names: dict[str, list[str]]
    """Value -> names; `value/count` goes first where a row has that many columns, `*` is for all others.

    An empty name drops nothing: such a column is called `column_<place>`, as are those beyond the names.
    """


def split_csv(text: str) -> list[str]:
    """The values of one row, `"` doubled inside quotes; raises RecordError for a value beyond 131,072 characters."""
    try:
        rows = list(csv.reader([text]))
    except csv.Error as error:
        raise refuse("csv", str(error)) from error
    return rows[0] if rows else []


def csv_parser(columns: Columns | None) -> Callable[[str, int], dict[str, Any]]:
    """Reads a row, after a syslog header if there is one; values that are empty are left out."""
    names = {
        key: [name or f"column_{place}" for place, name in enumerate(each)]
        for key, each in (columns.names if columns else {}).items()
    }
    by = columns.by if columns else None

    def parse(text: str, received_ms: int) -> dict[str, Any]:
        header, rest = split_header(text, received_ms)
        values = split_csv(rest.strip())
        if len(values) < 2 or (by is not None and by >= len(values)):
            raise refuse("csv", f"a row with more columns is needed, this line has {len(values)}")
        kind = "*" if by is None else values[by]
        found = names.get(f"{kind}/{len(values)}") or names.get(kind) or names.get("*", [])
        record: dict[str, Any] = {name: value for name, value in zip(found, values, strict=False) if value}
        for place in range(len(found), len(values)):
            if values[place]:
                record[f"column_{place}"] = values[place]
        if header:
            claim(record, "syslog", header)
        return record

    return parse
