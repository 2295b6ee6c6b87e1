"""Conversions for the audit logs of cloud providers, which keep much in lists of pairs and in compound texts.

Invariant: a conversion returns None for a value that it cannot convert, and never raises on content that was decoded
from JSON; the caller then leaves the native value where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tidegate.ocsf import Group, Resource
from tidegate.pipeline.functions import Conversion, is_ip, to_int

__all__ = ["CONVERSIONS"]


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [each for each in value if each.__class__ is dict] if value.__class__ is list else []


def _texts_at(objects: list[dict[str, Any]], key: str) -> list[str]:
    """The texts under `key`, each once, in order."""
    return list(dict.fromkeys(each[key] for each in objects if each.get(key).__class__ is str and each[key]))


def _split_host(value: Any) -> tuple[str, int | None] | None:
    """Address and port of `192.0.2.1:443` or `[2001:db8::1]:443`; the port is None where there is none."""
    if value.__class__ is not str:
        return None
    if is_ip(value):
        return value, None
    host, _, port = value.rpartition(":")
    number = to_int(port)
    if number is None or not 0 <= number <= 65535:
        host, number = value, None
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    return (host, number) if is_ip(host) else None


def _host_ip(value: Any) -> str | None:
    """The address, where a source writes a port after it."""
    found = _split_host(value)
    return found[0] if found else None


def _host_port(value: Any) -> int | None:
    """The port after an address."""
    found = _split_host(value)
    return found[1] if found else None


def _not_host(value: Any) -> str | None:
    """Text that is no address, with a port or without."""
    return value if value.__class__ is str and value and _split_host(value) is None else None


def _client_ip(value: Any) -> str | None:
    """The first of a list of addresses; those after it are of proxies."""
    return value[0] if value.__class__ is list and value and all(is_ip(each) for each in value) else None


def _proxy_ips(value: Any) -> list[str] | None:
    """Those after the first of a list of addresses."""
    further = value[1:] if value.__class__ is list else []
    return further if further and all(is_ip(each) for each in further) else None


def _floor(value: Any) -> int | None:
    """The whole part of a number of at least 0."""
    return int(value) if value.__class__ in (int, float) and 0 <= value < 1e9 else None


_WORD = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")


def _method_verb(value: Any) -> str | None:
    """The leading word of the last part of a method, in lower case: `list` of `v1.compute.disks.list`.

    Of Azure's operations the last part may be `action`, which says nothing: `regeneratekey` of
    `MICROSOFT.STORAGE/STORAGEACCOUNTS/REGENERATEKEY/ACTION`, `regenerate` of `.../regenerateKey/action`.
    """
    if value.__class__ is not str:
        return None
    parts = value.replace("/", ".").split(".")
    if len(parts) > 1 and parts[-1].lower() == "action":
        parts.pop()
    word = _WORD.match(parts[-1])
    return word[0].lower() if word else None


def _provider(value: Any) -> str | None:
    """What stands before the first slash: `Microsoft.Compute` of `Microsoft.Compute/virtualMachines/write`."""
    return value.partition("/")[0] or None if value.__class__ is str and "/" in value else None


_SUBSCRIPTION = re.compile(r"/subscriptions/([^/]+)", re.IGNORECASE)


def _azure_subscription(value: Any) -> str | None:
    """The subscription in the id of an Azure resource."""
    found = _SUBSCRIPTION.match(value) if value.__class__ is str else None
    return found[1].lower() if found else None


def _only_text(value: Any) -> str | None:
    """The text in a list of one."""
    return value[0] if value.__class__ is list and len(value) == 1 and value[0].__class__ is str else None


def _group_names(value: Any) -> list[Group] | None:
    """A list of names of groups."""
    if value.__class__ is not list or not value or any(each.__class__ is not str for each in value):
        return None
    return [Group(name=each) for each in value]


def _kubernetes_user_type(value: Any) -> int | None:
    """OCSF's type of a user of Kubernetes, by the prefixes that it reserves."""
    if value.__class__ is not str:
        return None
    if value.startswith("system:serviceaccount:"):
        return 4
    return 3 if value.startswith("system:") else 1


def _aws_buckets(value: Any) -> list[Resource] | None:
    """The buckets of a GuardDuty finding."""
    return [
        Resource(name=each["name"], uid=arn if (arn := each.get("arn")).__class__ is str else None, type="S3 bucket")
        for each in _objects(value)
        if each.get("name").__class__ is str
    ] or None


def _gcp_deltas(value: Any, key: str) -> list[str]:
    return _texts_at(_objects(value), key)


def _gcp_delta_action(value: Any) -> str | None:
    """ADD or REMOVE, when the changes of an IAM policy are all of one kind."""
    actions = _gcp_deltas(value, "action")
    return actions[0] if len(actions) == 1 else None


