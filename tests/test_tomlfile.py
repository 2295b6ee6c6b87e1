"""Errors in TOML files name the line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import Struct

from tidegate import tomlfile
from tidegate.errors import ConfigError


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    weight: int = 1


class Book(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str
    rule: list[Rule] = []


def load(folder: Path, text: str) -> Book:
    path = folder / "book.toml"
    path.write_text(text, encoding="utf-8")
    return tomlfile.load(path, Book)


def test_a_good_file_becomes_the_struct(tmp_path: Path) -> None:
    book = load(tmp_path, 'title = "a"\n[[rule]]\nname = "x"\nweight = 3\n')
    assert book == Book(title="a", rule=[Rule(name="x", weight=3)])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('title = "a"\ntitel = "b"\n', 2, ['unknown key "titel"']),
        ('title = "a"\n\n[[rule]]\nname = "x"\n[[rule]]\nname = 7\n', 6, ["name", "str"]),
        ('title = "a"\n[[rule]]\nname = "x"\n# n\n[[rule]]\nname = "y"\nwieght = 2\n', 7, ['unknown key "wieght"']),
        ('title = "a"\n[[rule]]\nweight = 2\n', 2, ["name"]),
    ],
)
def test_a_wrong_key_or_type_names_its_line(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.where == f"{tmp_path / 'book.toml'}:{line}"
    assert all(word in caught.value.problem for word in words), caught.value.problem


def test_text_that_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load(tmp_path, 'title = "a"\nrule = ?\n')


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        tomlfile.load(tmp_path / "missing.toml", Book)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "book.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(ConfigError, match="cannot be read"):
        tomlfile.load(tmp_path / "book.toml", Book)


def test_nearest_offers_the_close_name_or_else_all() -> None:
    assert 'did you mean "weight"' in tomlfile.nearest("wieght", ["name", "weight"])
    assert "name, weight" in tomlfile.nearest("zzz", ["weight", "name"])
