"""Looking after subscriptions by name: create, pause, resume, seek, lag, delete, and list them.

Invariant: the entity decides first, the consumer on the server follows from its state. Whatever is interrupted in
between is finished by whoever comes next: a member, or the same command again.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import time
from typing import Any, Literal

import msgspec

from tidegate import subject
from tidegate.actor.system import System
from tidegate.bus import CONSUMER_NOT_FOUND, Bus
from tidegate.entities.subscription import (
    Create,
    Definition,
    Delete,
    Pause,
    Report,
    Resume,
    Seek,
    Start,
    Subscription,
    Subscriptions,
    recovery,
)
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError, PositionError, TidegateError
from tidegate.log import Log

__all__ = ["Lag", "Place", "SubscriptionManager", "consumer_of", "identity"]

KIND = Subscriptions.kind
Place = Literal["start", "end"] | int | datetime.datetime
"""In the log: its beginning, its end as of now, a sequence, or a time (with a time zone)."""

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIX = "sub="
_STATE = msgspec.json.Decoder(Subscription)


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a subscription is behind."""

    frames: int
    """Not delivered to any member yet."""
    in_hand: int
    """Frames delivered and not settled."""
    seconds: float
    """Since the log stored the oldest of them; 0 where there are none."""


def identity(name: str, group: str) -> str:
    """The id of the entity. Raises CommandRefusedError for words that cannot stand in a consumer's name."""
    for word in (name, group):
        if not _WORD.fullmatch(word):
            raise CommandRefusedError("invalid", f"{word!r}: use letters, digits, _ and -, at most 64")
    return f"{name}/{group}"


def consumer_of(uid: str, epoch: int) -> str:
    """The durable consumer that the members of an epoch share."""
    return f"{_PREFIX}{uid.replace('/', '=')}={epoch}"


