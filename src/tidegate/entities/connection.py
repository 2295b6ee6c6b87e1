"""Stream connections of the gateway: requested, established, lost, resumed, closed.

Invariant: every change of state is an event; a closed connection stays closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from msgspec import Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity
from tidegate.errors import CommandRefusedError

__all__ = ["KIND", "Close", "Connection", "Connections", "Endpoint", "Establish", "Forget", "Lose", "Open"]

KIND = "connection"


class Endpoint(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is connected to, and where its messages go."""

    target: str
    topic: str = ""
    """REST: the path of Server-Sent Events; WebSocket: what to subscribe to; gRPC: the method; NATS: the subject."""
    source: str = "gateway"
    """In INGEST."""
    tenant: str = ""
    by: str = ""


class Connection(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The state. Times in milliseconds since 1970."""

    status: Literal["", "requested", "established", "lost", "resumed", "closed"] = ""
    endpoint: Endpoint | None = None
    since_ms: int = 0
    losses: int = 0
    reason: str = ""
    """Why it was lost or closed."""
    last_id: str = ""
    """Of the last message that was stored when the connection was lost, where messages have ids."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.status == "closed"


class Establish(Struct, frozen=True, tag="connection.establish.v1"):
    endpoint: Endpoint


class Open(Struct, frozen=True, tag="connection.open.v1"):
    """The connection stands."""


class Lose(Struct, frozen=True, omit_defaults=True, tag="connection.lose.v1"):
    reason: str
    last_id: str = ""


class Close(Struct, frozen=True, omit_defaults=True, tag="connection.close.v1"):
    by: str = ""


class Forget(Struct, frozen=True, tag="connection.forget.v1"):
    pass


class Requested(Struct, frozen=True, tag="connection.requested.v1"):
    endpoint: Endpoint
    time_ms: int


class Established(Struct, frozen=True, tag="connection.established.v1"):
    time_ms: int


class Resumed(Struct, frozen=True, tag="connection.resumed.v1"):
    time_ms: int


class Lost(Struct, frozen=True, omit_defaults=True, tag="connection.lost.v1"):
    time_ms: int
    reason: str
    last_id: str = ""


class Closed(Struct, frozen=True, omit_defaults=True, tag="connection.closed.v1"):
    time_ms: int
    by: str = ""


class Forgotten(Struct, frozen=True, tag="connection.forgotten.v1"):
    pass


Commands = Establish | Open | Lose | Close | Forget
Events = Requested | Established | Resumed | Lost | Closed | Forgotten


class Connections(Entity[Connection, Commands, Events]):
    """One entity for each connection."""

    kind: ClassVar[str] = KIND
    state = Connection
    commands = Commands
    events = Events

    def decide(self, state: Connection, command: Commands, context: Context) -> Sequence[Events]:
        now = context.time_ms
        if isinstance(command, Establish):
            if state.status:
                if state.endpoint == command.endpoint and state.status != "closed":
                    return []
                raise CommandRefusedError("exists", f"there is or was another connection {context.id!r}")
            return [Requested(command.endpoint, now)]
        if not state.status:
            raise CommandRefusedError("unknown", f"there is no connection {context.id!r}")
        if isinstance(command, Forget):
            return [Forgotten()] if state.settled else []
        if state.status == "closed":
            if isinstance(command, Close):
                return []
            raise CommandRefusedError("ended", f"the connection {context.id!r} is closed")
        match command:
            case Open():
                # Also when it stands as established: its worker has died without a word, and this is another one.
                return [Established(now) if state.status == "requested" else Resumed(now)]
            case Lose(reason=reason, last_id=last_id):
                if state.status == "lost" and state.reason == reason:
                    return []
                return [Lost(now, reason, last_id)]
            case Close(by=by):
                return [Closed(now, by)]

    def evolve(self, state: Connection, event: Events) -> Connection | None:
        match event:
            case Requested(endpoint=endpoint, time_ms=now):
                return Connection(status="requested", endpoint=endpoint, since_ms=now)
            case Established(time_ms=now):
                return replace(state, status="established", since_ms=now, reason="")
            case Resumed(time_ms=now):
                return replace(state, status="resumed", since_ms=now, reason="")
            case Lost(time_ms=now, reason=reason, last_id=last_id):
                return replace(
                    state, status="lost", since_ms=now, reason=reason, losses=state.losses + 1,
                    last_id=last_id or state.last_id,
                )  # fmt: skip
            case Closed(time_ms=now, by=by):
                return replace(state, status="closed", since_ms=now, reason=f"closed by {by}" if by else "closed")
            case Forgotten():
                return None
