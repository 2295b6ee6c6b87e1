"""Access keys through their life: created, revoked. The log holds a hash of the secret, never the secret.

Invariant: a key that was revoked stays revoked, and what a key may do never changes: to change it, make another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity
from tidegate.errors import CommandRefusedError
from tidegate.subject import valid_source, valid_tenant

__all__ = ["KIND", "SCOPES", "AccessKey", "AccessKeys", "Create", "Grant", "Revoke", "Scope"]

KIND = "access_key"
Scope = Literal["publish", "subscribe", "query", "command", "admin"]
SCOPES: tuple[Scope, ...] = ("publish", "subscribe", "query", "command", "admin")


class Grant(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a key may do."""

    scopes: tuple[Scope, ...]
    tenant: str = ""
    """Its events become this tenant's, and it sees no others; "": all tenants."""
    sources: tuple[str, ...] = ()
    """It publishes to these, and sees events of these; none: all."""
    rate_per_second: Annotated[float, Meta(ge=0)] = 0.0
    """Requests and published records, together; 0: what the settings say."""
    max_body_bytes: Annotated[int, Meta(ge=0)] = 0
    """Of a request, after inflating; 0: what the settings say."""
    expires_ms: Annotated[int, Meta(ge=0)] = 0
    """Milliseconds since 1970; 0: never."""


class AccessKey(Struct, frozen=True, omit_defaults=True):
    """What is known of a key; its id is the part before the secret."""

    digest: str = ""
    salt: str = ""
    grant: Grant | None = None
    note: str = ""
    created_ms: int = 0
    created_by: str = ""
    revoked_ms: int = 0
    revoked_by: str = ""
    reason: str = ""


class Create(Struct, frozen=True, omit_defaults=True, tag="access_key.create.v1"):
    digest: str
    """Of the secret with the salt, in hex; see `auth.keys.digest_of`."""
    salt: str
    grant: Grant
    note: str = ""
    by: str = ""


class Revoke(Struct, frozen=True, omit_defaults=True, tag="access_key.revoke.v1"):
    by: str = ""
    reason: str = ""


class Created(Struct, frozen=True, omit_defaults=True, tag="access_key.created.v1"):
    digest: str
    salt: str
    grant: Grant
    time_ms: int
    note: str = ""
    by: str = ""


class Revoked(Struct, frozen=True, omit_defaults=True, tag="access_key.revoked.v1"):
    time_ms: int
    by: str = ""
    reason: str = ""


Commands = Create | Revoke
Events = Created | Revoked


class AccessKeys(Entity[AccessKey, Commands, Events]):
    """One entity for each key."""

    kind: ClassVar[str] = KIND
    state = AccessKey
    commands = Commands
    events = Events

    def decide(self, state: AccessKey, command: Commands, context: Context) -> Sequence[Events]:
        match command:
            case Create(grant=grant):
                if state.grant is not None:
                    raise CommandRefusedError("exists", f"there is a key {context.id!r} already")
                if len(command.digest) < 64 or len(command.salt) < 32:
                    raise CommandRefusedError("invalid", "a key needs the digest of its secret, and a salt")
                if not grant.scopes:
                    raise CommandRefusedError("invalid", f"a key needs a scope: {', '.join(SCOPES)}")
                if grant.tenant and not valid_tenant(grant.tenant):
                    raise CommandRefusedError("invalid", f"{grant.tenant[:80]!r} is no tenant's name")
                for source in grant.sources:
                    if not valid_source(source):
                        raise CommandRefusedError("invalid", f"{source[:80]!r} is no source's name")
                return [Created(command.digest, command.salt, grant, context.time_ms, command.note, command.by)]
            case Revoke(by=by, reason=reason):
                if state.grant is None:
                    raise CommandRefusedError("unknown", f"there is no key {context.id!r}")
                return [] if state.revoked_ms else [Revoked(context.time_ms, by, reason)]

    def evolve(self, state: AccessKey, event: Events) -> AccessKey:
        match event:
            case Created():
                return AccessKey(event.digest, event.salt, event.grant, event.note, event.time_ms, event.by)
            case Revoked():
                return replace(state, revoked_ms=event.time_ms, revoked_by=event.by, reason=event.reason)
