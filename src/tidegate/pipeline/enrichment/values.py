"""Values of indicators as keys: one spelling for each address, domain, hash, URL and e-mail address.

Invariant: a value in a feed and a value in an event that mean the same have the same key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal, get_args

__all__ = ["KINDS", "FeedKind", "Kind", "ip_key", "key_of", "network_key", "network_of", "refang", "text_of", "to_key"]

Kind = Literal["ip", "domain", "hash", "url", "email"]
"""What can be looked up."""
FeedKind = Literal["ip", "cidr", "domain", "hash", "url", "email"]
"""What a feed holds."""
KINDS: tuple[Kind, ...] = get_args(Kind)

LONGEST = 2048
"""Bytes of a key; a longer value is refused in a feed."""

_MAPPED = bytes(10) + b"\xff\xff"
_DIGESTS = (32, 40, 64, 128)  # hex digits of MD5, SHA-1, SHA-256, SHA-512
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ftp": ":21", "ws": ":80", "wss": ":443"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_DOMAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]+\Z")
_IP_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d{1,5}\Z")
_FANGS = re.compile(r"\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\)|\[:\]|\[://\]|\[@\]|\[at\]|\(at\)", re.IGNORECASE)
_XX = ("xx", "XX", "Xx", "xX", "**")
_HXXP = re.compile(r"\Ah(?:xx|\*\*)p(s?)(?=:)", re.IGNORECASE)


def refang(text: str) -> str:
    """`text` without what people write into indicators so that nobody clicks on them: `hxxp://evil[.]example`."""
    text = _FANGS.sub(lambda found: _fangless(found.group().lower()), text)
    return _HXXP.sub(r"http\1", text)


def _fangless(fang: str) -> str:
    inner = fang[1:-1]
    return {"dot": ".", "at": "@"}.get(inner, inner)


def ip_key(text: str) -> bytes | None:
    """4 bytes, or 16; an IPv4 address mapped into IPv6 is the IPv4 address."""
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        return None
    return packed[12:] if packed[:12] == _MAPPED else packed


def network_key(text: str) -> bytes | None:
    """The first address and a byte with the length of the prefix; bits of the host are dropped."""
    address, slash, length = text.partition("/")
    packed = ip_key(address)
    if packed is None:
        return None
    bits = 8 * len(packed)
    if not slash:
        return packed + bytes((bits,))
    if not (length.isascii() and length.isdecimal() and len(length) < 4):
        return None
    prefix = int(length) - (96 if bits == 32 and ":" in address else 0)
    if not 0 <= prefix <= bits:
        return None
    return network_of(packed, prefix)


def network_of(address: bytes, prefix: int) -> bytes:
    """The key of the network of this length that `address` is in."""
    shift = 8 * len(address) - prefix
    first = int.from_bytes(address, "big") >> shift << shift
    return first.to_bytes(len(address), "big") + bytes((prefix,))


def domain_key(text: str) -> bytes | None:
    """Lower case, without the last dot, in ASCII (IDNA)."""
    name = text.lower().rstrip(".")
    if not name.isascii():
        try:
            return name.encode("idna").lower()
        except UnicodeError:
            return None
    return name.encode()


def hash_key(text: str) -> bytes | None:
    if len(text) not in _DIGESTS:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    # bytes.fromhex passes over blanks.
    return digest if 2 * len(digest) == len(text) else None


def url_key(text: str) -> bytes | None:
    """Scheme (http when there is none) and host in lower case, without the scheme's own port and the fragment."""
    scheme, mark, rest = text.partition("://")
    if mark and _SCHEME.match(scheme):
        scheme = scheme.lower()
    else:
        scheme, rest = "http", text
    rest = rest.partition("#")[0]
    host, _, path = rest.partition("/")
    if "?" in host:
        host, _, query = rest.partition("?")
        path = "?" + query
    user, at, host = host.rpartition("@")
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, " "))
    if not host:
        return None
    if not host.isascii():
        name, colon, port = host.partition(":")
        host = (domain_key(name) or name.encode("utf-8", "surrogatepass")).decode("utf-8", "replace") + colon + port
    return f"{scheme}://{user}{at}{host}/{path}".encode("utf-8", "surrogatepass")


def email_key(text: str) -> bytes | None:
    """All in lower case: mailboxes that differ in case only are not a thing in practice."""
    name, at, domain = text.rpartition("@")
    host = domain_key(domain) if at and name else None
    return name.lower().encode("utf-8", "surrogatepass") + b"@" + host if host else None


to_key: dict[Kind, Callable[[str], bytes | None]] = {
    "ip": ip_key,
    "domain": domain_key,
    "hash": hash_key,
    "url": url_key,
    "email": email_key,
}
"""The key of a value to look up, or None when it is none of that kind. Quick, and lenient for domains and URLs."""


def key_of(kind: FeedKind | None, text: str) -> tuple[FeedKind, bytes]:
    """Kind and key of a value in a feed; its looks tell the kind where it is None.

    Raises ValueError with what is wrong.
    """
    text = text.strip()
    if text[1:3] in _XX or "[" in text or "(" in text or "{" in text:
        text = refang(text)
    kind = kind or _kind_by_looks(text)
    key: bytes | None = None
    match kind:
        case "ip" | "cidr":
            kind, key = _address_or_network(text)
        case "domain":
            key = domain_key(text.removeprefix("*.").removeprefix("."))
            if key is not None and not _is_domain(key.decode()):
                key = None
        case "email":
            key = email_key(text)
            if key is not None and not _is_domain(key.decode("utf-8", "replace").rpartition("@")[2]):
                key = None
        case "hash":
            key = hash_key(text)
        case "url":
            key = url_key(text)
    if kind is None or key is None:
        raise ValueError(f"{text[:100]!r} is no {kind or 'address, network, domain, hash, URL or e-mail address'}")
    if len(key) > LONGEST:
        raise ValueError(f"{text[:100]!r}... is longer than {LONGEST} bytes")
    return kind, key


def _address_or_network(text: str) -> tuple[FeedKind, bytes | None]:
    """A network of one address is an address; a port is passed over."""
    if key := ip_key(text):
        return "ip", key
    if found := _IP_PORT.match(text):
        return "ip", ip_key(found[1])
    key = network_key(text)
    if key is not None and key[-1] == 8 * (len(key) - 1):
        return "ip", key[:-1]
    return "cidr", key


def _is_domain(name: str) -> bool:
    """More than one label, the last of which is no number."""
    if len(name) > 253 or ".." in name or not _DOMAIN.match(name):
        return False
    above, _, last = name.rpartition(".")
    return bool(above) and not last.isdecimal()


def _kind_by_looks(text: str) -> FeedKind | None:
    if "://" in text:
        return "url"
    if len(text) in _DIGESTS and hash_key(text):
        return "hash"
    if "/" in text:
        return "cidr" if network_key(text) else "url" if _is_host(text.partition("/")[0]) else None
    if "@" in text:
        return "email"
    if ":" in text or text[-1:].isdecimal():
        return "ip"
    return "domain" if "." in text else None


def _is_host(text: str) -> bool:
    name = text.partition(":")[0].lower()
    return ip_key(name) is not None or _is_domain(name)


def text_of(kind: FeedKind, key: bytes) -> str:
    """The value that has this key, in its one spelling."""
    if kind == "ip":
        return inet_ntop(AF_INET if len(key) == 4 else AF_INET6, key)
    if kind == "cidr":
        return f"{text_of('ip', key[:-1])}/{key[-1]}"
    return key.hex() if kind == "hash" else key.decode("utf-8", "replace")
