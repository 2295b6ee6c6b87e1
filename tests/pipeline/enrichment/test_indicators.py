"""Which indicator a value finds, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipeline.enrichment.indicators import About, Indicators, IndicatorTable, valid_of
from tidegate.pipeline.enrichment.values import Kind, key_of

NOW = 1_750_000_000_000


def _table(feed: str, *entries: tuple[str, About]) -> IndicatorTable:
    table = IndicatorTable(feed)
    for text, about in entries:
        table.add(*key_of(None, text), about)
    table.close()
    return table


def _all(*tables: IndicatorTable) -> Indicators:
    indicators = Indicators(cache_entries=100)
    for table in tables:
        indicators.put(table)
    return indicators


def _value(indicators: Indicators, kind: Kind, value: str, now_ms: int = NOW) -> str | None:
    found = indicators.match(kind, value, now_ms)
    return None if found is None else f"{found.feed}:{found.value}"


def test_a_match_says_what_the_feed_says() -> None:
    about = About(confidence=80, label="botnet", valid_until=NOW + 1, reference="https://feeds.example/1")
    found = _all(_table("one", ("198.51.100.7", about))).match("ip", "198.51.100.7", NOW)
    assert found is not None
    assert (found.kind, found.value, found.feed) == ("ip", "198.51.100.7", "one")
    assert About(found.confidence, found.label, found.valid_until, found.reference) == about


def test_each_kind_is_found_in_every_spelling_of_its_value() -> None:
    nothing = About()
    indicators = _all(
        _table(
            "f",
            ("2001:db8::1", nothing),
            ("d41d8cd98f00b204e9800998ecf8427e", nothing),
            ("http://evil.example/a", nothing),
            ("mallory@evil.example", nothing),
            ("203.0.113.0/24", nothing),
        )
    )
    assert _value(indicators, "ip", "2001:DB8:0::1") == "f:2001:db8::1"
    assert _value(indicators, "hash", "D41D8CD98F00B204E9800998ECF8427E") == "f:d41d8cd98f00b204e9800998ecf8427e"
    assert _value(indicators, "url", "HTTP://Evil.example:80/a#top") == "f:http://evil.example/a"
    assert _value(indicators, "email", "Mallory@EVIL.example") == "f:mallory@evil.example"
    assert _value(indicators, "ip", "::ffff:203.0.113.9") == "f:203.0.113.0/24"
    assert _value(indicators, "domain", "evil.example") is None
    assert _value(indicators, "ip", "Internal") is None


def test_the_closest_indicator_counts_then_the_surest_then_the_first_feed() -> None:
    indicators = _all(
        _table(
            "a", ("10.0.0.0/8", About(confidence=100)), ("evil.example", About(confidence=100)), ("1.1.1.1", About())
        ),
        _table(
            "b", ("10.1.0.0/16", About(confidence=1)), ("x.evil.example", About(confidence=1)), ("1.1.1.1", About())
        ),
        _table("c", ("10.1.2.3", About()), ("x.evil.example", About(confidence=2))),
    )
    assert _value(indicators, "ip", "10.1.2.3") == "c:10.1.2.3"
    assert _value(indicators, "ip", "10.1.2.4") == "b:10.1.0.0/16"
    assert _value(indicators, "ip", "10.2.2.4") == "a:10.0.0.0/8"
    assert _value(indicators, "domain", "www.x.evil.example") == "c:x.evil.example"
    assert _value(indicators, "ip", "1.1.1.1") == "a:1.1.1.1"


def test_an_expired_indicator_gives_way_to_one_that_is_not_whatever_was_asked_before() -> None:
    indicators = _all(
        _table("a", ("10.1.0.0/16", About(valid_until=NOW)), ("e.example", About(confidence=9, valid_until=NOW))),
        _table("b", ("10.0.0.0/8", About()), ("e.example", About(confidence=5, valid_until=NOW + 10))),
    )
    for moment, ip, domain in (
        (NOW - 1, "a:10.1.0.0/16", "a:e.example"),
        (NOW, "b:10.0.0.0/8", "b:e.example"),
        (NOW + 10, "b:10.0.0.0/8", None),
        (NOW - 1, "a:10.1.0.0/16", "a:e.example"),
    ):
        assert _value(indicators, "ip", "10.1.1.1", moment) == ip
        assert _value(indicators, "domain", "e.example", moment) == domain


def test_a_value_that_a_feed_has_twice_counts_once_as_it_is_valid_longest() -> None:
    table = IndicatorTable("f")
    for number, (text, about) in enumerate(
        [
            ("evil.example", About(label="short", valid_until=NOW)),
            ("EVIL.example", About(label="long")),
            ("evil.example", About(label="unsure, later", valid_until=NOW + 5)),
            ("10.0.0.0/8", About(label="unsure", confidence=1)),
            ("10.0.0.9/8", About(label="sure", confidence=2)),
        ]
    ):
        assert table.add(*key_of(None, text), about) == (number in (0, 3))
    table.close()
    assert len(table) == 2
    indicators = _all(table)
    assert getattr(indicators.match("domain", "evil.example", NOW), "label", None) == "long"
    assert getattr(indicators.match("ip", "10.1.1.1", NOW), "label", None) == "sure"


_NAME = st.lists(st.sampled_from(["a", "b", "com"]), min_size=1, max_size=6).map(".".join)


@given(st.sets(_NAME.filter(lambda name: "." in name)), st.lists(_NAME))
def test_a_domain_finds_the_longest_of_those_that_it_is_or_is_under(domains: set[str], asked: list[str]) -> None:
    indicators = _all(_table("f", *((domain, About()) for domain in sorted(domains))))
    for name in asked:
        above = [domain for domain in domains if name == domain or name.endswith("." + domain)]
        assert _value(indicators, "domain", name) == (f"f:{max(above, key=len)}" if above else None)


def test_a_name_of_many_labels_is_looked_up_as_often_as_the_feed_has_lengths() -> None:
    indicators = _all(_table("f", ("evil.example", About())))
    assert _value(indicators, "domain", "a." * 100_000 + "evil.example") == "f:evil.example"
    assert _value(indicators, "domain", "." * 100_000) is None


def test_hits_and_misses_of_the_cache_are_counted_and_outlive_a_reload() -> None:
    indicators = _all(_table("f", ("evil.example", About())))
    for name in ("evil.example", "good.example", "evil.example", "good.example", "evil.example"):
        indicators.match("domain", name, NOW)
    assert (indicators.hits, indicators.misses) == (3, 2)
    indicators.put(_table("f", ("good.example", About())))
    assert _value(indicators, "domain", "evil.example") is None
    assert _value(indicators, "domain", "good.example") == "f:good.example"
    assert (indicators.hits, indicators.misses) == (3, 4)


def test_the_cache_is_bounded_and_a_full_one_is_still_right() -> None:
    indicators = _all(_table("f", ("10.0.0.0/9", About())))
    for number in range(1000):
        ip = f"10.{number % 250}.0.{number // 250}"
        assert (_value(indicators, "ip", ip) is not None) == (number % 250 < 128)
    assert len(indicators) == 1
    assert 0 < len(indicators.cache("ip")) <= 100


def test_a_loop_over_many_values_finds_what_single_lookups_find() -> None:
    indicators = _all(_table("f", ("10.0.0.0/9", About(valid_until=NOW + 5)), ("10.0.0.1", About(valid_until=NOW))))
    cache = indicators.cache("ip")
    values = ["10.0.0.1", "10.200.0.1", "10.0.0.1"]
    cache.lookups += len(values)
    found = [valid_of(cache[value], NOW) for value in values]
    assert (indicators.hits, indicators.misses) == (1, 2)
    assert found == [indicators.match("ip", value, NOW) for value in values]
    assert [one and one.value for one in found] == ["10.0.0.0/9", None, "10.0.0.0/9"]
