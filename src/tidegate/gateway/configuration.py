"""What the gateway may call, and how: the file at GATEWAY_CONFIG_PATH, read once, checked as a whole.

Invariant: the gateway opens no connection to an address that does not stand in this file or, for NATS, comes from
service discovery; callers name targets, never addresses.
"""

from __future__ import annotations

import os
import re
import ssl
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from tidegate import tomlfile
from tidegate.errors import ConfigError
from tidegate.subject import is_own, valid_source

__all__ = [
    "NAME",
    "Breaker",
    "Callbacks",
    "Configuration",
    "Discovery",
    "Fallback",
    "Hedge",
    "Retry",
    "Route",
    "Secret",
    "Target",
    "load",
    "safe_subject",
]

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SCHEMES = {
    "rest": ("http", "https"),
    "graphql": ("http", "https"),
    "websocket": ("ws", "wss"),
    "grpc": ("grpc", "grpcs"),
}


def safe_subject(subject: str) -> bool:
    """Whether it is a plain subject outside those of NATS and of Tidegate itself, to which nobody outside makes the
    gateway write."""
    return _SUBJECT.fullmatch(subject) is not None and not is_own(subject)


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Retry(_Table, frozen=True):
    attempts: Positive = 3
    """The first one included."""
    backoff_seconds: Seconds = 0.1
    """Before the first retry, at most: it doubles with each, and a random part of it is waited for ("full jitter")."""
    max_backoff_seconds: Seconds = 5.0
    budget: Share = 0.2
    """Retries and hedges a first attempt pays for; together they add this share to the load at most ..."""
    budget_burst: Annotated[int, Meta(ge=0)] = 10
    """... after so many that are free."""


class Breaker(_Table, frozen=True):
    window: Positive = 20
    """Attempts looked back on."""
    minimum: Positive = 5
    """Fewer attempts than this open nothing."""
    failures: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Share of failed attempts that opens it."""
    open_seconds: Seconds = 10.0
    """Then one attempt is let through, and decides."""


class Hedge(_Table, frozen=True):
    after_seconds: Seconds
    """An idempotent call that takes longer is made a second time; the first good answer counts."""


class Fallback(_Table, frozen=True):
    body: Any
    """Answered to synchronous calls in place of a target that cannot be reached, does not answer, or fails."""


class Secret(_Table, frozen=True):
    """A value from outside the file: one of the two."""

    env: str = ""
    file: str = ""

    def read(self, where: str) -> str:
        """Raises ConfigError where it is not there; the value itself is never part of a message."""
        if bool(self.env) == bool(self.file):
            raise ConfigError(where, "needs either `env` or `file`")
        try:
            value = os.environ.get(self.env, "") if self.env else Path(self.file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(where, f"cannot be read: {error}") from error
        except UnicodeDecodeError:
            raise ConfigError(where, f"{self.file} is no text") from None
        if not (value := value.strip()):
            raise ConfigError(where, f"{self.env or self.file} is not set, or empty")
        # Else the HTTP client would refuse it, and say in its error what it is.
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(where, f"{self.env or self.file} holds more than one line of printable ASCII")
        return value


class Target(_Table, frozen=True):
    name: str
    protocol: Literal["rest", "grpc", "graphql", "websocket", "nats"]
    url: str = ""
    """`http(s)://`, `ws(s)://`, `grpc(s)://host:port`; not for NATS."""
    subject: str = ""
    """For NATS: requests go to it, or to `<subject>.<operation>`."""
    headers: dict[str, str] = {}
    secrets: dict[str, Secret] = {}
    """Headers with secret values."""
    ca_file: str | None = None
    """Certificates to trust in place of the system's."""
    tenants: tuple[str, ...] = ()
    """Whose keys may call it, `*` for any; keys without a tenant may call every target."""
    idempotent: tuple[str, ...] = ()
    """Operations that may be repeated, as patterns (`GET *`, `lookup`); GET, HEAD, PUT and DELETE of REST and GraphQL
    queries always are."""
    timeout_seconds: Seconds = 5.0
    """Of one attempt."""
    max_request_bytes: Positive = 1024 * 1024
    max_response_bytes: Positive = 1024 * 1024
    max_concurrent: Positive = 64
    """Attempts at one time ..."""
    max_waiting: Annotated[int, Meta(ge=0)] = 256
    """... and calls that wait for their turn; more are refused."""
    retry: Retry = field(default_factory=Retry)
    breaker: Breaker = field(default_factory=Breaker)
    hedge: Hedge | None = None
    fallback: Fallback | None = None

    def repeatable(self, operation: str) -> bool:
        """Whether the file says that the operation may be made twice."""
        return any(fnmatchcase(operation, one) for one in self.idempotent)


class Discovery(_Table, frozen=True):
    """NATS micro services that become targets by their own names."""

    services: tuple[str, ...] = ()
    """Patterns of names; none: nothing is discovered."""
    every_seconds: Seconds = 10.0
    most: Positive = 256
    tenants: tuple[str, ...] = ()


