"""Functions of one text, made of literals when an expression is compiled, which keep their results.

Invariant: as in `functions.py`, none raises, whatever it is given. What makes them raises ValueError for the author.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import re2

from tidegate.tomlfile import nearest

__all__ = ["Remembered", "extract", "in_cidr", "in_domain", "is_private", "matches"]


class Remembered(dict[str, Any]):
    """A function of one text whose results for texts of moderate length are kept; anything but text gives `otherwise`.

    Addresses, names and command lines come again and again, and a look here takes a twentieth of the time.
    """

    def __init__(self, function: Callable[[str], Any], otherwise: Any) -> None:
        super().__init__()
        self._function = function
        self.otherwise = otherwise

    def __missing__(self, text: str) -> Any:
        result = self._function(text)
        if len(text) <= 256:
            if len(self) >= 4096:
                self.clear()
            self[text] = result
        return result

    def __call__(self, value: Any) -> Any:
        return self[value] if value.__class__ is str else self.otherwise


def _pattern(regex: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(regex.encode("utf-8", "replace"), options)
    except re2.error as error:
        text = error.args[0]
        problem = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise ValueError(f"not a regular expression of RE2: {problem}") from error


def matches(regex: str) -> Remembered:
    search = _pattern(regex).search
    return Remembered(lambda text: search(text.encode("utf-8", "replace")) is not None, otherwise=False)


def extract(regex: str, group: Any = None) -> Remembered:
    pattern = _pattern(regex)
    named = {name.decode(): number for name, number in pattern.groupindex.items()}
    if group is None:
        group = min(pattern.groups, 1)
    number = named.get(group) if isinstance(group, str) else group
    if number.__class__ is not int or not 0 <= number <= pattern.groups:
        valid = [*map(str, range(pattern.groups + 1)), *named]
        raise ValueError(f'the regular expression has no group "{group}"{nearest(str(group), valid)}')

    def find(text: str) -> str | None:
        found = pattern.search(text.encode("utf-8", "replace"))
        part: bytes | None = found.group(number) if found else None
        return None if part is None else part.decode("utf-8", "replace")

    return Remembered(find, otherwise=None)


def in_cidr(*networks: str) -> Remembered:
    by_length: dict[tuple[int, int], set[int]] = {}
    for each in networks:
        try:
            network = ipaddress.ip_network(each, strict=False)
        except ValueError as error:
            raise ValueError(f'"{each}" is not a network such as 10.0.0.0/8 or fc00::/7') from error
        if "/" in each and str(network.network_address) != each.partition("/")[0].lower():
            raise ValueError(f'"{each}" is not the first address of its network; write "{network}"')
        hosts = network.max_prefixlen - network.prefixlen
        by_length.setdefault((network.version, hosts), set()).add(int(network.network_address) >> hosts)
    prefixes = [(version, hosts, frozenset(heads)) for (version, hosts), heads in by_length.items()]

    def inside(text: str) -> bool:
        try:
            packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
        except (OSError, ValueError):
            return False
        short = packed if len(packed) == 4 else packed[12:] if packed.startswith(_MAPPED) else None
        number = int.from_bytes(packed)
        number4 = int.from_bytes(short) if short is not None else None
        for version, hosts, heads in prefixes:
            if version == 4:
                if number4 is not None and number4 >> hosts in heads:
                    return True
            elif len(packed) == 16 and number >> hosts in heads:
                return True
        return False

    return Remembered(inside, otherwise=False)


def in_domain(*domains: str) -> Remembered:
    ends = tuple(f".{each.strip('.').lower()}" for each in domains)
    return Remembered(lambda text: f".{text.rstrip('.').lower()}".endswith(ends), otherwise=False)


# RFC 4291, 2.5.5.2: an IPv4 address as an IPv6 one, ::ffff:10.0.0.1, is in the networks of both.
_MAPPED = bytes(10) + b"\xff\xff"
# Private use (RFC 1918, RFC 4193), loopback and link-local addresses.
_PRIVATE4 = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16")
_PRIVATE6 = ("::1/128", "fc00::/7", "fe80::/10")
is_private = in_cidr(*_PRIVATE4, *_PRIVATE6)
