"""What is read from feeds, and what is told of the rest."""

from __future__ import annotations

import gzip
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tidegate.errors import TableError
from tidegate.pipeline.enrichment.feeds import load_feed
from tidegate.pipeline.enrichment.files import Report
from tidegate.pipeline.enrichment.indicators import Indicator, Indicators
from tidegate.pipeline.enrichment.settings import Columns, IndicatorFeed
from tidegate.pipeline.enrichment.stix import values_in
from tidegate.pipeline.enrichment.values import Kind

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
CSV = """\
# exported today, "unbalanced
Indicator,Type,Confidence,Label,Valid_Until,Reference

198.51.100.7,ipv4,80,c2,2026-01-01T00:00:00Z,https://feeds.example/1
203.0.113.0/24,cidr,high,"scanner, loud",,
evil[.]example,domain,,,2026-01-01 00:00:00 UTC
hxxp://evil[.]example/a,url,,,,
D41D8CD98F00B204E9800998ECF8427E,MD5,,,,
"""


def _load(path: Path, content: str | bytes, **settings: Any) -> tuple[Indicators, Report]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table, report = load_feed(path, IndicatorFeed(feed="f", path=path.name, **settings))
    indicators = Indicators()
    indicators.put(table)
    return indicators, report


def _found(indicators: Indicators, kind: Kind, value: str) -> Indicator | None:
    return indicators.match(kind, value, 0)


def _values(indicators: Indicators) -> dict[str, str | None]:
    """Of the values in `CSV`, what each finds."""
    asked: dict[str, Kind] = {"198.51.100.7": "ip", "203.0.113.9": "ip", "www.evil.example": "domain", MD5: "hash"}
    asked["http://evil.example/a"] = "url"
    return {
        value: found.value for value, kind in asked.items() if (found := _found(indicators, kind, value)) is not None
    }


ALL_VALUES = {
    "198.51.100.7": "198.51.100.7",
    "203.0.113.9": "203.0.113.0/24",
    "www.evil.example": "evil.example",
    MD5: MD5,
    "http://evil.example/a": "http://evil.example/a",
}


def test_a_csv_with_a_header_is_read_by_the_usual_names(tmp_path: Path) -> None:
    indicators, report = _load(tmp_path / "f.csv", CSV, confidence=10, label="default")
    assert _values(indicators) == ALL_VALUES
    assert (report.rows, report.bad) == (5, 0)
    assert _found(indicators, "ip", "198.51.100.7") == Indicator(
        kind="ip",
        value="198.51.100.7",
        feed="f",
        confidence=80,
        label="c2",
        valid_until=1_767_225_600_000,
        reference="https://feeds.example/1",
    )
    scanner, url = _found(indicators, "ip", "203.0.113.9"), _found(indicators, "url", "http://evil.example/a")
    assert scanner is not None
    assert url is not None
    assert (scanner.confidence, scanner.label) == (85, "scanner, loud")
    assert (url.confidence, url.label) == (10, "default")


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.zst", ".csv"])
def test_compressed_feeds_are_recognised_whole_or_in_pieces(tmp_path: Path, suffix: str) -> None:
    packs: dict[str, Callable[[bytes], bytes]] = {
        ".csv.gz": gzip.compress,
        ".csv.zst": zstandard.compress,
        ".csv": bytes,
    }
    pack = packs[suffix]
    half = CSV.index("203")
    pieces = pack(CSV[:half].encode()) + pack(CSV[half:].encode())
    assert _values(_load(tmp_path / f"f{suffix}", pieces)[0]) == ALL_VALUES


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_compressed_feed_that_ends_in_the_middle_is_refused(tmp_path: Path, pack: Any) -> None:
    lines = "\n".join(f"{number}.example" for number in range(20_000))
    with pytest.raises(TableError, match=r"f\.txt: cannot be read"):
        _load(tmp_path / "f.txt", pack(lines.encode())[:-5])


def test_columns_may_have_other_names_or_no_header_at_all(tmp_path: Path) -> None:
    rows = "2026;evil.example;why\n"
    for indicators, _ in (
        _load(
            tmp_path / "a.csv",
            "seen;IOC;because\n" + rows,
            delimiter=";",
            columns=Columns(value="ioc", label="because"),
        ),
        _load(tmp_path / "b.csv", rows, delimiter=";", header=["seen", "value", "label"]),
    ):
        found = _found(indicators, "domain", "evil.example")
        assert found is not None
        assert found.label == "why"


