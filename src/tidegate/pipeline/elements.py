"""Conversions for directories and hosts: they look for one thing in a list of objects or in the lines of a text.

Invariant: as all conversions, None where it is not there, whatever the native value is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tidegate.ocsf import DnsAnswer, Resource
from tidegate.pipeline.functions import CONVERSIONS as PLAIN
from tidegate.pipeline.functions import Conversion

__all__ = ["CONVERSIONS"]

_USERS = ("User", "AppUser")
_GROUPS = ("UserGroup", "Group")
_APPS = ("AppInstance", "Application", "ServicePrincipal")
"""The `type` of an element of Okta's `target` and of Entra's `targetResources`."""

_NAMES = ("alternateId", "userPrincipalName", "displayName")

_NOTHING = frozenset(("", "unknown"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if each.__class__ is dict] if value.__class__ is list else []


def _first(element: dict[str, Any], members: tuple[str, ...]) -> str | None:
    for member in members:
        found = element.get(member)
        if found.__class__ is str and found not in _NOTHING:
            return str(found)
    return None


def _target(kinds: tuple[str, ...], members: tuple[str, ...]) -> Callable[[Any], str | None]:
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


def _targets(value: Any) -> list[Resource] | None:
    """All elements that have a name or an id."""
    found = []
    for each in _objects(value):
        name, uid, kind = _first(each, _NAMES), _first(each, ("id",)), each.get("type")
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


_group_name = _target(_GROUPS, ("displayName",))


def _entra_group_name(value: Any) -> str | None:
    """The name of a group in `targetResources`, be it a target or only a property of one."""
    return _group_name(value) or _modified(value, "Group.DisplayName")


_role_name = _target(("Role",), ("displayName",))


def _entra_privileges(value: Any) -> list[str] | None:
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


def _entra_user_agent(value: Any) -> str | None:
    """The user agent in `additionalDetails`."""
    return _detail(value, "User-Agent")


_STATUS = {"0": 1, "Success": 1, "success": 1, "Failure": 2, "failure": 2}


def _error_status(value: Any) -> int | None:
    """Success for the code 0 and failure for any other; also of the words."""
    text = str(value) if value.__class__ is int else value
    if text.__class__ is not str:
        return None
    return _STATUS.get(text, 2 if text.isdecimal() else None)


_ACCOUNT = re.compile(r'\bacct="?([^\s"]+)"?')
_RESULT = re.compile(r"\bres(?:ult)?=(success|failed|[01])")


def _audit_account(value: Any) -> str | None:
    """The account in the message of a record of Linux' audit."""
    found = _ACCOUNT.search(value) if value.__class__ is str else None
    return found[1] if found else None


def _audit_status(value: Any) -> int | None:
    """Success or failure by the message of a record of Linux' audit."""
    found = _RESULT.search(value) if value.__class__ is str else None
    return {"success": 1, "1": 1}.get(found[1], 2) if found else None


def _dns_semicolons(value: Any) -> list[DnsAnswer] | None:
    """The data of DNS answers, each with a semicolon behind it."""
    parts = [part for part in value.split(";") if part] if value.__class__ is str else []
    return [DnsAnswer(rdata=part) for part in parts] or None


def _last_part(value: Any) -> str | None:
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


def _line_value(*names: str) -> Callable[[Any], str | None]:
    """The value in the first line that has one of `names` and a value, of a text or of the texts of a list."""

    def convert(value: Any) -> str | None:
        for text in _texts_of(value):
            lines = _named_lines(text)
            for name in names:
                if name in lines:
                    return lines[name]
        return None

    return convert


def _powershell_content(value: Any) -> str | None:
    """The command line, of one or more lines, in the message of a pipeline; of the parts of one the first, as it is."""
    text = next(iter(_texts_of(value)), "")
    _, found, rest = text.partition("Context Information:")[2].partition("CommandLine=")
    return (found and rest.partition("\nDetails:")[0].strip()) or text or None


_application_name = _target(_APPS, _NAMES)


def _application_names(value: Any) -> list[str] | None:
    name = _application_name(value)
    return [name] if name else None


def _entra_mfa(value: Any) -> bool | None:
    """Whether `authenticationRequirement` asked for more than one factor."""
    requirements = {"multiFactorAuthentication": True, "singleFactorAuthentication": False}
    return requirements.get(value) if value.__class__ is str else None


_OS_TYPES = (("windows", 100), ("mac", 300), ("ipados", 302), ("ios", 301), ("android", 201), ("lin", 200))


def _os_type(value: Any) -> int | None:
    """OCSF's type of an operating system by the beginning of its name."""
    if value.__class__ is not str:
        return None
    name = value.lower()
    return next((type_id for start, type_id in _OS_TYPES if name.startswith(start)), None)


_script = _line_value("ScriptName", "Script Name")
_user = _line_value("UserId", "User")


def _of(first: Callable[[Any], str | None], second: str) -> Callable[[Any], Any]:
    """The conversion `second` of what `first` finds."""
    then = PLAIN[second].function
    return lambda value: then(first(value))


def _looks(function: Callable[[Any], Any]) -> Conversion:
    """A conversion of a part of the native value, which stays where it is."""
    return Conversion(function=function, keeps=False)


CONVERSIONS: dict[str, Conversion] = {
    "audit_account": _looks(_audit_account),
    "audit_status": _looks(_audit_status),
    "dns_semicolons": Conversion(function=_dns_semicolons),
    "entra_group_name": _looks(_entra_group_name),
    "entra_mfa": _looks(_entra_mfa),
    "entra_privileges": _looks(_entra_privileges),
    "entra_user_agent": _looks(_entra_user_agent),
    "error_status": _looks(_error_status),
    "last_part": Conversion(function=_last_part, keeps=False, memo=True),
    "os_type": Conversion(function=_os_type, keeps=False, memo=True),
    "powershell_application": _looks(_line_value("HostApplication", "Host Application")),
    "powershell_content": _looks(_powershell_content),
    "powershell_host": _looks(_line_value("HostId", "Host ID")),
    "powershell_script": _looks(_script),
    "powershell_script_name": _looks(_of(_script, "base_name")),
    "powershell_user_domain": _looks(_of(_user, "account_domain")),
    "powershell_user_name": _looks(_of(_user, "account_name")),
    "powershell_version": _looks(_line_value("EngineVersion", "Engine Version")),
    "target_app_id": _looks(_target(_APPS, ("id",))),
    "target_app_name": _looks(_application_name),
    "target_app_names": _looks(_application_names),
    "target_group_id": _looks(_target(_GROUPS, ("id",))),
    "target_group_name": _looks(_target(_GROUPS, ("displayName",))),
    "target_id": _looks(_target((), ("id",))),
    "target_name": _looks(_target((), _NAMES)),
    "target_type": _looks(_target((), ("type",))),
    "target_user_full_name": _looks(_target(_USERS, ("displayName",))),
    "target_user_id": _looks(_target(_USERS, ("id",))),
    "target_user_name": _looks(_target(_USERS, _NAMES)),
    "targets": _looks(_targets),
}
