"""What a source says of its format, columns and patterns is checked when it is loaded, with file, line and a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.data import SHARDS
from tests.pipeline.text.data import run_lines
from tidegate.errors import RuleError
from tidegate.pipeline.compiler import compile_source
from tidegate.pipeline.rules import load_source
from tidegate.pipeline.runner import Pipeline

GOOD = """\
source = "door"
format = "csv"
select = ["kind"]
product = { name = "Door", vendor = "Locks" }
time = { from = ["at"] }
correlation = [{ from = "badge" }]

[columns]
names = { "*" = ["at", "kind", "badge", "message"] }

[patterns]
by = "kind"
[patterns.match.pass]
opened = "opened by %{WORD:person}"

[[rule]]
name = "pass"
when = { pattern = "opened" }
class = "authentication"
[rule.set]
"user.name" = { from = "person", default = "Unknown" }
"service.name" = { value = "door" }
"""


def _load(folder: Path, text: str) -> Pipeline:
    path = folder / "door.toml"
    path.write_text(text)
    compiled = compile_source(load_source(path), path)
    return Pipeline({compiled.name: lambda: compiled}, SHARDS)


def test_a_text_source_of_ones_own(tmp_path: Path) -> None:
    pipeline = _load(tmp_path, GOOD)
    (event,) = run_lines(pipeline, "door", [b"2025-06-15T12:00:00Z,pass,b-7,opened by ada"]).events
    assert (event["user"]["name"], event["time"]) == ("ada", 1749988800000)
    assert event["metadata"]["correlation_uid"] == "b-7"
    assert event["unmapped"]["message"] == "opened by ada"


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ('format = "csv"', 'format = "cvs"', 2, 'unknown format "cvs"; did you mean "csv"?'),
        ('format = "csv"', 'format = "?"', 2, "valid are: auditd, cef,"),
        ('format = "csv"', 'format = "cef"', 8, 'only the format "csv" has columns, not "cef"'),
        ("%{WORD:person}", "%{WORT:person}", 14, "unknown pattern %{WORT}"),
        ("%{WORD:person}", "(", 14, "missing"),
        ("names = ", "name = ", 9, 'unknown key "name"'),
        ('by = "kind"', 'on = "kind"', 12, 'unknown key "on"'),
    ],
)
def test_a_mistake_is_refused_with_file_line_and_hint(tmp_path: Path, old: str, new: str, line: int, hint: str) -> None:
    with pytest.raises(RuleError) as caught:
        _load(tmp_path, GOOD.replace(old, new, 1))
    assert caught.value.where == f"{tmp_path / 'door.toml'}:{line}"
    assert hint in caught.value.problem