class Callbacks(_Table, frozen=True):
    """Where results of asynchronous calls may be sent."""

    webhooks: tuple[str, ...] = ()
    """Beginnings of URLs, up to and with a `/` after the host."""
    subjects: tuple[str, ...] = ("results",)
    """First parts of subjects: `results` allows `results.billing`."""
    secret: Secret | None = None
    """Webhooks are signed with it: `Tidegate-Signature: sha256=<HMAC of the body>`."""
    timeout_seconds: Seconds = 5.0
    attempts: Positive = 5
    backoff_seconds: Seconds = 1.0

    def allow(self, url: str) -> bool:
        """Whether a webhook may be sent there. The path must not climb out of an allowed beginning."""
        plain = re.fullmatch(r"[!-~]+", url) is not None and "\\" not in url and "@" not in url and "#" not in url
        climbs = any(part in {".", ".."} for part in re.sub("%2[eE]", ".", urlsplit(url).path).split("/"))
        return plain and not climbs and "%2f" not in url.lower() and any(url.startswith(one) for one in self.webhooks)

    def allow_subject(self, subject: str) -> bool:
        """Whether a result may be published there."""
        begins = any(subject == one or subject.startswith(f"{one}.") for one in self.subjects)
        return begins and safe_subject(subject)


class Route(_Table, frozen=True):
    """Where events of some types go; the first route that fits counts."""

    types: str
    """Pattern: `security.*`."""
    to: tuple[Literal["log", "realtime", "kafka"], ...]
    source: str = "gateway"
    """For `log`: the source in INGEST."""
    topic: str = ""
    """For `kafka`: letters, digits, _ and -, in parts with dots between."""


_ROUTES = (
    Route(types="realtime.*", to=("realtime",)),
    Route(types="*", to=("log",)),
)


class Calls(_Table, frozen=True):
    """Asynchronous calls."""

    max_open: Positive = 1000
    """Accepted and not ended, in one process; more are refused."""
    max_running: Positive = 64
    attempts: Positive = 5
    """Each with the retries of its target."""
    backoff_seconds: Seconds = 1.0
    max_backoff_seconds: Seconds = 60.0
    keep_ended: Annotated[int, Meta(ge=0, le=10_000)] = 1000
    """Ended calls whose result can be looked up, per shard; the log has all."""


class Streams(_Table, frozen=True):
    """Stream connections."""

    max_open: Positive = 100
    backoff_seconds: Seconds = 0.2
    max_backoff_seconds: Seconds = 30.0
    keep_ended: Annotated[int, Meta(ge=0, le=10_000)] = 100


class Configuration(_Table, frozen=True):
    """The whole file."""

    targets: list[Target] = []
    discovery: Discovery = field(default_factory=Discovery)
    callbacks: Callbacks = field(default_factory=Callbacks)
    routes: list[Route] = field(default_factory=lambda: list(_ROUTES))
    calls: Calls = field(default_factory=Calls)
    streams: Streams = field(default_factory=Streams)

    def route(self, event_type: str) -> Route | None:
        """The route of events of this type."""
        return next((one for one in self.routes if fnmatchcase(event_type, one.types)), None)


def load(path: Path | None) -> Configuration:
    """The file at `path`; without one there are no targets. Raises ConfigError naming file and line."""
    if path is None:
        return Configuration()
    found = tomlfile.load(path, Configuration)
    text = path.read_text(encoding="utf-8")

    def wrong(steps: list[str | int], problem: str) -> ConfigError:
        return ConfigError(f"{path}:{tomlfile.line_of(text, steps)}", problem)

    names: set[str] = set()
    for number, target in enumerate(found.targets):
        if not NAME.fullmatch(target.name):
            raise wrong(["targets", number, "name"], f"{target.name!r} is no name: use letters, digits, _ and -")
        if target.name in names:
            raise wrong(["targets", number, "name"], f"there are two targets {target.name!r}")
        names.add(target.name)
        if problem := _problem(target):
            raise wrong(["targets", number, problem[0]], problem[1])
        for header, secret in target.secrets.items():
            secret.read(f"{path}:{tomlfile.line_of(text, ['targets', number, 'secrets', header])}")
    for number, route in enumerate(found.routes):
        if not valid_source(route.source):
            raise wrong(["routes", number, "source"], f"{route.source!r} is no source name")
        if "kafka" in route.to and not (_SUBJECT.fullmatch(route.topic) and len(route.topic) < 250):
            raise wrong(["routes", number, "to"], "a route to kafka needs a `topic`: letters, digits, _, - and dots")
    for url in found.callbacks.webhooks:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or not parts.path or "@" in url:
            raise wrong(["callbacks", "webhooks"], f"{url!r} must be http(s)://host[:port]/ with at least the last /")
    if found.callbacks.secret is not None:
        found.callbacks.secret.read(f"{path}:{tomlfile.line_of(text, ['callbacks', 'secret'])}")
    return found


def _problem(target: Target) -> tuple[str, str] | None:
    if target.ca_file is not None:
        try:
            ssl.create_default_context(cafile=target.ca_file)
        except OSError as error:
            return "ca_file", f"{target.ca_file} cannot be used: {error}"
    if target.protocol == "nats":
        if not safe_subject(target.subject):
            return "subject", f"{target.subject!r} is no subject for a target: plain tokens, and not one of Tidegate's"
        return None
    parts = urlsplit(target.url)
    if parts.scheme not in _SCHEMES[target.protocol] or not parts.hostname:
        return "url", f"must start with {' or '.join(f'{one}://' for one in _SCHEMES[target.protocol])} and a host"
    if parts.username or parts.password:
        return "url", "must hold no password: put it under `secrets`, as a header"
    return None
