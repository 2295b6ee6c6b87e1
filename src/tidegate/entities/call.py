"""Asynchronous calls through the gateway: accepted, attempted, succeeded or failed or cancelled, callback delivered.

Invariant: a call ends once; an attempt is numbered one above the last, so that of two workers only one makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from tidegate.actor.entity import Context, Entity
from tidegate.errors import CommandRefusedError

__all__ = [
    "KIND",
    "Accept",
    "Attempt",
    "Call",
    "Callback",
    "Calls",
    "Cancel",
    "Delivered",
    "Fail",
    "Forget",
    "Order",
    "Postpone",
    "Succeed",
]

KIND = "call"
Status = Literal["", "accepted", "attempted", "succeeded", "failed", "cancelled"]


class Callback(Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Where the result goes: one of the two, or neither."""

    subject: str = ""
    webhook: str = ""


class Order(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is to be called."""

    target: str
    operation: str
    payload: Any = None
    callback: Callback = Callback()
    idempotent: bool = False
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Of an attempt with its retries."""
    tenant: str = ""
    by: str = ""


class Call(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The state. Times in milliseconds since 1970."""

    status: Status = ""
    order: Order | None = None
    attempts: int = 0
    error: str = ""
    """Of the last attempt."""
    next_ms: int = 0
    """When the next attempt is due."""
    body: bytes = b""
    content_type: str = ""
    accepted_ms: int = 0
    ended_ms: int = 0
    callback: Literal["", "delivered", "failed"] = ""
    callback_error: str = ""

    @property
    def ended(self) -> bool:
        """Whether its outcome is known."""
        return self.status in {"succeeded", "failed", "cancelled"}

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        wanted = self.order is not None and bool(self.order.callback.subject or self.order.callback.webhook)
        return self.ended and (bool(self.callback) or not wanted)


class Accept(Struct, frozen=True, tag="call.accept.v1"):
    order: Order


class Attempt(Struct, frozen=True, tag="call.attempt.v1"):
    number: int


class Postpone(Struct, frozen=True, tag="call.postpone.v1"):
    """The attempt has failed, and there is to be another."""

    number: int
    error: str
    after_ms: int


class Succeed(Struct, frozen=True, omit_defaults=True, tag="call.succeed.v1"):
    body: bytes
    content_type: str = ""


class Fail(Struct, frozen=True, tag="call.fail.v1"):
    error: str


class Cancel(Struct, frozen=True, omit_defaults=True, tag="call.cancel.v1"):
    by: str = ""


class Delivered(Struct, frozen=True, omit_defaults=True, tag="call.callback.v1"):
    """What became of the callback; an empty error: it was delivered."""

    error: str = ""


class Forget(Struct, frozen=True, tag="call.forget.v1"):
    pass


class Accepted(Struct, frozen=True, tag="call.accepted.v1"):
    order: Order
    time_ms: int


class Attempted(Struct, frozen=True, tag="call.attempted.v1"):
    number: int
    time_ms: int


class Postponed(Struct, frozen=True, tag="call.postponed.v1"):
    error: str
    next_ms: int


class Succeeded(Struct, frozen=True, omit_defaults=True, tag="call.succeeded.v1"):
    time_ms: int
    body: bytes
    content_type: str = ""


class Failed(Struct, frozen=True, tag="call.failed.v1"):
    time_ms: int
    error: str


class Cancelled(Struct, frozen=True, omit_defaults=True, tag="call.cancelled.v1"):
    time_ms: int
    by: str = ""


class CallbackDelivered(Struct, frozen=True, tag="call.callback_delivered.v1"):
    pass


class CallbackFailed(Struct, frozen=True, tag="call.callback_failed.v1"):
    error: str


class Forgotten(Struct, frozen=True, tag="call.forgotten.v1"):
    pass


Commands = Accept | Attempt | Postpone | Succeed | Fail | Cancel | Delivered | Forget
Events = (
    Accepted | Attempted | Postponed | Succeeded | Failed | Cancelled | CallbackDelivered | CallbackFailed | Forgotten
)


class Calls(Entity[Call, Commands, Events]):
    """One entity for each call; its id is the call's idempotency key."""

    kind: ClassVar[str] = KIND
    state = Call
    commands = Commands
    events = Events

    def decide(self, state: Call, command: Commands, context: Context) -> Sequence[Events]:
        if isinstance(command, Accept):
            if state.status:
                if state.order == command.order:
                    return []
                raise CommandRefusedError("exists", f"there is another call {context.id!r} already")
            return [Accepted(command.order, context.time_ms)]
        if not state.status:
            raise CommandRefusedError("unknown", f"there is no call {context.id!r}")
        if isinstance(command, Forget):
            return [Forgotten()] if state.settled else []
        if isinstance(command, Delivered):
            return self._delivered(state, command)
        if state.ended:
            if isinstance(command, Cancel) and state.status == "cancelled":
                return []
            raise CommandRefusedError("ended", f"the call {context.id!r} has {state.status} already")
        now = context.time_ms
        match command:
            case Attempt(number=number):
                if number != state.attempts + 1:
                    raise CommandRefusedError("attempt", f"attempt {state.attempts + 1} is next, not {number}")
                return [Attempted(number, now)]
            case Postpone(number=number, error=error, after_ms=after):
                return [Postponed(error, now + after)] if number == state.attempts else []
            case Succeed(body=body, content_type=content_type):
                return [Succeeded(now, body, content_type)]
            case Fail(error=error):
                return [Failed(now, error)]
            case Cancel(by=by):
                return [Cancelled(now, by)]

    @staticmethod
    def _delivered(state: Call, command: Delivered) -> Sequence[Events]:
        if not state.ended or state.callback == "delivered":
            return []
        return [CallbackFailed(command.error) if command.error else CallbackDelivered()]

    def evolve(self, state: Call, event: Events) -> Call | None:
        match event:
            case Accepted(order=order, time_ms=now):
                return Call(status="accepted", order=order, accepted_ms=now)
            case Attempted(number=number):
                return replace(state, status="attempted", attempts=number, next_ms=0)
            case Postponed(error=error, next_ms=at):
                return replace(state, error=error, next_ms=at)
            case Succeeded(time_ms=now, body=body, content_type=content_type):
                return replace(
                    state, status="succeeded", ended_ms=now, body=body, content_type=content_type, error="", next_ms=0
                )
            case Failed(time_ms=now, error=error):
                return replace(state, status="failed", ended_ms=now, error=error, next_ms=0)
            case Cancelled(time_ms=now):
                return replace(state, status="cancelled", ended_ms=now, next_ms=0)
            case CallbackDelivered():
                return replace(state, callback="delivered", callback_error="")
            case CallbackFailed(error=error):
                return replace(state, callback="failed", callback_error=error)
            case Forgotten():
                return None