def test_bad_lines_are_counted_and_the_first_few_told_with_their_number(tmp_path: Path) -> None:
    rows = ["value,type,confidence,valid_until", "evil.example,domain,,"]
    rows += [
        "nonsense,,,",
        "evil.example,mutex,,",
        "a.example,,101,",
        "a.example,,,soon",
        "a.example,,,,,",
        "x" * 200_000,
    ]
    rows += [f"bad{number}" for number in range(20)]
    rows += ["good.example"]
    indicators, report = _load(tmp_path / "f.csv", "\n".join(rows))
    assert _found(indicators, "domain", "good.example") is not None
    assert len(indicators) == 2
    assert (report.rows, report.bad) == (28, 26)
    assert [each.partition(":")[0] for each in report.first_bad] == [f"line {number}" for number in range(3, 8)]
    for told, word in zip(report.first_bad, ("nonsense", "mutex", "101", "soon", "6 columns"), strict=True):
        assert word in told


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("f.csv", "a,b\n1,2\n", "f.csv:1", "no column of values"),
        ("f.csv", "value\n\xff\n", "f.csv", "not one of 1 rows"),
        ("f.txt", "not-a-value\n", "f.txt", "not one of 1 rows"),
        ("f.txt", "1.1.1.1\n1.1.1.2\n1.1.1.3\n", "f.txt:3", "more than 2 entries"),
        ("f.json", "{", "f.json", "not a STIX bundle"),
        ("f.json", '{"objects": 5}', "f.json", "not a STIX bundle"),
        ("f.json", '{"objects": [{"type": "indicator"}]}', "f.json", "object 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: str, where: str, problem: str
) -> None:
    with pytest.raises(TableError) as caught:
        _load(tmp_path / name, content.encode("latin-1"), max_entries=2)
    assert caught.value.where == str(tmp_path / where)
    assert problem in caught.value.problem


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        load_feed(tmp_path / "f.csv", IndicatorFeed(feed="f", path="f.csv"))


def test_a_plain_list_may_have_comments(tmp_path: Path) -> None:
    lines = [
        "; Spamhaus",
        "# comment",
        "// comment",
        "",
        "203.0.113.0/24 ; SBL1",
        "evil.example # why",
        "127.0.0.1 a.example",
    ]
    indicators, report = _load(tmp_path / "f.txt", "\ufeff" + "\r\n".join([*lines, "hxxp://evil[.]example/a", MD5]))
    assert len(indicators) == 4
    assert _found(indicators, "ip", "127.0.0.1") is None
    assert report.first_bad == ["line 7: '127.0.0.1 a.example' is more than one value"]


def _bundle(*indicators: dict[str, Any]) -> str:
    objects = [
        {"type": "indicator", "id": f"indicator--{number}", "pattern_type": "stix", **one}
        for number, one in enumerate(indicators)
    ]
    return json.dumps({"type": "bundle", "objects": [{"type": "malware", "name": 5}, *objects]})


