"""Conversions that look for one thing in a list of objects or in the lines of a text.

Invariant: as all conversions, None where it is not there, whatever the native value is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tidegate.ocsf import DnsAnswer, Resource

__all__ = [
    "audit_account",
    "audit_status",
    "dns_semicolons",
    "entra_group_name",
    "entra_privileges",
    "entra_user_agent",
    "error_status",
    "last_part",
    "line_value",
    "powershell_content",
    "target",
    "targets",
]

USERS = ("User", "AppUser")
GROUPS = ("UserGroup", "Group")
APPS = ("AppInstance", "Application", "ServicePrincipal")
"""The `type` of an element of Okta's `target` and of Entra's `targetResources`."""

NAMES = ("alternateId", "userPrincipalName", "displayName")

_NOTHING = frozenset(("", "unknown"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if each.__class__ is dict] if value.__class__ is list else []


def _first(element: dict[str, Any], members: tuple[str, ...]) -> str | None:
    for member in members:
        found = element.get(member)
        if found.__class__ is str and found not in _NOTHING:
            return str(found)
    return None


def target(kinds: tuple[str, ...], members: tuple[str, ...]) -> Callable[[Any], str | None]:
    """The first usable of `members` in the element whose `type` comes first in `kinds`; without kinds the first one."""

    def convert(value: Any) -> str | None:
        elements = _objects(value)
        if not kinds:
            return _first(elements[0], members) if elements else None
        for kind in kinds:
            for element in elements:
                if element.get("type") == kind and (found := _first(element, members)) is not None:
                    return found
        return None

    return convert


def targets(value: Any) -> list[Resource] | None:
    """All elements that have a name or an id."""
    found = []
    for each in _objects(value):
        name, uid, kind = _first(each, NAMES), _first(each, ("id",)), each.get("type")
        if name is not None or uid is not None:
            found.append(Resource(name=name, uid=uid, type=kind if kind.__class__ is str else None))
    return found or None


def _modified(value: Any, name: str) -> str | None:
    """The new value, or the old one, of a property in Entra's `modifiedProperties`; both are JSON texts."""
    for element in _objects(value):
        for each in _objects(element.get("modifiedProperties")):
            if each.get("displayName") == name and (found := _first(each, ("newValue", "oldValue"))) is not None:
                return found.strip('"') or None
    return None


_group_name = target(GROUPS, ("displayName",))


def entra_group_name(value: Any) -> str | None:
    """The name of a group in `targetResources`, be it a target or only a property of one."""
    return _group_name(value) or _modified(value, "Group.DisplayName")


_role_name = target(("Role",), ("displayName",))


def entra_privileges(value: Any) -> list[str] | None:
    """The role that was given or taken, by `targetResources` or `additionalDetails`; of a text the text itself."""
    if value.__class__ is str:
        return [value] if value else None
    found = _role_name(value) or _modified(value, "Role.DisplayName") or _detail(value, "RoleName")
    return [found] if found else None


def _detail(value: Any, key: str) -> str | None:
    for each in _objects(value):
        if each.get("key") == key:
            return _first(each, ("value",))
    return None


def entra_user_agent(value: Any) -> str | None:
    """The user agent in `additionalDetails`."""
    return _detail(value, "User-Agent")


_STATUS = {"0": 1, "Success": 1, "success": 1, "Failure": 2, "failure": 2}


def error_status(value: Any) -> int | None:
    """Success for the code 0 and failure for any other; also of the words."""
    text = str(value) if value.__class__ is int else value
    if text.__class__ is not str:
        return None
    return _STATUS.get(text, 2 if text.isdecimal() else None)


_ACCOUNT = re.compile(r'\bacct="?([^\s"]+)"?')
_RESULT = re.compile(r"\bres(?:ult)?=(success|failed|[01])")


def audit_account(value: Any) -> str | None:
    """The account in the message of a record of Linux' audit."""
    found = _ACCOUNT.search(value) if value.__class__ is str else None
    return found[1] if found else None


def audit_status(value: Any) -> int | None:
    """Success or failure by the message of a record of Linux' audit."""
    found = _RESULT.search(value) if value.__class__ is str else None
    return {"success": 1, "1": 1}.get(found[1], 2) if found else None


def dns_semicolons(value: Any) -> list[DnsAnswer] | None:
    """The data of DNS answers, each with a semicolon behind it."""
    parts = [part for part in value.split(";") if part] if value.__class__ is str else []
    return [DnsAnswer(rdata=part) for part in parts] or None


def last_part(value: Any) -> str | None:
    """The part behind the last dot, e.g. `create` of `repo.create`."""
    return value.rpartition(".")[2] or None if value.__class__ is str else None


def _texts_of(value: Any) -> list[str]:
    """A text, or the texts of a list, as EVTX rendered to JSON has them, perhaps in `#text`."""
    if value.__class__ is dict:
        value = value.get("#text")
    return [each for each in (value if value.__class__ is list else [value]) if each.__class__ is str]


@lru_cache(maxsize=16)
def _named_lines(text: str) -> dict[str, str]:
    """The lines `name=value` or `name = value`, of several with one name the first.

    Kept, as several attributes of a record look into one text. The message of a pipeline has the script before them and
    the parameters behind them, with lines that look alike.
    """
    found: dict[str, str] = {}
    context = text.partition("Context Information:")[2].partition("\nDetails:")[0]
    for line in (context or text).splitlines():
        name, equals, value = line.partition("=")
        if equals and (value := value.strip()):
            found.setdefault(name.strip(), value)
    return found


def line_value(*names: str) -> Callable[[Any], str | None]:
    """The value in the first line that has one of `names` and a value, of a text or of the texts of a list."""

    def convert(value: Any) -> str | None:
        for text in _texts_of(value):
            lines = _named_lines(text)
            for name in names:
                if name in lines:
                    return lines[name]
        return None

    return convert


def powershell_content(value: Any) -> str | None:
    """The command line, of one or more lines, in the message of a pipeline; of the parts of one the first, as it is."""
    text = next(iter(_texts_of(value)), "")
    _, found, rest = text.partition("Context Information:")[2].partition("CommandLine=")
    return (found and rest.partition("\nDetails:")[0].strip()) or text or None
