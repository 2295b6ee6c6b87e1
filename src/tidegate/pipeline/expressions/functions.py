"""The functions that expressions can call, with values of any kind.

Invariant: none raises, whatever JSON values (or Structs) it is given, and each result is bounded: whole numbers have
64 bits, other numbers are finite, and text that grows has at most `LONGEST` characters; beyond that it is none. The
time is linear in the length of the texts.
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from math import isfinite, log2
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from tidegate.pipeline.expressions.operators import LONGEST, NUMBERS, bounded, contains
from tidegate.pipeline.expressions.remembered import extract, in_cidr, in_domain, is_private, matches
from tidegate.pipeline.functions import LAST_MS, is_ip, to_bool, to_int, to_text
from tidegate.tomlfile import nearest

__all__ = ["FUNCTIONS", "Function"]

# -- text


def _lower(value: Any) -> str | None:
    return value.lower() if value.__class__ is str else None


def _upper(value: Any) -> str | None:
    return value.upper() if value.__class__ is str else None


def _strip(value: Any, characters: Any = " \t\r\n") -> str | None:
    # The time is that of the text times that of the characters.
    if value.__class__ is not str or characters.__class__ is not str or len(characters) > 256:
        return None
    return str(value.strip(characters))


def _length(value: Any) -> int | None:
    return len(value) if value.__class__ is str or value.__class__ is list else None


def _startswith(value: Any, *prefixes: Any) -> bool:
    if value.__class__ is str:
        for each in prefixes:
            if each.__class__ is str and value.startswith(each):
                return True
    return False


def _endswith(value: Any, *suffixes: Any) -> bool:
    if value.__class__ is str:
        for each in suffixes:
            if each.__class__ is str and value.endswith(each):
                return True
    return False


def _split(value: Any, separator: Any, index: Any) -> str | None:
    if value.__class__ is not str or separator.__class__ is not str or index.__class__ is not int or not separator:
        return None
    # Not rsplit, which takes quadratic time for a long separator.
    if not -1000 <= index < 1000 or (index < 0 and value.count(separator) > LONGEST):
        return None
    parts = value.split(separator, index + 1 if index >= 0 else -1)
    return parts[index] if -len(parts) <= index < len(parts) else None


def _replace(value: Any, old: Any, new: Any) -> str | None:
    if value.__class__ is not str or old.__class__ is not str or new.__class__ is not str or not old:
        return None
    growth = len(new) - len(old)
    if growth > 0 and len(value) + value.count(old) * growth > LONGEST:
        return None
    return str(value.replace(old, new))


def _substring(value: Any, start: Any, end: Any = None) -> str | None:
    if value.__class__ is not str or start.__class__ is not int or not (end is None or end.__class__ is int):
        return None
    return str(value[start:end])


def _concat(*values: Any) -> str | None:
    texts: list[str] = []
    for each in values:
        text = _text(each)
        if text is None:
            return None
        texts.append(text)
    return "".join(texts) if sum(map(len, texts)) <= LONGEST else None


def _base64_decode(encoding: str = "utf-8") -> Callable[[Any], str | None]:
    codec = _chosen(encoding, {"utf-8": "utf-8", "utf-16": "utf-16-le"}, "encoding")

    def decode(value: Any) -> str | None:
        if value.__class__ is not str or len(value) > LONGEST:
            return None
        text = "".join(value.split()).translate(_URL_SAFE)
        try:
            return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True).decode(codec)
        except ValueError:
            return None

    return decode


_URL_SAFE = {ord("-"): "+", ord("_"): "/"}


def _chosen(name: str, valid: dict[str, str], what: str) -> str:
    if name not in valid:
        raise ValueError(f'unknown {what} "{name}"{nearest(name, list(valid))}')
    return valid[name]


def _url_decode(value: Any) -> str | None:
    return unquote(value) if value.__class__ is str and len(value) <= LONGEST else None


def _entropy(value: Any) -> float | None:
    """Bits per character (Shannon)."""
    if value.__class__ is not str or len(value) > LONGEST:
        return None
    different = sorted(set(value))
    # For few different characters to count each is ten times quicker; the order makes the sum a function of the text.
    counts = [*map(value.count, different)] if len(different) <= 64 else [*map(Counter(value).__getitem__, different)]
    return max(log2(len(value)) - sum([count * log2(count) for count in counts]) / len(value), 0.0) if value else 0.0


def _json_get(path: str) -> Callable[[Any], Any]:
    steps = [(step, int(step) if step.isdecimal() and len(step) < 6 else -1) for step in path.split(".")]

    def get(value: Any) -> Any:
        if value.__class__ is str:
            if len(value) > LONGEST:
                return None
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError, ValueError):
                return None
        for name, index in steps:
            if value.__class__ is dict:
                value = value.get(name)
            elif value.__class__ is list and 0 <= index < len(value):
                value = value[index]
            else:
                return None
        return value

    return get


# -- conversions and numbers


def _text(value: Any) -> str | None:
    if value.__class__ in NUMBERS and bounded(value) is None:
        return None
    return to_text(value)


def _int(value: Any) -> int | None:
    if value.__class__ is float and isfinite(value):
        value = int(value)
    number = to_int(value)
    return None if number is None else bounded(number)


def _float(value: Any) -> float | None:
    if value.__class__ not in NUMBERS and (value.__class__ is not str or len(value) > 64 or "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _extreme(choose: Callable[[Any], Any]) -> Callable[..., Any]:
    def extreme(*values: Any) -> Any:
        found = values[0] if len(values) == 1 and values[0].__class__ is list else values
        if found and all(each.__class__ in NUMBERS for each in found):
            return bounded(choose(found))
        return choose(found) if found and all(each.__class__ is str for each in found) else None

    return extreme


def _abs(value: Any) -> Any:
    return bounded(abs(value)) if value.__class__ in NUMBERS else None


def _round(value: Any, digits: Any = 0) -> Any:
    if value.__class__ not in NUMBERS or digits.__class__ is not int or not -20 <= digits <= 20:
        return None
    try:
        return bounded(round(value, digits or None))
    except (ArithmeticError, ValueError):
        return None


# -- whatever the value


def _coalesce(*values: Any) -> Any:
    for each in values:
        if each is not None:
            return each
    return None


def _exists(value: Any) -> bool:
    return value is not None


def _any_of(values: Any, *wanted: Any) -> bool:
    if values.__class__ is list:
        for each in wanted:
            if contains(values, each):
                return True
    return False


def _all_of(values: Any, *wanted: Any) -> bool:
    return values.__class__ is list and all(contains(values, each) for each in wanted)


def _domain(value: Any, labels: Any = 2) -> str | None:
    """The last labels of a host name; there is no list of public suffixes here."""
    if value.__class__ is not str or labels.__class__ is not int or not 1 <= labels <= 8 or is_ip(value):
        return None
    return ".".join(value.rstrip(".").lower().rsplit(".", labels)[-labels:]) or None


# -- times, in ms since 1970 (UTC)


def _is_time(value: Any) -> bool:
    return value.__class__ is int and 0 <= value <= LAST_MS


def _hour(value: Any) -> int | None:
    return value // 3_600_000 % 24 if _is_time(value) else None


def _weekday(value: Any) -> int | None:
    # 1970-01-01 was a Thursday, and Monday is 0.
    return (value // 86_400_000 + 3) % 7 if _is_time(value) else None


def _format_time(name: str) -> Callable[[Any], str | None]:
    form = _chosen(name, {"iso": "iso", "date": "date"}, "format")

    def format_time(value: Any) -> str | None:
        if not _is_time(value):
            return None
        moment = _EPOCH + timedelta(milliseconds=value)
        return moment.isoformat(timespec="milliseconds") + "Z" if form == "iso" else moment.date().isoformat()

    return format_time


_EPOCH = datetime(1970, 1, 1)


class Function(Struct, frozen=True):
    """One function: what runs, and its usage.

    `usage`: kinds of the arguments and of the result. `?` may be left out, `+` may be repeated, `=` must be a literal:
    then `call` is given the literals, checks them (ValueError), and returns what is called with the other arguments.
    """

    call: Any
    usage: str


FUNCTIONS: dict[str, Function] = {
    "abs": Function(_abs, "number -> same"),
    "all_of": Function(_all_of, "list any+ -> bool"),
    "any_of": Function(_any_of, "list any+ -> bool"),
    "base64_decode": Function(_base64_decode, "text =text? -> text"),
    "bool": Function(to_bool, "scalar -> bool"),
    "coalesce": Function(_coalesce, "any+ -> same"),
    "concat": Function(_concat, "scalar+ -> text"),
    "contains": Function(contains, "sized any -> bool"),
    "domain": Function(_domain, "text int? -> text"),
    "endswith": Function(_endswith, "text text+ -> bool"),
    "entropy": Function(_entropy, "text -> float"),
    "exists": Function(_exists, "any -> bool"),
    "extract": Function(extract, "text =text =any? -> text"),
    "float": Function(_float, "scalar -> float"),
    "format_time": Function(_format_time, "int =text -> text"),
    "hour": Function(_hour, "int -> int"),
    "in_cidr": Function(in_cidr, "text =text+ -> bool"),
    "in_domain": Function(in_domain, "text =text+ -> bool"),
    "int": Function(_int, "scalar -> int"),
    "is_ip": Function(is_ip, "text -> bool"),
    "is_private": Function(is_private, "text -> bool"),
    "json_get": Function(_json_get, "any =text -> any"),
    "length": Function(_length, "sized -> int"),
    "lower": Function(_lower, "text -> text"),
    "matches": Function(matches, "text =text -> bool"),
    "max": Function(_extreme(max), "alike+ -> same"),
    "min": Function(_extreme(min), "alike+ -> same"),
    "replace": Function(_replace, "text text text -> text"),
    "round": Function(_round, "number int? -> float"),
    "split": Function(_split, "text text int -> text"),
    "startswith": Function(_startswith, "text text+ -> bool"),
    "strip": Function(_strip, "text text? -> text"),
    "substring": Function(_substring, "text int int? -> text"),
    "text": Function(_text, "scalar -> text"),
    "upper": Function(_upper, "text -> text"),
    "url_decode": Function(_url_decode, "text -> text"),
    "weekday": Function(_weekday, "int -> int"),
}
