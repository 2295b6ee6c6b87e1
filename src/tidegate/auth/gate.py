"""The gate that every edge puts its callers through: who is it, may they, and not too often.

Invariant: a call that the gate has not let through reaches nothing; every refusal is recorded, and no secret ever is.

Whoever has sent too many wrong keys from an address has none looked at for a while, so that guessing is slow; only
those that were right before still open, as others may share the address.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import blake2b

from tidegate.auth.audit import Audit
from tidegate.auth.keys import Keyring, is_key
from tidegate.auth.limits import Buckets, Shares, network_of
from tidegate.auth.principal import LOCAL, Principal
from tidegate.auth.tokens import Tokens
from tidegate.bus import Bus
from tidegate.config import Auth
from tidegate.entities.access_key import Scope
from tidegate.errors import Code, ConfigError, RefusedError
from tidegate.log import Log

__all__ = ["Gate"]

_LONGEST_TOKEN = 16 * 1024
_BURST_SECONDS = 10.0
"""An address may send so many seconds' worth of wrong keys at once."""
_MOST_KNOWN = 10_000


class Gate:
    """One for each process; `follow` keeps it up to date."""

    def __init__(self, settings: Auth) -> None:
        """Raises ConfigError where a setting is missing."""
        if settings.mode is None:
            raise ConfigError(
                "auth.mode (TIDEGATE_AUTH_MODE)",
                'is not set: "keys" (see `tidegate apikeys`) or "jwt" where others come in; for this machine alone,'
                ' where everybody may do everything, "off" or the option --without-keys',
            )
        self._settings = settings
        self.keys = Keyring() if "keys" in settings.mode else None
        self.tokens = Tokens(settings) if "jwt" in settings.mode else None
        self.audit = Audit()
        self.subscriptions = Shares("subscriptions", settings.subscriptions_per_key)
        self._buckets = Buckets()
        self._wrong = Buckets(burst_seconds=_BURST_SECONDS)
        """By the address that they came from."""
        self._right: OrderedDict[bytes, None] = OrderedDict()
        """Hashes of the keys and tokens that were right, the last of which is the newest."""

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._settings.mode == "off"

    async def enter(
        self, token: str, scope: Scope | None, what: str, peer: str = "", *, requests: int = 1
    ) -> Principal:
        """Who has this key or token, if they may do `what`, which needs `scope` and counts as so many requests.

        Raises RefusedError.
        """
        if self.is_open:
            return LOCAL
        who = tenant = ""
        try:
            principal = await self._known(token, network_of(peer))
            who, tenant = principal.id, principal.tenant
            if scope is not None:
                principal.need(scope)
            if scope == "admin":
                principal.need_all("administration")
            rate = self._rate(principal)
            if pause := self._buckets.wait(principal.id, rate):
                raise RefusedError(
                    Code.RATE_LIMITED, f"{principal.id} may do {rate:g} requests and records a second", after=pause
                )
            self._buckets.take(principal.id, rate, requests)
        except RefusedError as error:
            detail = "" if error.code is Code.RATE_LIMITED else error.problem
            self.audit.add(who, what, error.code.value, detail=detail, peer=peer, tenant=tenant)
            raise
        if scope == "admin":
            self.audit.add(who, what, "allowed", peer=peer, tenant=tenant)
        return principal

    async def _known(self, token: str, network: str) -> Principal:
        """Who has this key or token, unless too many wrong ones have come from there. Raises RefusedError."""
        rate = self._settings.wrong_keys_per_second
        digest = blake2b(token.encode("utf-8", "replace"), digest_size=16).digest()
        pause = self._wrong.wait(network, rate) if network else 0.0
        if pause and digest not in self._right:
            raise RefusedError(
                Code.RATE_LIMITED, "too many requests without a valid key have come from this address", after=pause
            )
        try:
            principal = await self._who(token)
        except RefusedError as error:
            if network and error.code is Code.UNAUTHENTICATED:
                self._wrong.take(network, rate, 1)
                self._right.pop(digest, None)
            raise
        self._right[digest] = None
        self._right.move_to_end(digest)
        if len(self._right) > _MOST_KNOWN:
            self._right.popitem(last=False)
        return principal

    async def still(self, token: str) -> None:
        """For calls that go on: raises RefusedError once the key or token opens nothing any more."""
        if not self.is_open:
            await self._who(token)

    async def _who(self, token: str) -> Principal:
        if not token:
            raise RefusedError(Code.UNAUTHENTICATED, "send a key or a token: Authorization: Bearer ...")
        if len(token) > _LONGEST_TOKEN or not token.isascii():
            raise RefusedError(Code.UNAUTHENTICATED, "this is neither a key nor a token")
        if is_key(token) and self.keys is not None:
            return self.keys.principal(token)
        if not is_key(token) and self.tokens is not None:
            return await self.tokens.principal(token)
        raise RefusedError(Code.UNAUTHENTICATED, f"neither is taken here that is not of mode {self._settings.mode!r}")

    def _rate(self, principal: Principal) -> float:
        return principal.grant.rate_per_second or self._settings.rate_per_second

    def most_bytes(self, principal: Principal) -> int:
        """The largest body, inflated, that they may send; 0: no limit."""
        return principal.grant.max_body_bytes or self._settings.max_body_bytes

    async def throttle(self, principal: Principal, records: int) -> None:
        """Counts records, after what came before them is paid for: an upload is held back, not cut off."""
        if rate := self._rate(principal):
            if pause := self._buckets.wait(principal.id, rate):
                await asyncio.sleep(pause)
            self._buckets.take(principal.id, rate, records)

    async def follow(self, bus: Bus, log: Log) -> None:
        """Until cancelled: keys come and go, and what was refused is written down."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.audit.keep(bus))
            if self.keys is not None:
                group.create_task(self.keys.follow(bus, log))
