"""Whatever the bytes are, each record is accounted for, parsers raise only RecordError, and time is linear."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.schema import problem_of
from tests.pipeline.text.data import lines_of, run_lines
from tests.pipeline.text.samples import SAMPLES
from tidegate.errors import RecordError
from tidegate.pipeline.lines.base import Assembled
from tidegate.pipeline.lines.csvline import Columns
from tidegate.pipeline.lines.formats import FORMATS
from tidegate.pipeline.lines.framing import frames_of
from tidegate.pipeline.runner import Codec, Pipeline

_SOURCES = st.sampled_from(list(SAMPLES))
_TEXTS = (
    b"\"~\\~=~ ~'~,~|~\t~:~-~[~]~0~\x1d~\xff~\\x09~<13>~Jun 15 12:00:00 ~type=~msg=audit(1.0:1):~a0=~CEF:0|~"
    b"LEEF:2.0|a|b|c|d|~%ASA-6-302013: ~#separator ~#fields\t~#types\t~time~set[count]~version ~srcaddr ~"
    b"1,2025/06/15 12:00:00,1,TRAFFIC,"
)
_PIECES = st.sampled_from(_TEXTS.split(b"~"))
_MADE = st.lists(_PIECES, max_size=20).map(b"".join)


@st.composite
def _mutated(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """Sample lines with a part cut out, doubled, or put in."""
    source = draw(_SOURCES)
    lines = lines_of(source)
    found = []
    for line in draw(st.lists(st.sampled_from(lines), max_size=8)):
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + 30)))
        found.append(line[:start] + draw(_MADE) + line[end:])
    return source, found


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=_SOURCES,
    codec=st.sampled_from(["json", "msgpack", "text"]),
    records=st.lists(st.binary(max_size=60) | _MADE, max_size=8),
)
def test_any_bytes_are_accounted_for(pipeline: Pipeline, source: str, codec: Codec, records: list[bytes]) -> None:
    for letter in run_lines(pipeline, source, records, codec).dead:
        assert "Error:" not in letter.error or letter.rule in ("json", "msgpack", "depth", "utf8")


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=_mutated(), wrap=st.booleans())
def test_a_changed_line_is_a_valid_event_or_a_dead_letter_with_a_reason(
    pipeline: Pipeline, case: tuple[str, list[bytes]], wrap: bool
) -> None:
    source, records = case
    if wrap:
        records = [msgspec.json.encode({"message": record.decode("utf-8", "replace")}) for record in records]
    result = run_lines(pipeline, source, records, "json" if wrap else "text")
    for event in result.events:
        assert problem_of(event) is None
    for letter in result.dead:
        assert letter.rule.split(".")[0] in (source, "csv", "keyvalue", "cef", "leef", "cisco", "json"), letter.error
        assert "Error:" not in letter.error


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(list(FORMATS)),
    lines=st.lists(st.text(max_size=80) | _MADE.map(lambda raw: raw.decode("utf-8", "replace")), max_size=6),
)
def test_parsers_raise_nothing_but_record_errors(name: str, lines: list[str]) -> None:
    _read(name, lines)


def _read(name: str, lines: list[str]) -> None:
    form = FORMATS[name](Columns(by=0, names={"*": ["a", "b"]}) if name == "csv" else None)
    for line in lines:
        with suppress(RecordError):
            if form.parse is not None:
                form.parse(line, 0)
    if form.gather is not None:
        for each in form.gather(lines, 0):
            if isinstance(each, Assembled):
                with suppress(RecordError):
                    each.build()


_BAD = {
    "quotes": '"',
    "backslashes": "\\",
    "equals": "=",
    "pairs": 'a="',
    "escaped": '\\"',
    "keys": "a=",
    "words": "a ",
    "bars": "|",
    "commas": ',"',
    "brackets": '[a b="',
    "hex": "a0[1]=41 ",
    "spaces": " ",
    "letters": "a",
    "types": "type=",
    "percent": "%ASA-",
    "colons": ": ",
    "addresses": "1.2.3.4 from ",
}
_STARTS = {
    "auditd": "type=EXECVE msg=audit(1.0:1): ",
    "cef": "CEF:0|a|b|c|d|e|1|",
    "cisco": "%ASA-6-302013: ",
    "csv": "<13>Jun 15 12:00:00 h 1,2,",
    "keyvalue": "a=1 ",
    "leef": "LEEF:2.0|a|b|c|d|",
    "syslog": "<13>1 - - - - - ",
    "vpcflow": "version account-id srcaddr dstaddr\n",
    "zeek": "#separator \\x09\n#fields\ta\n#types\tset[string]\n",
}


def _seconds(work: Callable[[], Any]) -> float:
    best = 1e9
    for _ in range(2):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("bad", _BAD)
@pytest.mark.parametrize("name", FORMATS)
def test_a_long_line_takes_time_linear_in_its_length(name: str, bad: str) -> None:
    def lines(size: int) -> list[str]:
        return (_STARTS[name] + _BAD[bad] * (size // len(_BAD[bad]))).split("\n")

    # A thousand times the time for ten times the length would be cubic, a hundred quadratic; ten is linear.
    small, large = (_seconds(partial(_read, name, lines(size))) for size in (10_000, 100_000))
    assert large < 40 * small + 0.02, (small, large)
    assert large < 0.5


@pytest.mark.parametrize("bad", _BAD)
@pytest.mark.parametrize("source", ["linux_syslog", "cisco_asa"])
def test_patterns_take_time_linear_in_the_text(pipeline: Pipeline, source: str, bad: str) -> None:
    starts = {
        "linux_syslog": [
            "Jun 15 12:00:00 h sshd[1]: Failed password for invalid user ",
            "Jun 15 12:00:00 h sudo: a : TTY=x ; PWD=",
        ],
        "cisco_asa": ["%ASA-4-106023: Deny tcp src outside:", "%ASA-6-302013: Built inbound TCP connection 1 for a:"],
    }
    records = [(start + _BAD[bad] * (100_000 // len(_BAD[bad]))).encode() for start in starts[source]]
    assert _seconds(lambda: run_lines(pipeline, source, records)) < 0.5


def test_many_header_lines_and_events_take_time_linear_in_their_number(pipeline: Pipeline) -> None:
    headers = [b"#separator |", b"#fields|a", b"#types|string"] * 3000
    wide = [
        b"#separator |",
        b"#fields" + b"|a" * 50_000,
        b"#types" + b"|int" * 50_000,
        *[b"#path|x", b"#types|int"] * 3000,
    ]
    events = [b"type=X msg=audit(1.0:%d): a=1" % (number % 5) for number in range(9000)]
    assert _seconds(lambda: run_lines(pipeline, "zeek", headers)) < 0.5
    assert _seconds(lambda: run_lines(pipeline, "zeek", wide)) < 0.5
    assert _seconds(lambda: run_lines(pipeline, "linux_auditd", events)) < 1.0
    assert _seconds(lambda: list(frames_of(headers + events))) < 0.5
