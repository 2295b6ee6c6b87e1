"""The record of refusals and of what administrators did: `log.audit.0`, with a count for what happened repeatedly.

Invariant: whoever floods an edge with bad requests makes the log grow by a bounded amount a second, and by one line a
minute where all requests are of one kind; every one of them is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from tidegate import frame, subject, telemetry
from tidegate.bus import Bus
from tidegate.errors import BusError, BusUnavailableError

__all__ = ["Audit", "AuditEvent"]

_MOST = 200
"""Different ones in a second; those beyond are counted as one."""
_FLUSH_SECONDS = 1.0
_AGAIN_SECONDS = 60.0
"""A refusal that goes on is told of once in so long."""
_MOST_HELD = 2000
_NAMES = ("who", "what", "result", "detail", "peer", "tenant")


class AuditEvent(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="audit.happened.v1"):
    """What was done or refused, how often since it was last told of: within a second, or a minute where it goes on."""

    who: str
    """Id of the key, or issuer and subject of the token; "" where nobody knows."""
    what: str
    """Such as `POST /v1/events`."""
    result: str
    """`allowed`, or the code of the refusal."""
    detail: str = ""
    peer: str = ""
    """The address that it came from."""
    tenant: str = ""
    count: int = 1
    first_ms: int = 0
    """Milliseconds since 1970."""


class _Held(Struct):
    """A refusal that was told of: how often it has come since then, and since when."""

    until: float
    count: int = 0
    first_ms: int = 0


_Key = tuple[str, ...]


class Audit:
    """Collects, and writes once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[_Key, tuple[int, int]] = {}
        """To be written next: what -> how often, and since when."""
        self._held: dict[_Key, _Held] = {}

    def add(self, who: str, what: str, result: str, *, detail: str = "", peer: str = "", tenant: str = "") -> None:
        """Something was done or refused."""
        self._count((who[:200], what[:200], result, detail[:200], peer[:60], tenant), 1, time.time_ns() // 1_000_000)

    def _count(self, key: _Key, count: int, first_ms: int) -> None:
        if (held := self._held.get(key)) is not None:
            held.first_ms = held.first_ms or first_ms
            held.count += count
            return
        if key not in self._found and len(self._found) >= _MOST:
            key = "", "others", key[2], "", "", ""
        before, since = self._found.get(key, (0, first_ms))
        self._found[key] = before + count, min(since, first_ms)

    async def flush(self, bus: Bus, *, whole: bool = False) -> None:
        """Write what was collected; if `whole`, also what is held back. Raises BusError, BusUnavailableError; it is
        kept then."""
        now = self._clock()
        found, self._found = self._found, {}
        for key in [key for key, held in self._held.items() if whole or held.until <= now]:
            held = self._held.pop(key)
            if held.count:
                found[key] = held.count, held.first_ms
        if not found:
            return
        lines = [
            msgspec.json.encode(AuditEvent(**dict(zip(_NAMES, key, strict=True)), count=count, first_ms=first))
            for key, (count, first) in found.items()
        ]
        headers = {
            frame.CONTENT_TYPE: frame.NDJSON,
            frame.CONTENT_ENCODING: "zstd",
            frame.SCHEMA: "audit.v1",
            frame.COUNT: str(len(lines)),
        }
        try:
            await bus.publish(subject.entity("audit", 0), frame.seal(lines), headers)
        except (BusError, BusUnavailableError):
            for key, (count, first) in found.items():
                self._count(key, count, first)
            raise
        for key, (count, _) in found.items():
            who, what, result, detail, peer, _ = key
            telemetry.emit(
                telemetry.AccessAudited(result=result, who=who, what=what, detail=detail, peer=peer, count=count)
            )
            if result != "allowed" and len(self._held) < _MOST_HELD:
                self._held[key] = _Held(now + _AGAIN_SECONDS, *self._found.pop(key, (0, 0)))

    async def keep(self, bus: Bus) -> None:
        """Until cancelled; what is left is written at the end."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                with contextlib.suppress(BusError, BusUnavailableError):
                    await self.flush(bus)
        finally:
            with contextlib.suppress(BusError, BusUnavailableError):
                await self.flush(bus, whole=True)
