"""Record templates: a JSON shape is encoded once and then only filled in, which is what makes the generator quick.

Invariant: a filled template is valid JSON as long as the values are fragments: text that went through `escaped`, or
numbers and JSON where the mark stands alone behind a `#`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["Step", "Values", "escaped", "template"]

Values = dict[str, Any]

Step = tuple[str, str, Values]
"""A record to come: its source, its template, and the values that are known before its time is."""

_BARE = re.compile(r'"#(\$[^"]*)"')
_MARK = re.compile(r"\$\{(\w+)\}|\$(\w+)")


def template(shape: object) -> str:
    """A `%` format from a JSON shape whose texts hold marks.

    `"user $name"` is filled inside the text; `"#$port"` becomes the bare value, without quotes.
    """
    text = msgspec.json.encode(shape).decode().replace("%", "%%")
    text = _BARE.sub(r"\1", text)
    return _MARK.sub(lambda mark: f"%({mark[1] or mark[2]})s", text)


def escaped(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return msgspec.json.encode(text).decode()[1:-1]
