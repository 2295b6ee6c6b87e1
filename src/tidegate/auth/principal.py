"""Who has come in through an edge, and what they may see and do.

Invariant: a Principal with a tenant is shown no event that is not that tenant's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tidegate.entities.access_key import SCOPES, Grant, Scope
from tidegate.errors import Code, RefusedError

__all__ = ["LOCAL", "Principal"]


class _Metadata(Struct, gc=False):
    tenant_uid: str = ""
    log_source: str = ""
    log_name: str = ""


class _Event(Struct, gc=False):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


_EVENT = msgspec.json.Decoder(_Event)


class Principal(Struct, frozen=True):
    """Somebody, as an edge knows them."""

    id: str
    """Of the key, or issuer and subject of the token; fit to be logged."""
    grant: Grant

    @property
    def tenant(self) -> str:
        """ "": all tenants."""
        return self.grant.tenant

    @property
    def limited(self) -> bool:
        """Whether there are events that must not be seen."""
        return bool(self.grant.tenant or self.grant.sources)

    def need(self, scope: Scope) -> None:
        """Raises RefusedError for who does not have the scope."""
        if scope not in self.grant.scopes:
            raise RefusedError(Code.FORBIDDEN, f"this needs the scope {scope!r}, which {self.id} does not have")

    def need_all(self, what: str) -> None:
        """Raises RefusedError for who may not see everything."""
        if self.limited:
            raise RefusedError(Code.FORBIDDEN, f"{what} covers all tenants and sources, and {self.id} may not see all")

    def sees(self, line: bytes) -> bool:
        """Whether an event, as JSON, may be shown; one that cannot be read may not."""
        grant = self.grant
        try:
            metadata = _EVENT.decode(line).metadata
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if grant.tenant and metadata.tenant_uid != grant.tenant:
            return False
        return not grant.sources or (metadata.log_source or metadata.log_name) in grant.sources

    def visible(self, lines: Sequence[bytes]) -> list[bytes]:
        """Those of `lines` that may be shown."""
        return [line for line in lines if self.sees(line)] if self.limited else list(lines)


LOCAL = Principal("local", Grant(scopes=SCOPES))
"""Everybody, where authentication is off."""
