"""What a pipeline file says of anonymisation: where the keys are, and what takes the place of a value.

[anonymisation]
keys = "keys.toml"

[[stage]]
name = "people"
type = "anonymise"
fields = [
    { field = ["actor.user.name", "user.name"], method = "pseudonymise" },
    { field = "src_endpoint.ip", method = "generalise", ipv4 = 24 },
    { field = "unmapped.account", method = "mask", last = 4 },
]
also_in = ["message", "unmapped"]
redact = ["message", "unmapped"]
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate.pipeline.anonymise.pseudonyms import Kind

__all__ = [
    "Anonymisation",
    "Constant",
    "Detector",
    "Drop",
    "Generalise",
    "Hash",
    "Mask",
    "Method",
    "Pseudonymise",
    "Truncate",
]

Length = Annotated[int, Meta(ge=0, le=1000)]
Detector = Literal[
    "email",
    "card",
    "iban",
    "token",
    "private_key",
    "password",
    "phone",
    "us_ssn",
    "uk_nino",
    "de_tax_id",
    "fr_nir",
]


class Anonymisation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[anonymisation]` of a pipeline file."""

    keys: str
    """The key file, from the folder of the pipeline file; see `tidegate keys new`."""
    tenant: str | None = None
    """The tenant of all events; by default `metadata.tenant_uid` says, and what has none belongs to "default"."""


class _Method(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="method"):
    field: str | list[str] = []
    """Attributes, also in the elements of lists (`evidences[1].user.name`) and anywhere in `unmapped`."""

    @property
    def paths(self) -> list[str]:
        return [self.field] if isinstance(self.field, str) else self.field


class Pseudonymise(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pseudonymise"):
    """The same value of a tenant always gets the same pseudonym, of the form of its kind; needs keys."""

    kind: Kind | None = None
    """By default what the attribute holds."""
    reversible: bool = False
    """Whether `tidegate keys reverse` can turn pseudonyms back; those of addresses it always can."""


class Mask(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mask"):
    """All characters but the first and last ones become `symbol`; of what is too short to keep some, all."""

    kind: Literal["text", "email", "card"] = "text"
    """`email`: only what is before the @ is masked. `card`: only digits are, by default all but the last four."""
    first: Length | None = None
    last: Length | None = None
    symbol: Annotated[str, Meta(min_length=1, max_length=1)] = "*"


class Truncate(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="truncate"):
    length: Annotated[int, Meta(ge=1, le=65_536)]
    """Characters that are kept."""


class Generalise(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="generalise"):
    """What many values have in common: the network of an address, the hour of a time, the step of a number."""

    kind: Literal["ip", "time", "number"] | None = None
    """By default what the attribute holds, `time` where `to` is given. What is not of the kind is dropped."""
    ipv4: Annotated[int, Meta(ge=0, le=32)] = 24
    ipv6: Annotated[int, Meta(ge=0, le=128)] = 48
    to: Literal["minute", "hour", "day"] | None = None
    """Of times, the hour by default, in UTC; integers are taken for milliseconds since 1970."""
    step: Annotated[int, Meta(ge=1)] | None = None
    """Numbers become the next lower multiple of it, by default of 10."""


class Hash(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hash"):
    """64 hexadecimal digits."""

    keyed: bool = True
    """HMAC-SHA256 with a key of the tenant. `false`: plain SHA-256, which anybody can try likely values against."""


class Drop(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="drop"):
    """The attribute is removed; it may be an object."""


class Constant(_Method, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="constant"):
    value: str | int | bool


Method = Pseudonymise | Mask | Truncate | Generalise | Hash | Drop | Constant
