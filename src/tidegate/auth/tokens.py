"""Bearer tokens of an identity provider (JWT, RFC 7519): signature, issuer, audience, times, and what they grant.

Invariant: a token grants what its claims say and nothing by default; one without a tenant is refused.

Claims: `scope` (RFC 8693: words separated by spaces; those of Tidegate may be written `tidegate:publish`), the tenant
(`*`: all), `tidegate_sources` (a list).
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, cast

import jwt
import msgspec

from tidegate.auth.principal import Principal
from tidegate.config import Auth
from tidegate.entities.access_key import SCOPES, Grant, Scope
from tidegate.errors import Code, ConfigError, RefusedError
from tidegate.subject import valid_source, valid_tenant

__all__ = ["Tokens"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key only: no `none`, and no HMAC, for which the published key would be the secret."""
_LOOPBACK = [("http", host) for host in ("127.0.0.1", "::1", "localhost")]
_KEPT_SECONDS = 300.0
_AGAIN_SECONDS = 10.0
"""An unknown key id makes the keys be fetched anew, at most this often: an attacker may send any number of them."""
_LARGEST_SET = 1024 * 1024


class Tokens:
    """Checks tokens against the provider's published keys (JWKS, RFC 7517)."""

    def __init__(self, settings: Auth) -> None:
        """Raises ConfigError where something is missing."""
        for name in ("jwt_issuer", "jwt_audience", "jwks"):
            if not getattr(settings, name):
                raise ConfigError(f"auth.{name}", f'is needed for mode "{settings.mode}"')
        where = str(settings.jwks)
        parts = urllib.parse.urlsplit(where) if "://" in where else None
        if parts and parts.scheme != "https" and (parts.scheme, parts.hostname) not in _LOOPBACK:
            raise ConfigError("auth.jwks", "must start with https://, or be a file: keys from elsewhere prove nothing")
        self._where = where
        self._settings = settings
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -_KEPT_SECONDS
        self._fetching = asyncio.Lock()

    async def principal(self, token: str) -> Principal:
        """Whose token it is. Raises RefusedError."""
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid", ""))
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=10,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise RefusedError(Code.UNAUTHENTICATED, f"the token is not valid: {error}") from error
        return Principal(f"{claims['iss']}#{claims['sub']}"[:200], self._grant(claims))

    def _grant(self, claims: dict[str, Any]) -> Grant:
        tenant = claims.get(self._settings.jwt_tenant_claim)
        if tenant != "*" and not (isinstance(tenant, str) and valid_tenant(tenant)):
            raise RefusedError(Code.FORBIDDEN, f"the token names no tenant in {self._settings.jwt_tenant_claim!r}")
        said = claims.get("scope", "")
        words = {word.removeprefix("tidegate:") for word in (said.split() if isinstance(said, str) else ())}
        sources = claims.get("tidegate_sources", [])
        if not isinstance(sources, list) or not all(isinstance(one, str) and valid_source(one) for one in sources):
            raise RefusedError(Code.FORBIDDEN, "tidegate_sources of the token is no list of sources")
        return Grant(
            scopes=cast("tuple[Scope, ...]", tuple(one for one in SCOPES if one in words)),
            tenant="" if tenant == "*" else tenant,
            sources=tuple(sources),
        )

    async def _key(self, key_id: str) -> jwt.PyJWK:
        now = time.monotonic()
        stale = now - self._fetched > _KEPT_SECONDS
        if (stale or key_id not in self._keys) and now - self._tried > _AGAIN_SECONDS:
            async with self._fetching:
                if self._tried <= now:
                    await self._fetch()
        if key_id not in self._keys:
            if not self._keys:
                raise RefusedError(Code.UNAVAILABLE, "the keys of the identity provider cannot be had; try again")
            raise RefusedError(Code.UNAUTHENTICATED, "the token is signed with an unknown key")
        return self._keys[key_id]

    async def _fetch(self) -> None:
        """What was fetched before stays in use while the provider is away."""
        self._tried = time.monotonic()
        try:
            keys = jwt.PyJWKSet.from_json(await asyncio.to_thread(_read, self._where)).keys
        except (OSError, ValueError, jwt.PyJWTError, msgspec.DecodeError):
            return
        self._keys = {str(one.key_id or ""): one for one in keys}
        self._fetched = self._tried


def _read(where: str) -> str:
    if "://" not in where:
        return Path(where).read_text(encoding="utf-8")
    with urllib.request.urlopen(where, timeout=5) as answer:  # noqa: S310 - the scheme was checked above
        return str(answer.read(_LARGEST_SET), "utf-8")
