"""Pseudonyms of IP addresses: Crypto-PAn (Xu et al., 2002), into a part of IPv6 that nobody has.

An IPv4 address counts as its IPv4-mapped IPv6 address, ::ffff:a.b.c.d. Two addresses with the same first n bits have
pseudonyms with the same first n bits (from n = 3 on), so networks stay networks; different addresses in use stay
different. The first three bits become 100, 101 or 110: pseudonyms lie in 8000::/3, a000::/3 and c000::/3, of which
IANA has allocated nothing, so that none is ever taken for somebody's real address.

Invariant: whoever has the key can turn a pseudonym back, and nobody else.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

__all__ = ["AddressCipher"]

_MAPPED = 0xFFFF << 32
_FIRST = {0b000: 0b100, 0b001: 0b101, 0b111: 0b110}
"""What real addresses begin with -> what pseudonyms begin with; in use today are 000, 001 (global) and 111 (local)."""
_BEFORE = {after: before for before, after in _FIRST.items()}


class AddressCipher:
    """The pseudonyms under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        # ECB is right here: the cipher is used as a random function of single blocks that are all different.
        self._block = Cipher(AES(key), ECB()).encryptor().update  # noqa: S305
        self._mapped = self._flips(_MAPPED, 3, 96)
        """Of the 96 bits that all IPv4 addresses have in common."""

    def pseudonym(self, text: str) -> str | None:
        """The pseudonym of an address, as text; None for what is no address."""
        number = _number(text)
        if number is None:
            return None
        flips = self._mapped | self._flips(number, 96, 128) if number >> 32 == 0xFFFF else self._flips(number, 3, 128)
        first = number >> 125
        return inet_ntop(AF_INET6, (number ^ flips ^ (first ^ _FIRST.get(first, first)) << 125).to_bytes(16))

    def original(self, text: str) -> str | None:
        """The address whose pseudonym under this key is `text`; None where `text` is no pseudonym.

        Of an IPv4 address the wrong key is noticed, of an IPv6 address it is not.
        """
        number = _number(text)
        if number is None or number >> 125 not in _BEFORE:
            return None
        found = _BEFORE[number >> 125] << 125
        for place in range(3, 128):
            bit = (number >> (127 - place) & 1) ^ self._flips(found, place, place + 1) >> (127 - place)
            found |= bit << (127 - place)
        address = IPv6Address(found)
        return str(address.ipv4_mapped or address)

    def _flips(self, number: int, first: int, end: int) -> int:
        """The bits from place `first` to `end` (0 is the highest) that are to be turned over.

        Each depends on all bits of `number` before it, and on nothing else: it is the last bit of what becomes of the
        block that has these bits, a one and zeros. (With the fixed padding of Crypto-PAn such blocks can be equal.)
        """
        blocks = b"".join(
            ((number >> rest << 1 | 1) << rest - 1).to_bytes(16) for rest in range(128 - first, 128 - end, -1)
        )
        flips = 0
        for last in self._block(blocks)[15::16]:
            flips = flips << 1 | last & 1
        return flips << (128 - end)


def _number(text: str) -> int | None:
    try:
        if ":" in text:
            return int.from_bytes(inet_pton(AF_INET6, text))
        return _MAPPED | int.from_bytes(inet_pton(AF_INET, text))
    except (OSError, ValueError):
        return None