def _gcp_delta_member(value: Any) -> str | None:
    """Whom the changes of an IAM policy concern, without its kind (`user:`), when it is one only."""
    members = _gcp_deltas(value, "member")
    return members[0].partition(":")[2] or members[0] if len(members) == 1 else None


def _gcp_delta_roles(value: Any) -> list[str] | None:
    """The roles that the changes of an IAM policy grant or take away."""
    return _gcp_deltas(value, "role") or None


def _pair(name: str, key: str) -> Callable[[Any], str | None]:
    """A function that finds the text under `key` of the object called `name`, without JSON's quotes around it."""

    def found(value: Any) -> str | None:
        for each in _objects(value):
            if each.get("Name") == name and (text := each.get(key)).__class__ is str:
                return text.strip('"') or None
        return None

    return found


def _role(key: str) -> Callable[[Any], list[str] | None]:
    """A function that finds the name of the role of a change, as a list."""
    name = _pair("Role.DisplayName", key)
    return lambda value: [found] if (found := name(value)) else None


_KINDS = frozenset(("Application", "Device", "Group", "Policy", "Role", "ServicePrincipal", "User"))


def _m365_target(value: Any) -> str | None:
    """The name of what was acted on: of Entra's list of targets that of type name (1) or user name (5), else a text."""
    if value.__class__ is str:
        return value if value not in ("", "Not Available") else None
    for each in _objects(value):
        if each.get("Type") in (1, 5) and each.get("ID").__class__ is str:
            return each["ID"] or None
    return None


def _m365_target_kind(value: Any) -> str | None:
    """The kind of what was acted on, e.g. ServicePrincipal."""
    return next((each for each in _texts_at(_objects(value), "ID") if each in _KINDS), None)


def _m365_member(value: Any) -> str | None:
    """The user name of the only member in a list."""
    members = _texts_at(_objects(value), "UPN")
    return members[0] if len(members) == 1 else None


def _m365_policy(value: Any) -> str | None:
    """The name of the first DLP policy that matched."""
    names = _texts_at(_objects(value), "PolicyName")
    return names[0] if names else None


_WORST_FIRST = ("High", "Medium", "Low")


def _m365_dlp_severity(value: Any) -> str | None:
    """The worst severity of the DLP rules that matched."""
    rules = [rule for policy in _objects(value) for rule in _objects(policy.get("Rules"))]
    seen = _texts_at(rules, "Severity")
    return next((each for each in _WORST_FIRST if each in seen), None)


CONVERSIONS: dict[str, Conversion] = {
    "aws_buckets": Conversion(function=_aws_buckets, keeps=False),
    "azure_subscription": Conversion(function=_azure_subscription, keeps=False, memo=True),
    "client_ip": Conversion(function=_client_ip),
    "floor": Conversion(function=_floor, keeps=False),
    "gcp_delta_action": Conversion(function=_gcp_delta_action, keeps=False),
    "gcp_delta_member": Conversion(function=_gcp_delta_member, keeps=False),
    "gcp_delta_roles": Conversion(function=_gcp_delta_roles, keeps=False),
    "group_names": Conversion(function=_group_names),
    "host_ip": Conversion(function=_host_ip, memo=True),
    "host_port": Conversion(function=_host_port),
    "kubernetes_user_type": Conversion(function=_kubernetes_user_type, keeps=False, memo=True),
    "m365_dlp_severity": Conversion(function=_m365_dlp_severity, keeps=False),
    "m365_group_name": Conversion(function=_pair("Group.DisplayName", "NewValue"), keeps=False),
    "m365_group_uid": Conversion(function=_pair("Group.ObjectID", "NewValue"), keeps=False),
    "m365_member": Conversion(function=_m365_member, keeps=False),
    "m365_old_group_name": Conversion(function=_pair("Group.DisplayName", "OldValue"), keeps=False),
    "m365_old_role_names": Conversion(function=_role("OldValue"), keeps=False),
    "m365_policy": Conversion(function=_m365_policy, keeps=False),
    "m365_role_names": Conversion(function=_role("NewValue"), keeps=False),
    "m365_target": Conversion(function=_m365_target, keeps=False),
    "m365_target_kind": Conversion(function=_m365_target_kind, keeps=False),
    "m365_user_agent": Conversion(function=_pair("UserAgent", "Value"), keeps=False),
    "method_verb": Conversion(function=_method_verb, keeps=False, memo=True),
    "not_host": Conversion(function=_not_host),
    "only_text": Conversion(function=_only_text),
    "provider": Conversion(function=_provider, keeps=False, memo=True),
    "proxy_ips": Conversion(function=_proxy_ips),
}
