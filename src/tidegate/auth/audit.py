"""The record of refusals and of what administrators did: `log.audit.0`, one line for each kind of thing in a second.

Invariant: whoever floods an edge with bad requests makes the log grow by a bounded amount a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
from msgspec import Struct

from tidegate import frame, subject, telemetry
from tidegate.bus import Bus
from tidegate.errors import BusError, BusUnavailableError

__all__ = ["Audit", "AuditEvent"]

_MOST = 200
"""Different ones in a second; those beyond are counted as one."""
_FLUSH_SECONDS = 1.0


class AuditEvent(Struct, frozen=True, omit_defaults=True, kw_only=True, tag="audit.happened.v1"):
    """What was done or refused, how often within about a second."""

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


class Audit:
    """Collects, and writes once a second."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], tuple[int, int]] = {}

    def add(self, who: str, what: str, result: str, *, detail: str = "", peer: str = "", tenant: str = "") -> None:
        """Something was done or refused."""
        telemetry.emit(telemetry.AccessAudited(result=result, who=who, what=what, detail=detail[:200], peer=peer))
        key = who[:200], what[:200], result, detail[:200], peer[:60], tenant
        if key not in self._found and len(self._found) >= _MOST:
            key = "", "others", result, "", "", ""
        count, first = self._found.get(key, (0, time.time_ns() // 1_000_000))
        self._found[key] = count + 1, first

    async def flush(self, bus: Bus) -> None:
        """Write what was collected. Raises BusError, BusUnavailableError; it is kept then."""
        found, self._found = self._found, {}
        if not found:
            return
        names = "who", "what", "result", "detail", "peer", "tenant"
        lines = [
            msgspec.json.encode(AuditEvent(**dict(zip(names, key, strict=True)), count=count, first_ms=first))
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
            self._found = dict(list({**found, **self._found}.items())[:_MOST])
            raise

    async def keep(self, bus: Bus) -> None:
        """Until cancelled; what is left is written at the end."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                with contextlib.suppress(BusError, BusUnavailableError):
                    await self.flush(bus)
        finally:
            with contextlib.suppress(BusError, BusUnavailableError):
                await self.flush(bus)
