"""What a mapping rule may say after `as`: conversions from a native value to the value of an OCSF attribute.

Invariant: a conversion returns None for a value that it cannot convert, and never raises on content that was decoded
from JSON; the caller then leaves the native value where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from math import isfinite
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from msgspec import Struct

from tidegate.ocsf import DnsAnswer, Fingerprint

__all__ = [
    "CONVERSIONS",
    "KNOWN_IPS",
    "LAST_MS",
    "Conversion",
    "is_ip",
    "stable_uid",
    "to_bool",
    "to_int",
    "to_ms",
    "to_text",
]

LAST_MS = 253_402_300_799_999
"""The end of the year 9999 in milliseconds since 1970: later times are not times."""

_fromisoformat = datetime.fromisoformat
_LAST_DAY = LAST_MS // 86_400_000
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(value: Any) -> int | None:
    """Milliseconds since 1970 (UTC) from ISO 8601 text (no zone means UTC) or a number.

    A number counts seconds; from 10^11 on milliseconds, from 10^14 on microseconds, from 10^17 on nanoseconds.
    """
    if value.__class__ is str:
        try:
            moment = _fromisoformat(value)
        except ValueError:
            return _numeric_text_to_ms(value)
        try:
            since = moment - (_EPOCH if moment.tzinfo is None else _EPOCH_UTC)
        except OverflowError:
            return None
        if not 0 <= since.days <= _LAST_DAY:
            return None
        return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    if value.__class__ is float or value.__class__ is int:
        return _number_to_ms(value)
    return None


def _number_to_ms(value: float) -> int | None:
    if not 0 <= value < 1e21 or not isfinite(value):
        return None
    if value < 1e11:
        # Doubles at this size are good to 0.24 microseconds: half a microsecond more makes truncation exact.
        ms = int(value * 1000 + 0.0005)
    elif value < 1e14:
        ms = int(value)
    elif value < 1e17:
        ms = int(value // 1_000)
    else:
        ms = int(value // 1_000_000)
    return ms if ms <= LAST_MS else None


_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")


def _numeric_text_to_ms(value: str) -> int | None:
    if value[4:5] == "/" and value[7:8] == "/":
        # 2012/04/09 23:26:41, as firewalls write it.
        return to_ms(f"{value[:4]}-{value[5:7]}-{value[8:]}")
    return _number_to_ms(float(value)) if _NUMBER.fullmatch(value) else None


def to_text(value: Any) -> str | None:
    """Text as it is; whole numbers and truth values in their JSON form."""
    if value.__class__ is str:
        return value
    if value.__class__ is bool:
        return "true" if value else "false"
    if value.__class__ is int:
        return str(value)
    if value.__class__ is float:
        return repr(value)
    return None


_INTEGER = re.compile(r"[+-][0-9]{1,19}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")


def to_int(value: Any) -> int | None:
    """A whole number, also from decimal or 0x text; not from a truth value."""
    if value.__class__ is int:
        return value
    if value.__class__ is str:
        if value.isdecimal() and value.isascii() and len(value) < 20:
            return int(value)
        if _INTEGER.fullmatch(value):
            return int(value)
        return int(value, 16) if _HEXADECIMAL.fullmatch(value) else None
    if value.__class__ is float and value.is_integer() and -9e18 < value < 9e18:
        return int(value)
    return None


def _to_float(value: Any) -> float | None:
    """A finite number, also from decimal text."""
    if value.__class__ is str and _DECIMAL.fullmatch(value):
        return float(value)
    if value.__class__ is int and -9e18 < value < 9e18:
        return float(value)
    return value if value.__class__ is float and isfinite(value) else None


_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")


def _port(value: Any) -> int | None:
    number = to_int(value)
    return number if number is not None and 0 <= number <= 65535 else None


_TRUTH = {"true": True, "false": False, "True": True, "False": False}


def to_bool(value: Any) -> bool | None:
    """A truth value, also from the texts true and false."""
    if value.__class__ is bool:
        return value
    return _TRUTH.get(value) if value.__class__ is str else None


def stable_uid(identity: str) -> str:
    """A UUID (version 8: custom) that is a function of `identity` alone."""
    digest = blake2b(identity.encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})")
_EMAIL = re.compile(r"[a-zA-Z0-9!#$%&'*+-/=?^_`{|}~.]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9-.]+")


def _mac(value: Any) -> str | None:
    return value if value.__class__ is str and _MAC.fullmatch(value) else None


def _email(value: Any) -> str | None:
    """An address, without the angle brackets of SMTP."""
    if value.__class__ is not str:
        return None
    bare = value[1:-1] if value[:1] == "<" and value[-1:] == ">" else value
    return bare if _EMAIL.fullmatch(bare) else None


def _emails(value: Any) -> list[str] | None:
    found = [_email(each) for each in (value if value.__class__ is list else [value])]
    return [each for each in found if each is not None] if found and None not in found else None


def _texts(value: Any) -> list[str] | None:
    """A list of texts, also from one text."""
    if value.__class__ is list:
        return value if value and all(each.__class__ is str for each in value) else None
    return [value] if value.__class__ is str else None


def _ints(value: Any) -> list[int] | None:
    """A list of whole numbers."""
    if value.__class__ is not list or not value:
        return None
    found = [to_int(each) for each in value]
    return [each for each in found if each is not None] if None not in found else None


def _guid(value: Any) -> str | None:
    """A GUID in lower case, without braces, so that its two spellings are one."""
    return value.strip("{}").lower() if value.__class__ is str and value else None


def _base_name(value: Any) -> str | None:
    r"""The last part of a path with / or \, e.g. `cmd.exe`."""
    if value.__class__ is not str:
        return None
    return value.rstrip("\\/").replace("/", "\\").rpartition("\\")[2] or None


def _account_name(value: Any) -> str | None:
    r"""`name` of `DOMAIN\name`, or the whole text."""
    return value.rpartition("\\")[2] or None if value.__class__ is str else None


def _account_domain(value: Any) -> str | None:
    r"""`DOMAIN` of `DOMAIN\name`."""
    return value.rpartition("\\")[0] or None if value.__class__ is str else None


_ALGORITHMS = {"MD5": 1, "SHA1": 2, "SHA256": 3, "SHA512": 4, "IMPHASH": 18}


def _sysmon_hashes(value: Any) -> list[Fingerprint] | None:
    """`SHA1=...,MD5=...` of Sysmon."""
    if value.__class__ is not str:
        return None
    found = []
    for pair in value.split(","):
        name, _, digest = pair.partition("=")
        algorithm = _ALGORITHMS.get(name)
        if algorithm is None or not digest:
            return None
        found.append(Fingerprint(algorithm_id=algorithm, value=digest))
    return found


def _dns_texts(value: Any) -> list[DnsAnswer] | None:
    """A list of texts, each the data of one DNS answer."""
    texts = _texts(value)
    return [DnsAnswer(rdata=text) for text in texts] if texts else None


def _dns_records(value: Any) -> list[DnsAnswer] | None:
    """A list of objects with `rdata`, `rrtype` and `ttl`; those whose data is not text are left out."""
    if value.__class__ is not list:
        return None
    found = []
    for each in value:
        if each.__class__ is dict and (data := each.get("rdata")).__class__ is str:
            kind, ttl = each.get("rrtype"), each.get("ttl")
            found.append(
                DnsAnswer(
                    rdata=data,
                    type=kind if kind.__class__ is str else None,
                    ttl=ttl if ttl.__class__ is int else None,
                )
            )
    return found or None


def _verb(value: Any) -> str | None:
    """The leading word of a name in camel case, e.g. `Describe` of `DescribeInstances`."""
    if value.__class__ is not str:
        return None
    for index in range(1, len(value)):
        if not value[index].islower():
            return str(value[:index])
    return str(value)


def _json_value(value: Any) -> Any:
    """Any value as it is."""
    return value


_HTTP_METHODS = frozenset(("OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH"))


def _http_method(value: Any) -> str | None:
    """One of the methods that OCSF knows."""
    return value if value.__class__ is str and value in _HTTP_METHODS else None


def _first_ip(value: Any) -> str | None:
    """The address in a list of one."""
    return value[0] if value.__class__ is list and len(value) == 1 and is_ip(value[0]) else None


KNOWN_IPS: set[str] = set()
"""Texts that are addresses for certain: a look here is six times quicker than a check."""
_MOST_KNOWN_IPS = 65_536


def _ip(value: Any) -> str | None:
    if not is_ip(value):
        return None
    if len(KNOWN_IPS) >= _MOST_KNOWN_IPS:
        KNOWN_IPS.clear()
    KNOWN_IPS.add(value)
    return str(value)


def _not_ip(value: Any) -> str | None:
    """Text that is no address, where a source writes names into the same field."""
    return value if value.__class__ is str and value and value not in KNOWN_IPS and not is_ip(value) else None


def _yes_no(value: Any) -> bool | None:
    return {"Yes": True, "No": False}.get(value) if value.__class__ is str else None


def is_ip(value: Any) -> bool:
    """Whether `value` is the text of an IPv4 or IPv6 address."""
    try:
        inet_pton(AF_INET6 if ":" in value else AF_INET, value)
    except (OSError, TypeError, ValueError):
        return False
    return True


class Conversion(Struct, frozen=True, kw_only=True):
    """A conversion; `keeps` tells that nothing of the native value is lost, so that it need not stay in `unmapped`.

    `memo`: few texts come again and again, so that results are worth keeping; they are shared and must not be changed.
    """

    function: Callable[[Any], Any]
    keeps: bool = True
    memo: bool = False


def remember(function: Callable[[Any], Any], memo: dict[str, Any], absent: frozenset[str]) -> Callable[[Any], Any]:
    """`function`, which leaves its results for texts of moderate length in `memo`; None for a text in `absent`."""

    def remembering(value: Any) -> Any:
        if value.__class__ is str and value in absent:
            return None
        result = function(value)
        if result is not None and value.__class__ is str and len(value) <= _LONGEST_MEMO:
            if len(memo) >= _MOST_MEMOS:
                memo.clear()
            memo[value] = result
        return result

    return remembering


_LONGEST_MEMO = 512
_MOST_MEMOS = 16_384

CONVERSIONS: dict[str, Conversion] = {
    "account_domain": Conversion(function=_account_domain, memo=True),
    "account_name": Conversion(function=_account_name, keeps=False, memo=True),
    "any": Conversion(function=_json_value),
    "base_name": Conversion(function=_base_name, keeps=False, memo=True),
    "bool": Conversion(function=to_bool),
    "dns_records": Conversion(function=_dns_records, keeps=False),
    "dns_texts": Conversion(function=_dns_texts),
    "email": Conversion(function=_email),
    "emails": Conversion(function=_emails),
    "first_ip": Conversion(function=_first_ip),
    "float": Conversion(function=_to_float),
    "guid": Conversion(function=_guid, memo=True),
    "http_method": Conversion(function=_http_method),
    "int": Conversion(function=to_int),
    "ints": Conversion(function=_ints),
    "ip": Conversion(function=_ip),
    "mac": Conversion(function=_mac),
    "not_ip": Conversion(function=_not_ip),
    "port": Conversion(function=_port),
    "sysmon_hashes": Conversion(function=_sysmon_hashes, memo=True),
    "text": Conversion(function=to_text),
    "texts": Conversion(function=_texts),
    "time": Conversion(function=to_ms, keeps=False),
    "verb": Conversion(function=_verb, keeps=False, memo=True),
    "yes_no": Conversion(function=_yes_no),
}
