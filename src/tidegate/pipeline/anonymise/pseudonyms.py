"""Pseudonyms of one tenant under one key: stable, of the form of what they stand for, and known for pseudonyms.

| kind | a pseudonym | what it preserves |
|---|---|---|
| user | `user-c3pd6...` | equality |
| hostname | `host-...`, with a domain `host-....<token>.invalid` | equality, also of the domain, not its case |
| email | `user-...@<token>.invalid` | equality, also of the domain |
| ip | an address in 8000::/3, a000::/3 or c000::/3 | equality and common networks; see `addresses.py` |
| mac | a locally administered unicast address | equality, separators |
| text | `text-...` | equality |

Tokens are 80 bits of keyed BLAKE2b. `.invalid` is a domain that never exists (RFC 2606). A reversible pseudonym is what
AES-SIV (RFC 5297) makes of the value: deterministic, authenticated, and as long as the value (so its length shows);
a domain of it is a token again.

Invariant: without the key file neither a token nor a reversible pseudonym tells more than whether two values are equal.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from tidegate.pipeline.anonymise.addresses import AddressCipher
from tidegate.pipeline.anonymise.keys import KeyRing, MasterKey

__all__ = ["Kind", "Pseudonyms", "reverse"]

Kind = Literal["user", "ip", "email", "hostname", "mac", "text"]

_PREFIXES = {"user": "user", "email": "user", "hostname": "host", "mac": "mac", "ip": "ip"}
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648, in lower case
_TWO = [first + second for first in _DIGITS for second in _DIGITS]
_SEALED = re.compile(r"[a-z]+-([a-z2-7]{26,})(?:@[a-z2-7]+\.invalid|\.[a-z2-7]+\.invalid)?")


class Pseudonyms:
    """What takes the place of values."""

    def __init__(self, key: MasterKey, tenant: str) -> None:
        self._key = key.derive(tenant, "token", 32)
        self._siv = AESSIV(key.derive(tenant, "seal", 64))
        self._addresses = AddressCipher(key.derive(tenant, "address", 32))

    def digest(self, text: str, purpose: str = "hash") -> bytes:
        """32 bytes that only who has the key can tell from `text`."""
        return blake2b(
            text.encode("utf-8", "surrogatepass"), key=self._key, person=purpose.encode(), digest_size=32
        ).digest()

    def token(self, text: str, purpose: str) -> str:
        """16 letters and digits."""
        number = int.from_bytes(self.digest(text, purpose)[:10])
        # Base32 without any loop, a third of the time that `_base32` takes: ids of flows are new with most events.
        return (
            f"{_TWO[number >> 70]}{_TWO[number >> 60 & 1023]}{_TWO[number >> 50 & 1023]}{_TWO[number >> 40 & 1023]}"
            f"{_TWO[number >> 30 & 1023]}{_TWO[number >> 20 & 1023]}{_TWO[number >> 10 & 1023]}{_TWO[number & 1023]}"
        )

    def of(self, text: str, kind: Kind, *, reversible: bool = False) -> str:
        """The pseudonym of `text`; what has not the form of its kind gets one without any. Empty text stays empty."""
        if not text:
            return text
        if kind == "ip" and (address := self._addresses.pseudonym(text)) is not None:
            return address
        if kind == "mac" and (match := _MAC.fullmatch(text)):
            return self._mac(text.lower().replace("-", ":"), match[1])
        bare = text.rstrip(".").lower() if kind == "hostname" else text
        domain = ""
        if kind == "hostname":
            domain = bare.partition(".")[2]
        elif kind == "email":
            domain = bare.rpartition("@")[2].lower() if "@" in bare else ""
        name = self._seal(bare) if reversible else self.token(bare, kind)
        name = f"{_PREFIXES.get(kind, 'text')}-{name}"
        if not domain:
            return name
        separator = "@" if kind == "email" else "."
        return f"{name}{separator}{self.token(domain, 'domain')}.invalid"

    def _mac(self, address: str, separator: str) -> str:
        raw = bytearray(self.digest(address, "mac")[:6])
        # IEEE 802: of the first byte, bit 0 says group address and bit 1 locally administered.
        raw[0] = raw[0] & 0xFC | 0x02
        return raw.hex(separator)

    def _seal(self, text: str) -> str:
        return _base32(self._siv.encrypt(text.encode("utf-8", "surrogatepass"), None))

    def original(self, pseudonym: str) -> str | None:
        """What `pseudonym` stands for, if it is a reversible one that was made here."""
        match = _SEALED.fullmatch(pseudonym)
        if match is None:
            return self._addresses.original(pseudonym)
        sealed = match[1].upper()
        try:
            opened = self._siv.decrypt(b32decode(sealed + "=" * (-len(sealed) % 8)), None)
        except (InvalidTag, ValueError):
            return None
        return opened.decode("utf-8", "surrogatepass")


def _base32(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()


def reverse(pseudonym: str, keys: KeyRing, tenant: str) -> Iterator[tuple[str, str]]:
    """What `pseudonym` stands for at `tenant`, with the id of the key, the newest first.

    Of an IPv6 address all keys have an answer: the right one is that of the key which the event's time falls under.
    """
    for key in reversed(keys.keys):
        original = Pseudonyms(key, tenant).original(pseudonym)
        if original is not None:
            yield key.id, original
