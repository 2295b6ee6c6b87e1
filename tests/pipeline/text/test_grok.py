"""Named patterns: they match whole texts, name what they find, and are refused with a reason when they are wrong."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipeline.lines.grok import PATTERNS, PatternError, compile_grok
from tidegate.pipeline.lines.patterns import Patterns, compile_patterns


def test_names_are_taken_from_the_pattern() -> None:
    match = compile_grok(r"%{WORD:verb} from %{IP:src_ip}(?: port %{PORT:port})?(?: %{REST:rest})?")
    assert match("login from 2001:db8::1 port 22") == {"verb": "login", "src_ip": "2001:db8::1", "port": "22"}
    assert match("login from 10.0.0.1 né") == {"verb": "login", "src_ip": "10.0.0.1", "rest": "né"}
    assert match("login from nowhere") is None
    assert match("xx login from 10.0.0.1") is None
    assert compile_grok("plain")("plain") == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("ab|cd", "cd"),
        ("a(?:b|c)d", "acd"),
        ("ab?c", "ac"),
        ("ab*", "a"),
        (r"a\|b", "a|b"),
        ("[ab]c", "bc"),
        ("a{2}", "aa"),
    ],
)
def test_the_quick_look_at_the_beginning_refuses_nothing_that_matches(pattern: str, text: str) -> None:
    assert compile_grok(pattern)(text) == {}


@given(st.text(max_size=30))
def test_any_text_is_matched_or_not(text: str) -> None:
    assert compile_grok("%{REST:all}")(text) == ({"all": text} if text else {})
    assert compile_grok("%{INT:n}")(text) == ({"n": text} if re.fullmatch("[+-]?[0-9]+", text, re.ASCII) else None)


@pytest.mark.parametrize("pattern", ["%{NOWHERE:x}", "(", r"(?P<a>x)(?P<a>y)", r"(a)\1", "(?=a)"])
def test_a_wrong_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_grok(pattern)


def test_all_shipped_patterns_compile() -> None:
    for name in PATTERNS:
        compile_grok(f"%{{{name}:value}}")


def test_patterns_add_and_never_change() -> None:
    apply = compile_patterns(
        Patterns(by="syslog.app", match={"a|b": {"one": "%{INT:n}", "two": "%{REST:n}"}, "*": {"any": "x%{REST:r}"}})
    )
    record = {"syslog": {"app": "b"}, "message": "12", "n": "kept"}
    apply(record)
    assert record == {"syslog": {"app": "b"}, "message": "12", "n": "kept", "pattern": "one"}
    for other in ({"message": "xy"}, {"syslog": "?", "message": "xy"}, {"syslog": {"app": "c"}, "message": "xy"}):
        apply(other)
        assert (other["pattern"], other["r"]) == ("any", "y")
    untouched: dict[str, object] = {"message": 5}
    apply(untouched)
    assert untouched == {"message": 5}
