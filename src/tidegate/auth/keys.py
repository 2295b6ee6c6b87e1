"""Access keys: `tg_<id>_<secret>`, made once, checked in constant time, and followed through the log.

Invariant: a key that the log has as revoked, or that has expired, opens nothing; without the log nothing is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import secrets
import time
from hashlib import blake2b

from tidegate import subject
from tidegate.actor.entity import Codec
from tidegate.auth.principal import Principal
from tidegate.bus import Bus
from tidegate.entities.access_key import KIND, AccessKey, AccessKeys, Create, Grant
from tidegate.errors import BusError, BusUnavailableError, Code, RefusedError
from tidegate.log import Log, lines_of

__all__ = ["Keyring", "digest_of", "is_key", "new_key"]

_KEY = re.compile(r"tg_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_LOOK_SECONDS = 0.5
"""A revoked key is refused everywhere this long after, at the latest, while NATS is there."""
_NOBODY = AccessKey("0" * 64, "0" * 32)


def digest_of(secret: str, salt: str) -> str:
    """What is stored of a secret. It has 256 random bits, so one pass of a keyed hash is as good as a slow one."""
    return blake2b(secret.encode(), key=bytes.fromhex(salt), digest_size=32).hexdigest()


def new_key(grant: Grant, note: str = "", by: str = "") -> tuple[str, str, Create]:
    """Its id, the key to hand over, and the command that makes it known. The key is not to be had again."""
    key_id, secret, salt = secrets.token_hex(8), secrets.token_urlsafe(32), secrets.token_hex(16)
    return key_id, f"tg_{key_id}_{secret}", Create(digest_of(secret, salt), salt, grant, note, by)


def is_key(token: str) -> bool:
    """Whether it has the form of a key."""
    return token.startswith("tg_")


class Keyring:
    """The keys that the log knows of."""

    def __init__(self) -> None:
        self._keys: dict[str, AccessKey] | None = None
        self._kind = AccessKeys()
        self._codec = Codec(self._kind)
        self._end = 0

    def principal(self, token: str) -> Principal:
        """Whose key it is. Raises RefusedError."""
        if self._keys is None:
            raise RefusedError(Code.UNAVAILABLE, "the keys are being loaded; try again")
        match = _KEY.fullmatch(token)
        if match is None:
            raise RefusedError(Code.UNAUTHENTICATED, "this is no key: tg_, 16 hexadecimal digits, _, 43 characters")
        # An unknown id takes as long as a wrong secret, and is answered alike.
        known = self._keys.get(match[1], _NOBODY)
        right = hmac.compare_digest(digest_of(match[2], known.salt), known.digest)
        if not right or known.grant is None:
            raise RefusedError(Code.UNAUTHENTICATED, "there is no such key")
        if known.revoked_ms:
            raise RefusedError(Code.UNAUTHENTICATED, f"the key {match[1]} was revoked")
        if 0 < known.grant.expires_ms <= time.time() * 1000:
            raise RefusedError(Code.UNAUTHENTICATED, f"the key {match[1]} has expired")
        return Principal(match[1], known.grant)

    @property
    def known(self) -> dict[str, AccessKey]:
        """By id."""
        return dict(self._keys or {})

    async def refresh(self, bus: Bus, log: Log) -> None:
        """Take in what the log has of keys and this has not."""
        newest = await bus.last_message(subject.LOG, subject.entity(KIND, "*"))
        end = newest.sequence if newest else 0
        if self._keys is not None and end == self._end:
            return
        # Replaced as a whole: nobody sees a key between its creation and its revocation.
        keys = dict(self._keys or {})
        if end > self._end:
            async with contextlib.aclosing(log.read(subject.entity(KIND, "*"), self._end + 1, end)) as messages:
                async for message in messages:
                    for line in lines_of(message):
                        change = self._codec.change(line)
                        keys[change.id] = self._codec.fold(change.id, keys.get(change.id), change.events)
        self._keys, self._end = keys, end

    async def follow(self, bus: Bus, log: Log) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(BusError, BusUnavailableError):
                await self.refresh(bus, log)
            await asyncio.sleep(_LOOK_SECONDS)