class SubscriptionManager:
    """All subscriptions, by name and group."""

    def __init__(self, bus: Bus, log: Log, *, timeout_seconds: float = 10.0) -> None:
        """`timeout_seconds` is how long each command waits for an answer of the process `entities`."""
        self._bus = bus
        self._log = log
        self._system = System(bus, log)
        self._timeout = timeout_seconds

    # -- commands -----------------------------------------------------------------------------------------------

    async def create(
        self, name: str, definition: Definition, *, group: str = "main", start: Place = "start"
    ) -> Subscription:
        """Make it, its position `start`; one that exists gets the definition and keeps its position."""
        uid = identity(name, group)
        begin, created = await self._start(start)
        await self._ask(uid, Create(definition=definition, start=begin, created=created))
        state = await self.get(name, group=group)
        await self.ensure(uid, state)
        return state

    async def pause(self, name: str, *, group: str = "main", reason: str = "") -> None:
        """No member gets anything more until `resume`; a batch in a handler's hands is finished."""
        await self._ask(identity(name, group), Pause(reason))

    async def resume(self, name: str, *, group: str = "main") -> None:
        """Go on from where it was paused."""
        await self._ask(identity(name, group), Resume())

    async def seek(self, name: str, to: Place, *, group: str = "main") -> None:
        """Go on from there, all members; what they have in hand is dropped."""
        uid = identity(name, group)
        start, created = await self._start(to)
        await self._ask(uid, Seek(start=start, created=created))
        await self.ensure(uid, await self.get(name, group=group))

    async def delete(self, name: str, *, group: str = "main") -> None:
        """End it: its members stop, its consumer is removed; made again it begins anew."""
        uid = identity(name, group)
        await self._ask(uid, Delete())
        await self._tidy(uid, (await self.look(uid)).epoch + 1)

    async def report(self, uid: str, report: Report, command_id: str) -> None:
        """What a member has done."""
        await self._ask(uid, report, command_id)

    async def _ask(self, uid: str, command: Any, command_id: str = "") -> None:
        await self._system.ask(KIND, uid, command, command_id=command_id, timeout_seconds=self._timeout)

    async def _start(self, place: Place) -> tuple[Start, str]:
        log = await self._log.state()
        match place:
            case "start":
                return Start(), log.created
            case "end":
                return Start(sequence=log.last_sequence + 1), log.created
            case datetime.datetime():
                if place.tzinfo is None:
                    raise CommandRefusedError("invalid", f"the time {place} has no time zone")
                return Start(time_ms=max(1, int(place.timestamp() * 1000))), log.created
            case sequence:
                return Start(sequence=max(1, sequence)), log.created

    # -- looking ------------------------------------------------------------------------------------------------

    async def get(self, name: str, *, group: str = "main") -> Subscription:
        """What is known of it. Raises CommandRefusedError when there is none, or it was deleted."""
        state = await self.look(identity(name, group))
        if state.status in ("", "deleted"):
            what = "was deleted" if state.status else "does not exist; `tidegate subscriptions list` shows those there"
            raise CommandRefusedError("unknown", f"subscription {name}/{group} {what}")
        return state

    async def look(self, uid: str) -> Subscription:
        """The state of the entity, also of one that does not exist."""
        answer = await self._system.get(KIND, uid, timeout_seconds=self._timeout)
        return _STATE.decode(answer.state) if answer.version else Subscription()

    async def names(self) -> list[tuple[str, str]]:
        """Name and group of every subscription that has a consumer on the server."""
        parts = [one.removeprefix(_PREFIX).split("=") for one in await self._consumers(_PREFIX)]
        return sorted({(name, group) for name, group, _ in parts})

    async def lag(self, name: str, *, group: str = "main") -> Lag:
        """How far it is behind the end of the log."""
        return await self._lag(identity(name, group), await self.get(name, group=group))

    async def _lag(self, uid: str, state: Subscription) -> Lag:
        info = await self.ensure(uid, state)
        frames, in_hand = info["num_pending"], info["num_ack_pending"]
        seconds = 0.0
        if frames or in_hand:
            after = max(info["ack_floor"]["stream_seq"] + 1, info["config"].get("opt_start_seq", 1))
            oldest = await self._bus.next_message(subject.LOG, after, subject.event("*"))
            if oldest is not None:
                seconds = max(0.0, time.time() - oldest.time_ms / 1000)
        return Lag(frames=frames, in_hand=in_hand, seconds=seconds)

    async def rows(self) -> list[dict[str, Any]]:
        """One for each subscription, for people; one that cannot be looked at names the problem."""
        return list(await asyncio.gather(*(self._row(name, group) for name, group in await self.names())))

    async def _row(self, name: str, group: str) -> dict[str, Any]:
        row: dict[str, Any] = {"subscription": f"{name}/{group}"}
        try:
            state = await self.get(name, group=group)
            lag = await self._lag(identity(name, group), state)
        except TidegateError as error:
            return row | {"recovery": str(error)}
        return row | {
            "status": f"{state.status}: {state.reason}" if state.reason else state.status,
            "lag (frames)": lag.frames + lag.in_hand,
            "behind (s)": round(lag.seconds, 1),
            "processed": state.totals.processed,
            "failed": state.totals.failed,
            "filtered": state.totals.filtered,
            "recovery": recovery(state),
        }

    # -- the consumer -------------------------------------------------------------------------------------------

    async def ensure(self, uid: str, state: Subscription) -> dict[str, Any]:
        """The consumer of the epoch is there, and none of an older one; returns what the server says of it.

        Where it was lost, it is made again from the floor that the members reported. Raises PositionError when the
        position is of another log, BusUnavailableError when the epoch is over.
        """
        log = await self._log.state()
        if state.created != log.created:
            raise PositionError(
                f"subscription {uid} has a position in a stream {log.name} created {state.created}, but the one there"
                f" now was created {log.created}. Choose a new position with `tidegate subscriptions seek`."
            )
        name = consumer_of(uid, state.epoch)
        wait_ns = int(state.definition.member_timeout_seconds * 1e9)
        try:
            info = await self._bus.api(f"CONSUMER.INFO.{subject.LOG}.{name}")
        except BusError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise
            # Whoever asks may know an old state, and the floor moves with every report.
            state, asked = await self.look(uid), state.epoch
            if state.epoch != asked or state.status == "deleted":
                raise BusUnavailableError(f"subscription {uid} has moved on") from error
            config = {
                "durable_name": name,
                "ack_policy": "explicit",
                "ack_wait": wait_ns,
                "filter_subject": subject.event("*"),
                "max_deliver": -1,
                # Members bound what they hold, not the server: none shall starve because another holds much.
                "max_ack_pending": -1,
                **_beginning(state),
            }
        else:
            if info["config"]["ack_wait"] == wait_ns:
                return info
            config = info["config"] | {"ack_wait": wait_ns}
        made = await self._bus.api(
            f"CONSUMER.DURABLE.CREATE.{subject.LOG}.{name}", {"stream_name": subject.LOG, "config": config}
        )
        await self._tidy(uid, state.epoch)
        return made

    async def _tidy(self, uid: str, epoch: int) -> None:
        """Remove the consumers of older epochs."""
        for name in await self._consumers(f"{_PREFIX}{uid.replace('/', '=')}="):
            if int(name.rpartition("=")[2]) < epoch:
                await self._log.forget_consumer(name)

    async def _consumers(self, prefix: str) -> list[str]:
        found: list[str] = []
        while True:
            page = await self._bus.api(f"CONSUMER.NAMES.{subject.LOG}", {"offset": len(found)})
            found += page["consumers"] or []
            if len(found) >= page["total"] or not page["consumers"]:
                return [one for one in found if one.startswith(prefix)]


def _beginning(state: Subscription) -> dict[str, Any]:
    if state.floor:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": state.floor + 1}
    if state.start.time_ms:
        at = datetime.datetime.fromtimestamp(state.start.time_ms / 1000, datetime.UTC)
        return {"deliver_policy": "by_start_time", "opt_start_time": at.isoformat()}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": state.start.sequence}
