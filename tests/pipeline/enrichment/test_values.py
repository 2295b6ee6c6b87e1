"""One spelling for each value, whatever the feed or the event writes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipeline.enrichment.values import FeedKind, Kind, ip_key, key_of, network_key, refang, text_of, to_key

SHA256 = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"


@pytest.mark.parametrize(
    ("text", "kind", "spelling"),
    [
        ("198.51.100.7", "ip", "198.51.100.7"),
        (" 198[.]51[.]100[.]7:443 ", "ip", "198.51.100.7"),
        ("198.51.100.7/32", "ip", "198.51.100.7"),
        ("2001:DB8:0:0::1", "ip", "2001:db8::1"),
        ("::ffff:198.51.100.7", "ip", "198.51.100.7"),
        ("198.51.100.7/24", "cidr", "198.51.100.0/24"),
        ("::ffff:198.51.100.7/120", "cidr", "198.51.100.0/24"),
        ("2001:db8::1/32", "cidr", "2001:db8::/32"),
        ("EVIL[.]Example.", "domain", "evil.example"),
        ("*.evil.example", "domain", "evil.example"),
        ("bücher(dot)example", "domain", "xn--bcher-kva.example"),
        ("hxxps://EVIL[.]example:443/A?b#c", "url", "https://evil.example/A?b"),
        ("http://evil.example", "url", "http://evil.example/"),
        ("http://evil.example?q=http://other.example/", "url", "http://evil.example/?q=http://other.example/"),
        ("http://u:P@Evil.example:8080/", "url", "http://u:P@evil.example:8080/"),
        ("evil.example/path", "url", "http://evil.example/path"),
        ("http://[2001:db8::1]:80/", "url", "http://[2001:db8::1]/"),
        (SHA256, "hash", SHA256.lower()),
        ("D41D8CD98F00B204E9800998ECF8427E", "hash", "d41d8cd98f00b204e9800998ecf8427e"),
        ("Mallory[at]Evil[.]Example", "email", "mallory@evil.example"),
    ],
)
def test_the_looks_of_a_value_tell_its_kind_and_it_gets_one_spelling(text: str, kind: FeedKind, spelling: str) -> None:
    assert key_of(None, text)[0] == kind
    assert text_of(*key_of(None, text)) == spelling
    assert key_of(kind, text) == key_of(None, text)
    assert key_of(None, spelling) == key_of(None, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (None, ""),
        (None, "localhost"),
        (None, "1.2.3"),
        (None, "evil..example"),
        (None, "not a domain.example"),
        (None, "/etc/passwd"),
        ("ip", "1.2.3.256"),
        ("ip", "1.2.3.4\0"),
        ("cidr", "10.0.0.0/33"),
        ("cidr", "10.0.0.0/x"),
        ("cidr", "::ffff:10.0.0.0/64"),
        ("hash", SHA256[:-1]),
        ("hash", SHA256[:-2] + "  "),
        ("hash", "g" * 32),
        ("domain", "198.51.100.7"),
        ("email", "@evil.example"),
        ("url", "http:///path"),
        ("url", "http://evil.example/" + "a" * 3000),
    ],
)
def test_what_is_no_value_of_its_kind_is_refused_and_named(kind: FeedKind | None, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_of(kind, text)
    assert repr(text[:100])[:20] in str(caught.value)


def test_only_the_marks_of_defanging_are_taken_out() -> None:
    assert refang("hXXp[:]//a[.]b{.}c(dot)d[at]e") == "http://a.b.c.d@e"
    assert refang("http://a.example/?q[]=(x)&hxxp") == "http://a.example/?q[]=(x)&hxxp"


@given(st.ip_addresses())
def test_an_address_has_the_key_of_its_bytes(address: object) -> None:
    parsed = ip_address(str(address))
    mapped = getattr(parsed, "ipv4_mapped", None)
    assert ip_key(str(address)) == (mapped or parsed).packed


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_has_the_key_of_its_first_address_and_length(address: object, prefix: int) -> None:
    network = ip_network(f"{address}/{prefix}", strict=False)
    assert network_key(f"{address}/{prefix}") == network.network_address.packed + bytes((prefix,))


@given(st.sampled_from(("ip", "domain", "hash", "url", "email")), st.text(st.characters(), max_size=60))
def test_no_text_of_an_event_is_too_odd_to_be_looked_up(kind: Kind, text: str) -> None:
    key = to_key[kind](text)
    assert key is None or isinstance(key, bytes)


@given(st.text(st.characters(), max_size=60))
def test_a_value_that_is_taken_keeps_its_key_when_it_is_written_out(text: str) -> None:
    try:
        kind, key = key_of(None, text)
    except ValueError:
        return
    assert key_of(kind, text_of(kind, key)) == (kind, key)