def test_a_stix_bundle_gives_its_values_and_what_is_said_of_them(tmp_path: Path) -> None:
    content = _bundle(
        {
            "pattern": "[ipv4-addr:value = '198.51.100.7'] OR [domain-name:value IN ('evil.example', 'bad.example')]",
            "confidence": 70,
            "indicator_types": ["malicious-activity", "c2"],
            "valid_until": "2026-01-01T00:00:00.5Z",
            "external_references": [{"source_name": "x"}, {"url": "https://feeds.example/1"}],
        },
        {"pattern": "[ipv6-addr:value ISSUBSET '2001:db8::/32']", "name": "a network"},
        {"pattern": "[process:name = 'x' OR file:hashes.'SHA-256' = '" + "AB" * 32 + "']"},
        {"pattern": "[url:value = 'a'] AND [url:value = 'b']"},
        {"pattern": "[ipv4-addr:value = '203.0.113.1']", "revoked": True},
        {"pattern": "alert tcp any", "pattern_type": "snort"},
        {"pattern": "[domain-name:value = 'nonsense']"},
        {"pattern": "[domain-name:value = 'x.example']", "confidence": 101},
    )
    indicators, report = _load(tmp_path / "f.json", content)
    found = _found(indicators, "domain", "bad.example")
    assert found is not None
    assert (found.confidence, found.label, found.valid_until, found.reference) == (
        70,
        "malicious-activity,c2",
        1_767_225_600_500,
        "https://feeds.example/1",
    )
    network = _found(indicators, "ip", "2001:db8::5")
    assert network is not None
    assert (network.value, network.label, network.reference) == ("2001:db8::/32", "a network", "indicator--1")
    assert _found(indicators, "hash", "ab" * 32) is not None
    assert _found(indicators, "ip", "203.0.113.1") is None
    assert len(indicators) == 5
    assert dict(report.skipped) == {"object path process:name": 1, "AND": 1, "revoked": 1, "pattern type snort": 1}
    assert [each.partition(":")[0] for each in report.first_bad] == ["object 8", "object 9"]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("[ipv4-addr:value='1.2.3.4']", ["1.2.3.4"]),
        ("([url:value = 'a'] OR ([url:value = 'b' OR (url:value = 'c')]))", ["a", "b", "c"]),
        (r"[url:value = 'it\'s \\ here']", [r"it's \ here"]),
        ("[file:hashes.MD5 = 'x' OR file:hashes.'SHA-1' = 'y' OR file:hashes.\"SHA-256\" = 'z']", None),
        ("[file:hashes.'MD5' IN ('x','y')]", ["x", "y"]),
        ("[email-addr:value = 'a@b.example']", ["a@b.example"]),
        ("[a:b = 'x' AND url:value = 'y']", None),
        ("[url:value = 'a'] FOLLOWEDBY [url:value = 'b']", None),
        ("[url:value = 'a'] WITHIN 5 SECONDS", None),
        ("[NOT url:value = 'a']", None),
        ("[url:value NOT = 'a']", None),
        ("[url:value != 'a']", None),
        ("[url:value LIKE 'a%']", None),
        ("[url:value ISSUBSET 'a']", None),
        ("[url:value = 5]", None),
        ("[url:value = 'a'", None),
        ("[url:value = 'a']]", None),
        ("", None),
        ("(" * 100_000, None),
    ],
)
def test_a_pattern_gives_a_value_only_where_that_alone_satisfies_it(pattern: str, values: list[str] | None) -> None:
    found = values_in(pattern)
    if values is None:
        assert [problem != "" for _, _, problem in found] == [True]
    else:
        assert [(text, problem) for _, text, problem in found] == [(value, "") for value in values]


def _made(path: Path, count: int) -> list[tuple[Kind, str]]:
    """A feed of all kinds with `count` entries, and a hundredth of its values."""
    chosen = random.Random(1)
    some: list[tuple[Kind, str]] = []
    with path.open("w") as file:
        file.write("indicator,type,confidence,label,valid_until,reference\n")
        for number in range(count):
            kind: Kind
            match number % 10:
                case 0 | 1 | 2:
                    kind, value = "ip", f"198.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                case 3 | 4 | 5:
                    kind, value = "domain", f"{chosen.randbytes(6).hex()}.evil{number % 100}.example"
                case 6 | 7:
                    kind, value = "hash", chosen.randbytes(32).hex()
                case 8:
                    kind, value = "url", f"http://{chosen.randbytes(4).hex()}.example/{number}"
                case _:
                    kind, value = "ip", f"2001:db8:{number >> 16:x}:{number & 65535:x}::/64"
            told = "cidr" if value.endswith("::/64") else kind
            file.write(
                f"{value},{told},{number % 101},c2-{number % 30},2026-06-01T00:00:00Z,https://feeds.example/{number}\n"
            )
            if chosen.random() < 0.01:
                some.append((kind, value.removesuffix("/64")))
    return some


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("count", "seconds", "megabytes"),
    [(100_000, 3.0, 60), pytest.param(1_000_000, 10.0, 500, marks=pytest.mark.soak)],
)
def test_many_indicators_are_loaded_quickly_and_into_little_memory(
    tmp_path: Path, count: int, seconds: float, megabytes: int
) -> None:
    some = _made(tmp_path / "f.csv", count)
    before, start = _resident_bytes(), time.thread_time()
    table, report = load_feed(tmp_path / "f.csv", IndicatorFeed(feed="f", path="f.csv"))
    took, grown = time.thread_time() - start, _resident_bytes() - before
    assert (len(table), report.first_bad) == (count, [])
    assert took < seconds
    assert grown < megabytes * 1_000_000
    assert table.nbytes < 150 * count
    indicators = Indicators(cache_entries=count)
    indicators.put(table)
    start = time.thread_time()
    assert all(_found(indicators, kind, value) for kind, value in some)
    first = time.thread_time() - start
    start = time.thread_time()
    assert all(_found(indicators, kind, value) for kind, value in some)
    again = time.thread_time() - start
    absent = [f"{number}.none.example" for number in range(len(some))]
    start = time.thread_time()
    assert not any(_found(indicators, "domain", value) for value in absent)
    none = time.thread_time() - start
    assert first < 50e-6 * len(some)
    assert again < 5e-6 * len(some)
    assert none < 20e-6 * len(some)
