"""The key file of anonymisation, and the keys that are derived from it for each tenant.

    [[key]]
    id = "20260101-1f0c"
    created = 2026-01-01T00:00:00Z
    secret = "<base64 of 32 to 64 bytes>"      # or secret_env = "VARIABLE", or secret_file = "path"

Invariant: which key serves an event follows from the event's own time, so that an event which is processed again, or
late, or by another machine, gets the same pseudonyms. Old keys stay in the file: what they made can be reversed.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tidegate import tomlfile
from tidegate.errors import ConfigError

__all__ = ["KeyRing", "MasterKey", "generate", "load_keys"]

_SECRET_BYTES = 32
_ALWAYS = 2**63


class _Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    created: Annotated[datetime, Meta(tz=True)]
    """Events from this moment on are anonymised with the key, until the next one begins."""
    secret: str = ""
    """Base64; or else from where it is to be read."""
    secret_env: str = ""
    secret_file: str = ""
    """From the folder of the key file; holds the base64, or 32 to 64 bytes as they are."""
    revoked: bool = False
    """Kept for reversal only: the key before it (or else after it) takes its place."""

    def __repr__(self) -> str:
        return f"<key {self.id}>"


class _KeyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: Annotated[list[_Key], Meta(min_length=1)]


class MasterKey:
    """One key of the file. Its secret is used for nothing but deriving others."""

    __slots__ = ("_secret", "created_ms", "id", "revoked")

    def __init__(self, key_id: str, created_ms: int, secret: bytes, *, revoked: bool = False) -> None:
        self.id = key_id
        self.created_ms = created_ms
        self.revoked = revoked
        self._secret = secret

    def derive(self, tenant: str, purpose: str, size: int) -> bytes:
        """A key of `size` bytes (at most 64) for one purpose of one tenant: keyed BLAKE2b (RFC 7693)."""
        of = f"{purpose}\0{tenant}".encode("utf-8", "surrogatepass")
        return blake2b(of, key=self._secret, person=b"tidegate-anonym", digest_size=size).digest()


class KeyRing:
    """The keys of one file, by time."""

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        """Raises ValueError where none of `keys` may be used."""
        self.keys = sorted(keys, key=lambda one: one.created_ms)
        """The oldest first, revoked ones included."""
        self._usable = [one for one in self.keys if not one.revoked]
        if not self._usable:
            raise ValueError("all keys are revoked; add one with `tidegate keys new`")
        self._starts = [one.created_ms for one in self._usable]

    def at(self, time_ms: int) -> tuple[MasterKey, int, int]:
        """The key for events of `time_ms`, and since <= time < until for which it is the same one.

        The first key serves all time before it, too.
        """
        place = max(bisect_right(self._starts, time_ms) - 1, 0)
        since = self._starts[place] if place else -_ALWAYS
        until = self._starts[place + 1] if place + 1 < len(self._starts) else _ALWAYS
        return self._usable[place], since, until


def load_keys(path: Path) -> KeyRing:
    """The keys in the file at `path`, TOML or (by its name) JSON. Raises ConfigError.

    As ssh does with a private key, a file that others than its owner can read is refused.
    """
    text = _private(path)
    if path.suffix == ".json":
        try:
            file = msgspec.json.decode(text, type=_KeyFile)
        except msgspec.MsgspecError as error:
            raise ConfigError(str(path), f"not a key file: {error}") from error
    else:
        file = tomlfile.read(_text(text, path), str(path), _KeyFile)
    names = [one.id for one in file.key]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(str(path), f'two keys have the id "{name}"')
    try:
        return KeyRing([_loaded(one, path) for one in file.key])
    except ValueError as error:
        raise ConfigError(str(path), str(error)) from error


def _private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    str(path), f"others than its owner can read this file (mode {mode:04o}); run chmod 600 on it"
                )
            return file.read()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "not UTF-8") from error


def _loaded(key: _Key, path: Path) -> MasterKey:
    given = [name for name in ("secret", "secret_env", "secret_file") if getattr(key, name)]
    where = f'key "{key.id}"'
    if len(given) != 1:
        raise ConfigError(str(path), f"{where} needs one of secret, secret_env and secret_file")
    secret: bytes | None = None
    if key.secret:
        secret = _decoded(key.secret.encode())
    elif key.secret_env:
        secret = _decoded(os.environ.get(key.secret_env, "").encode())
        where += f": the environment variable {key.secret_env}"
    else:
        raw = _private(path.parent / key.secret_file)
        secret = _decoded(raw) or (raw if _SECRET_BYTES <= len(raw) <= 64 else None)
        where += f": the file {key.secret_file}"
    if secret is None:
        raise ConfigError(str(path), f"{where} does not hold base64 of 32 to 64 bytes")
    return MasterKey(key.id, _ms(key.created), secret, revoked=key.revoked)


def _decoded(text: bytes) -> bytes | None:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if _SECRET_BYTES <= len(secret) <= 64 else None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def generate(path: Path, created: datetime) -> str:
    """Adds a new random key to the TOML file at `path`, which is made if it is not there; returns its id.

    Raises ConfigError for a file that is no key file, or that others can read.
    """
    before = b""
    if path.exists():
        load_keys(path)
        before = _private(path).rstrip() + b"\n\n"
    if path.suffix == ".json":
        raise ConfigError(str(path), "keys are added to TOML files only")
    created = created.astimezone(UTC).replace(microsecond=0)
    key_id = f"{created:%Y%m%d}-{secrets.token_hex(2)}"
    secret = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    lines = ["[[key]]", f'id = "{key_id}"', f"created = {created:%Y-%m-%dT%H:%M:%SZ}", f'secret = "{secret}"', ""]
    # A new file in its place, complete and private from its first moment.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(before + "\n".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from error
    return key_id
