"""From the settings of a method to a function: a value in, what takes its place out, None for nothing at all.

Invariant: what a method cannot treat, such as a text that is no address, is dropped, never passed on.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Literal

from msgspec.structs import replace

from tidegate.pipeline.anonymise.pseudonyms import Kind, Pseudonyms
from tidegate.pipeline.anonymise.settings import Constant, Drop, Generalise, Hash, Mask, Method, Pseudonymise, Truncate
from tidegate.pipeline.functions import CONVERSIONS, to_int, to_ms, to_text
from tidegate.pipeline.rules import Attribute

__all__ = ["REMOVED", "Function", "build", "deep", "needs_keys", "resolve"]

Function = Callable[[Any], Any]

REMOVED = "[removed]"
"""In a text, in the place of a value that was dropped."""

_STEPS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_KINDS: dict[str, Kind] = {"ip": "ip", "email": "email", "emails": "email", "mac": "mac"}
"""Kind of an attribute that takes nothing but this -> kind of pseudonym."""
_OBSERVABLES: dict[int, Kind] = {1: "hostname", 4: "user", 5: "email"}
_GENERAL: dict[str, tuple[Literal["ip", "time", "number"], ...]] = {
    "ip": ("ip",),
    "time": ("time",),
    "int": ("number", "time"),  # Times of OCSF are integers.
    "port": ("number",),
    "text": ("ip", "time", "number"),
    "texts": ("ip", "time", "number"),
    "any": ("ip", "time", "number"),
}
"""Kind of an attribute -> as what its values can be generalised."""
_TEXTS = ("text", "texts", "any")
_MOST_DEPTH = 64


def needs_keys(method: Method) -> bool:
    """Whether what the method does depends on a key."""
    return isinstance(method, Pseudonymise) or (isinstance(method, Hash) and method.keyed)


def resolve(method: Method, attribute: Attribute) -> Method:
    """The method with what it leaves to the attribute filled in. Raises ValueError where the result would not fit."""
    kind = attribute.kind
    match method:
        case Pseudonymise():
            only = _KINDS.get(kind)
            if only is None and kind not in _TEXTS:
                raise ValueError(f"it is {kind}, and a pseudonym is text; use generalise, constant or drop")
            if only is not None and method.kind not in (None, only):
                raise ValueError(f'it takes nothing but pseudonyms of the kind "{only}"')
            chosen = only or method.kind or _OBSERVABLES.get(attribute.observable or 0, "text")
            if method.reversible and chosen == "mac":
                raise ValueError("the pseudonym of a MAC address has no room to be reversible")
            return Pseudonymise(kind=chosen, reversible=method.reversible)
        case Generalise():
            return _general(method, kind)
        case Mask(kind="email") if kind in ("email", "emails"):
            pass
        case Mask() | Truncate() | Hash():
            if kind not in _TEXTS:
                raise ValueError(f"it is {kind}, and what this method gives is not; use another one, or drop")
        case Constant():
            if kind != "any" and CONVERSIONS[kind].function(method.value) is None:
                raise ValueError(f"{method.value!r} is not {kind}")
        case Drop():
            pass
    return replace(method, field=[])


def _general(method: Generalise, kind: str) -> Generalise:
    possible = _GENERAL.get(kind, ())
    chosen = method.kind or ("time" if method.to else possible[0] if kind not in _TEXTS and possible else None)
    if chosen is None and kind in _TEXTS:
        raise ValueError('say as what to generalise it: kind = "ip", "time" or "number"')
    if chosen not in possible:
        raise ValueError(f"it is {kind}, which cannot be generalised so")
    if (method.to and chosen != "time") or (method.step and chosen != "number"):
        raise ValueError('"to" is for times, and "step" for numbers')
    return Generalise(kind=chosen, ipv4=method.ipv4, ipv6=method.ipv6, to=method.to or "hour", step=method.step or 10)


def build(method: Method, pseudonyms: Pseudonyms | None) -> Function:
    """The function for a resolved method; one that needs keys takes them from `pseudonyms`."""
    match method:
        case Pseudonymise(kind=kind, reversible=reversible):
            assert kind is not None
            assert pseudonyms is not None
            of = pseudonyms.of
            return _on_text(lambda text: of(text, kind, reversible=reversible))
        case Hash(keyed=keyed):
            if not keyed:
                return _on_text(lambda text: sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
            assert pseudonyms is not None
            key = pseudonyms.digest("", "hash")
            return _on_text(lambda text: hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex())
        case Mask():
            return _on_text(lambda text: _mask(text, method))
        case Truncate(length=length):
            return _on_text(lambda text: text[:length])
        case Generalise(kind="ip"):
            return lambda value: _network(value, method.ipv4, method.ipv6)
        case Generalise(kind="time"):
            step = _STEPS_MS[method.to or "hour"]
            return lambda value: _moment(value, step)
        case Generalise():
            multiple = method.step or 10
            return lambda value: _multiple(value, multiple)
        case Constant(value=value):
            return lambda _: value
        case Drop():
            return lambda _: None


def deep(on_text: Function, on_number: Function, value: Any, depth: int = 0) -> Any:
    """A value of any form with its texts and numbers replaced; beyond 64 levels there is nothing."""
    if value.__class__ is str:
        return on_text(value)
    if isinstance(value, dict | list):
        if depth >= _MOST_DEPTH:
            return None
        if isinstance(value, list):
            return [deep(on_text, on_number, each, depth + 1) for each in value]
        return {key: deep(on_text, on_number, each, depth + 1) for key, each in value.items()}
    return value if value is None or value.__class__ is bool else on_number(value)


def _on_text(function: Callable[[str], str]) -> Function:
    def taking(value: Any) -> str | None:
        text = to_text(value)
        return None if text is None else function(text)

    return taking


def _mask(text: str, method: Mask) -> str:
    first, last, symbol = method.first or 0, method.last, method.symbol
    if method.kind == "email":
        name, at, domain = text.rpartition("@")
        return _hidden(name, first, last or 0, symbol) + at + domain if at else symbol * len(text)
    if method.kind == "card":
        last = 4 if last is None else last
        digits = [place for place, one in enumerate(text) if one.isdigit()]
        hidden: Sequence[int] = digits[first : len(digits) - last] if first + last < len(digits) else range(len(text))
        found = list(text)
        for place in hidden:
            found[place] = symbol
        return "".join(found)
    return _hidden(text, first, last or 0, symbol)


def _hidden(text: str, first: int, last: int, symbol: str) -> str:
    if first + last >= len(text):
        return symbol * len(text)
    return text[:first] + symbol * (len(text) - first - last) + text[len(text) - last :]


def _network(value: Any, ipv4: int, ipv6: int) -> str | None:
    """The first address of the network that an address is in."""
    if value.__class__ is not str:
        return None
    family, bits, kept = (AF_INET6, 128, ipv6) if ":" in value else (AF_INET, 32, ipv4)
    try:
        number = int.from_bytes(inet_pton(family, value))
    except (OSError, ValueError):
        return None
    if family == AF_INET6 and number >> 32 == 0xFFFF:
        kept = 96 + ipv4  # An IPv4 address in the form of an IPv6 one.
    return inet_ntop(family, (number >> (bits - kept) << (bits - kept)).to_bytes(bits // 8))


def _moment(value: Any, step: int) -> Any:
    if value.__class__ is int:
        return value - value % step
    time = to_ms(value)
    if time is None:
        return None
    return datetime.fromtimestamp((time - time % step) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _multiple(value: Any, step: int) -> Any:
    number = int(value // 1) if value.__class__ is float and abs(value) < 2**63 else to_int(value)
    if number is None:
        return None
    number -= number % step
    return str(number) if value.__class__ is str else number
