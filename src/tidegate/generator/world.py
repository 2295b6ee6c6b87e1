"""The made-up company that the events are about: its hosts, people, sites, and those who attack it.

Invariant: internal addresses are RFC 1918, external ones RFC 5737, names below example.com/net/org; nothing exists.
A few hosts, people and sites do most of what happens (Zipf), so correlation ids and observables recur.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from itertools import product
from string import ascii_letters, digits
from typing import Generic, NamedTuple, TypeVar

from tidegate.generator.template import Values, escaped

__all__ = ["Address", "Dice", "Host", "Person", "Skewed", "World", "community_id"]

T = TypeVar("T")

_PAIRS = ["".join(pair) for pair in product(ascii_letters + digits, repeat=2)][:2048]


class Dice:
    """Cheap draws from one seeded `random.Random`."""

    def __init__(self, seed: int) -> None:
        source = random.Random(seed)  # noqa: S311 - made-up data, not a secret
        self.uniform = source.random
        self.bits = source.getrandbits
        self.shuffle = source.shuffle

    def below(self, limit: int) -> int:
        return int(self.uniform() * limit)

    def hex(self, length: int) -> str:
        return f"{self.bits(4 * length):0{length}x}"

    def uuid(self) -> str:
        text = f"{self.bits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def uid(self, prefix: str) -> str:
        """An identifier in Zeek's form: a letter and 16 letters or digits."""
        bits = self.bits(88)
        return prefix + "".join([_PAIRS[bits >> shift & 2047] for shift in range(0, 88, 11)])

    def ephemeral_port(self) -> int:
        return 49152 + self.bits(14)


class Skewed(Generic[T]):
    """Picks from `items`, the first ones most often: the n-th with a weight of 1/n."""

    def __init__(self, dice: Dice, items: Sequence[T]) -> None:
        total = sum(1 / rank for rank in range(1, len(items) + 1))
        self.all = tuple(items)
        self._table = [
            item for rank, item in enumerate(items, 1) for _ in range(max(1, round(1024 / rank / total)))
        ]  # fmt: skip
        self._uniform = dice.uniform
        self._size = len(self._table)

    def pick(self) -> T:
        return self._table[int(self._uniform() * self._size)]


class Address(NamedTuple):
    text: str
    packed: bytes

    @classmethod
    def of(cls, text: str) -> Address:
        return cls(text, bytes(map(int, text.split("."))))


class Host(NamedTuple):
    name: str
    fqdn: str
    address: Address
    agent: int
    """Which of the three Windows event shapes the agent on this host writes."""


class Person(NamedTuple):
    name: str
    sid: str
    host: Host
    cloud_address: str
    """Where the cloud sees this person coming from."""


_FIRST = ("anna", "bram", "chidi", "dora", "emil", "farah", "goran", "hana", "ivo", "jonas", "kemal", "lena")
_LAST = ("adler", "brook", "castell", "dunn", "ekberg", "falk", "grove", "holm")
_SERVERS = ("dc01", "file01", "web01", "dc02", "sql01", "mail01", "build01", "jump01", "web02", "print01")
_LABELS = ("www", "cdn", "api", "login", "static", "images", "news", "mail", "docs", "shop", "maps", "ads", "telemetry")
_ZONES = ("example.com", "example.net", "example.org")
_PAGES = (
    ("/", "text/html"), ("/index.html", "text/html"), ("/assets/app.js", "application/javascript"),
    ("/assets/site.css", "text/css"), ("/img/logo.png", "image/png"), ("/api/v1/items?page=2", "application/json"),
    ("/feed.xml", "text/xml"), ("/api/v1/session", "application/json"), ("/img/banner.jpg", "image/jpeg"),
    ("/downloads/report.pdf", "application/pdf"), ("/fonts/body.woff2", "font/woff2"),
    ("/downloads/setup.exe", "application/x-dosexec"), ("/search?q=travel+expenses", "text/html"),
    ("/downloads/archive.zip", "application/zip"),
)  # fmt: skip
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Microsoft-CryptoAPI/10.0", "curl/8.5.0", "python-requests/2.32.3", "Wget/1.21.4",
)  # fmt: skip


class World:
    """Everyone and everything that may occur in an event."""

    def __init__(self, dice: Dice) -> None:
        workstations = [
            self._host(f"ws-{number:03}", f"10.20.{number // 40}.{10 + number % 40}", number) for number in range(120)
        ]
        servers = [self._host(name, f"10.10.0.{10 + number}", number) for number, name in enumerate(_SERVERS)]
        authority = f"S-1-5-21-{dice.bits(31)}-{dice.bits(31)}-{dice.bits(31)}"
        names = [f"{first}.{last}" for first, last in product(_FIRST, _LAST)]
        dice.shuffle(names)
        people = [
            Person(name, f"{authority}-{1100 + n}", workstations[n], "192.0.2.10" if n % 3 else f"192.0.2.{100 + n}")
            for n, name in enumerate(names)
        ]
        names = [f"{label}.{zone}" for label, zone in product(_LABELS, _ZONES)]
        dice.shuffle(names)
        self.dns, self.file_server = servers[0], servers[1]
        self.people = Skewed(dice, people)
        self.workstations = Skewed(dice, workstations)
        self.servers = Skewed(dice, servers)
        self.attackers = [Address.of(f"203.0.113.{200 + 7 * n}") for n in range(6)]
        self.outsiders = Skewed(dice, [Address.of(f"203.0.113.{n}") for n in range(1, 180)])
        self.sites = Skewed(dice, [self._site(dice, name, n) for n, name in enumerate(names)])
        self.bad_site = self._site(dice, "update-check.example.net", 200)
        self.pages = Skewed(dice, [self._page(dice, url, mime) for url, mime in _PAGES])
        self.payload = self._page(dice, "/patch/invoice_viewer.exe", "application/x-dosexec")
        self.agents = Skewed(dice, [{"agent": agent, "ja3": dice.hex(32), "ja3s": dice.hex(32)} for agent in _AGENTS])

    def _host(self, name: str, address: str, number: int) -> Host:
        return Host(name.upper(), f"{name}.corp.example.com", Address.of(address), number % 3)

    def _site(self, dice: Dice, name: str, number: int) -> Values:
        fingerprint = dice.hex(40)
        return {
            "site": name,
            "site_address": Address.of(f"198.51.100.{number + 1}"),
            "certificate_sha1": fingerprint,
            "certificate_sha1_colons": ":".join(fingerprint[i : i + 2] for i in range(0, 40, 2)),
            "serial": dice.hex(16).upper(),
        }

    def _page(self, dice: Dice, url: str, mime: str) -> Values:
        return {
            "url": escaped(url),
            "mime": mime,
            "length": 200 + dice.bits(18 if mime.startswith("application") else 14),
            "md5": dice.hex(32),
            "sha1": dice.hex(40),
            "sha256": dice.hex(64),
        }


def community_id(protocol: int, source: bytes, source_port: int, target: bytes, target_port: int) -> str:
    """The flow hash that Suricata and Zeek share (Community ID v1, seed 0): the same for both directions."""
    if (source, source_port) > (target, target_port):
        source, source_port, target, target_port = target, target_port, source, source_port
    ports = source_port.to_bytes(2, "big") + target_port.to_bytes(2, "big")
    digest = sha1(b"\0\0" + source + target + bytes((protocol, 0)) + ports, usedforsecurity=False).digest()
    return "1:" + b64encode(digest).decode()
