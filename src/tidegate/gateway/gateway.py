"""The communication gateway: calls to services and events between them, with failures handled in one place.

Invariant: callers name targets, never addresses, and whoever has a tenant reaches only targets that are there for it
and sees only calls and connections of its own.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tidegate import resources
from tidegate.actor.cell import Cell
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.system import System
from tidegate.auth import Gate, Principal
from tidegate.auth.principal import LOCAL
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.entities import call as calls
from tidegate.entities import connection as connections
from tidegate.errors import Code, RefusedError
from tidegate.event import Envelope, KafkaPlace
from tidegate.gateway import kafka
from tidegate.gateway.calling import CallRunner
from tidegate.gateway.channel import CallResult, ChannelStatus
from tidegate.gateway.channels import Channels
from tidegate.gateway.configuration import Configuration, load
from tidegate.gateway.connecting import ConnectionRunner
from tidegate.gateway.keeping import KeeperWork, Kept
from tidegate.gateway.transports.base import encoded
from tidegate.log import Log
from tidegate.service.publishing import Publishing
from tidegate.subject import LOG, entity, load_declarations, valid_source

__all__ = ["EventPublished", "Gateway"]

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SEEN_SECONDS = 30.0


class EventPublished(Struct, frozen=True, omit_defaults=True):
    """Where an event went."""

    to: tuple[str, ...]
    positions: tuple[str, ...] = ()
    """In the ingest stream: what queries can wait for."""
    kafka: KafkaPlace | None = None


class _Accepted:
    """What this process has had accepted, until its keepers know of it: so that the limit holds in a flood, too."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, float] = {}
        self.keepers: list[KeeperWork] = []

    def admit(self, name: str) -> None:
        """Raises RefusedError when too many are open."""
        now = time.monotonic()
        for one, since in list(self._names.items()):
            if now - since > _SEEN_SECONDS or any(keeper.knows(one) for keeper in self.keepers):
                del self._names[one]
        count = len(self._names) + sum(keeper.open for keeper in self.keepers)
        if count >= self._most:
            raise RefusedError(Code.RATE_LIMITED, f"{count} are open already, more are not taken", after=1.0)
        self._names[name] = now

    def drop(self, name: str) -> None:
        """It was not accepted after all."""
        self._names.pop(name, None)


class Gateway:
    """Calls, events and streams. Without `principal`, methods act for this process itself, which may do everything.

    Errors: RefusedError for what is not allowed or makes no sense; CallFailedError for a call without a good answer;
    CommandRefusedError and BusUnavailableError as of `System.ask`.
    """

    def __init__(
        self, configuration: Configuration, bus: Callable[[], Bus | None], publishing: Publishing, shards: int
    ) -> None:
        """Raises ConfigError where a secret is missing."""
        self.configuration = configuration
        self._bus = bus
        self._publishing = publishing
        self._shards = shards
        self.channels = Channels(configuration, bus)
        self._calls = CallRunner(configuration, self._system, self._connected, self.channels.get)
        self._connections = ConnectionRunner(configuration.streams, self._system, self.channels.get, publishing)
        self._accepted_calls = _Accepted(configuration.calls.max_open)
        self._accepted_connections = _Accepted(configuration.streams.max_open)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, configuration: Configuration | None = None) -> AsyncIterator[Gateway]:
        """A gateway in this process. Its asynchronous calls and streams are worked off by the process `gateway`."""
        if configuration is None:
            configuration = load(Path(settings.gateway.config_path) if settings.gateway.config_path else None)
        folder = Path(settings.subjects_path) if settings.subjects_path else resources.folder("subjects")
        declared, limits = load_declarations(folder), settings.ingest
        async with connect(
            settings.nats_url, name="tidegate gateway client", credentials_file=settings.nats.credentials_file
        ) as bus:
            publishing = Publishing(
                lambda: bus,
                Gate(settings.auth),
                declared.partitions,
                limits.max_frame_bytes,
                limits.max_inflated_bytes,
            )
            one = cls(configuration, lambda: bus, publishing, declared.shards)
            try:
                yield one
            finally:
                await one.aclose()

    # -- calls --------------------------------------------------------------------------------------------------

    async def execute_synchronous_call(
        self,
        target: str,
        operation: str,
        payload: Any = None,
        *,
        principal: Principal = LOCAL,
        timeout_seconds: float | None = None,
        idempotent: bool = False,
        key: str = "",
    ) -> CallResult:
        """Call a target and wait for its answer: retried, hedged, cut off and replaced as the target's policy says.

        `operation`: REST `GET /path`, gRPC `pkg.Service/Method`, GraphQL the document, WebSocket a name, NATS the rest
        of the subject or the endpoint's name. `key` is the idempotency key that the target gets.

        Raises CallFailedError.
        """
        principal.need("command")
        self.channels.check(target, principal.tenant)
        name = _scoped(principal, key or uuid.uuid4().hex)
        return await self.channels.get(target).call(
            operation,
            payload,
            key=name,
            tenant=principal.tenant,
            timeout_seconds=timeout_seconds,
            idempotent=idempotent,
        )

    async def execute_asynchronous_call(
        self,
        target: str,
        operation: str,
        payload: Any = None,
        *,
        principal: Principal = LOCAL,
        callback_subject: str = "",
        callback_webhook: str = "",
        timeout_seconds: float = 30.0,
        idempotent: bool = False,
        call_id: str = "",
    ) -> str:
        """Have a target called; returns the call's id once that is in the log. The payload must be JSON.

        The target is called at least once, each time under the same idempotency key, unless it says no, all attempts
        fail, or the call is cancelled. The same `call_id` again is the same call.
        """
        principal.need("command")
        self.channels.check(target, principal.tenant)
        callbacks = self.configuration.callbacks
        if callback_subject and callback_webhook:
            raise RefusedError(Code.INVALID, "a result goes to a subject or to a webhook, not to both")
        if callback_webhook and not callbacks.allow(callback_webhook):
            raise RefusedError(Code.FORBIDDEN, "no webhook of the gateway's configuration allows this URL")
        if callback_subject and not callbacks.allow_subject(callback_subject):
            allowed = ", ".join(f"{one}.*" for one in callbacks.subjects)
            raise RefusedError(Code.FORBIDDEN, f"results may be published on: {allowed}")
        if isinstance(payload, bytes):
            raise RefusedError(Code.INVALID, "the payload of an asynchronous call is JSON")
        most = self.channels.get(target).target.max_request_bytes
        if (size := len(encoded(payload)[0])) > most:
            raise RefusedError(Code.TOO_LARGE, f"the payload has {size} bytes, more than {most}")
        order = calls.Order(
            target=target,
            operation=operation,
            payload=payload,
            callback=calls.Callback(subject=callback_subject, webhook=callback_webhook),
            idempotent=idempotent,
            timeout_seconds=timeout_seconds,
            tenant=principal.tenant,
            by=principal.id,
        )
        call_id = call_id or uuid.uuid4().hex
        await self._begin(self._accepted_calls, calls.KIND, _scoped(principal, call_id), calls.Accept(order))
        return call_id

    async def call(self, call_id: str, *, principal: Principal = LOCAL) -> calls.Call:
        """What is known of a call. Raises RefusedError when nothing is."""
        principal.need("query")
        found = await self._calls.state(_scoped(principal, call_id))
        if found is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no call {call_id!r}, or it was forgotten")
        return found

    async def cancel_call(self, call_id: str, *, principal: Principal = LOCAL) -> None:
        """No further attempt is made; one that is under way is dropped, and may have taken effect."""
        principal.need("command")
        await self._system().ask(calls.KIND, _scoped(principal, call_id), calls.Cancel(principal.id))

    # -- events -------------------------------------------------------------------------------------------------

    async def publish_event(
        self,
        event_type: str,
        data: Any,
        *,
        principal: Principal = LOCAL,
        correlation_id: str | None = None,
        key: str = "",
    ) -> EventPublished:
        """Publish an event on the bus, or buses, that its type's route names.

        `log`: stored in INGEST when this returns. `kafka`: then acknowledged by the broker. `realtime`: at last told to
        whoever listens on `live.<tenant>.<type>` now, at most once. The details of a RefusedError have the positions of
        what is in INGEST all the same. `key` is the idempotency key: INGEST keeps one event under it, and a record in
        Kafka has it as a header.
        """
        principal.need("publish")
        if not _TYPE.fullmatch(event_type) or len(event_type) > 200:
            raise RefusedError(Code.INVALID, f"{event_type[:80]!r} is no event type, such as `security.login.failed`")
        route = self.configuration.route(event_type)
        if route is None:
            raise RefusedError(Code.INVALID, f"no route takes events of type {event_type}")
        if principal.grant.sources and route.source not in principal.grant.sources:
            raise RefusedError(Code.FORBIDDEN, f"{principal.id} may not publish to {route.source!r}")
        event = msgspec.json.encode(Envelope(data=data, event_type=event_type, correlation_id=correlation_id))
        positions: tuple[str, ...] = ()
        place: KafkaPlace | None = None
        if "log" in route.to:
            stored = await self._publishing.publish(principal, route.source, event, "application/json", key=key)
            positions = tuple(stored.positions)
        else:
            await self._publishing.allow(principal, len(event), key)
        if "kafka" in route.to:
            named = f"{principal.tenant}:{key}" if principal.tenant and key else key
            try:
                place = await kafka.write(self._connected(), route.topic, event, tenant=principal.tenant, key=named)
            except RefusedError as error:
                error.details |= {"positions": positions} if positions else {}
                raise
        if "realtime" in route.to:
            await self._connected().send(f"live.{principal.tenant or '_'}.{event_type}", event)
        return EventPublished(route.to, positions, place)

    # -- streams ------------------------------------------------------------------------------------------------

    async def establish_stream_connection(
        self,
        target: str,
        topic: str = "",
        *,
        name: str = "",
        source: str = "gateway",
        principal: Principal = LOCAL,
    ) -> str:
        """Have a stream of a target's messages stored in INGEST as `source`, until it is closed; returns its name.

        It is connected again after every loss; each change is an event of the connection's entity.
        """
        principal.need("command")
        principal.need("publish")
        self.channels.check(target, principal.tenant)
        if not valid_source(source) or (principal.grant.sources and source not in principal.grant.sources):
            raise RefusedError(Code.FORBIDDEN, f"{principal.id} may not publish to {source[:64]!r}")
        endpoint = connections.Endpoint(
            target=target, topic=topic, source=source, tenant=principal.tenant, by=principal.id
        )
        name = name or uuid.uuid4().hex
        await self._begin(
            self._accepted_connections,
            connections.KIND,
            _scoped(principal, name),
            connections.Establish(endpoint),
        )
        return name

    async def stream_connection(self, name: str, *, principal: Principal = LOCAL) -> connections.Connection:
        """What is known of a connection. Raises RefusedError when nothing is."""
        principal.need("query")
        found = await self._connections.state(_scoped(principal, name))
        if found is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no connection {name!r}, or it was forgotten")
        return found

    async def close_stream_connection(self, name: str, *, principal: Principal = LOCAL) -> None:
        """Have it closed, for good."""
        principal.need("command")
        await self._system().ask(connections.KIND, _scoped(principal, name), connections.Close(principal.id))

    # -- status and life ----------------------------------------------------------------------------------------

    def channel_statuses(self, *, principal: Principal = LOCAL) -> list[ChannelStatus]:
        """Of all channels."""
        principal.need("query")
        principal.need_all("the table of channels")
        return self.channels.statuses

    def cells(self, bus: Bus, log: Log, pin_timeout_seconds: float = 3.0) -> list[Cell]:
        """What works off asynchronous calls and stream connections: one cell for each kind and shard."""
        kinds = [
            (
                self._accepted_calls,
                Kept(
                    entity=calls.Calls(),
                    begins=calls.Accepted,
                    interrupts=calls.Cancelled,
                    forgotten=calls.Forgotten,
                    run=self._calls.run,
                    forget=self._calls.forget,
                    keep_ended=self.configuration.calls.keep_ended,
                ),
            ),
            (
                self._accepted_connections,
                Kept(
                    entity=connections.Connections(),
                    begins=connections.Requested,
                    interrupts=connections.Closed,
                    forgotten=connections.Forgotten,
                    run=self._connections.run,
                    forget=self._connections.forget,
                    keep_ended=self.configuration.streams.keep_ended,
                ),
            ),
        ]
        found = []
        for accepted, kept in kinds:
            for shard in range(self._shards):
                work = KeeperWork(log, shard, kept)
                accepted.keepers.append(work)
                consumer = PinnedConsumer(
                    bus,
                    LOG,
                    f"{work.name}-{shard}",
                    [entity(kept.entity.kind, shard)],
                    pin_timeout_seconds=pin_timeout_seconds,
                )
                found.append(Cell(f"{work.name}.{shard}", work, Mailbox(consumer)))
        return found

    async def aclose(self) -> None:
        """Close all connections to targets; the cells must have ended."""
        await self.channels.aclose()
        await self._calls.aclose()

    def _connected(self) -> Bus:
        bus = self._bus()
        if bus is None or not bus.connected:
            raise RefusedError(Code.UNAVAILABLE, "there is no connection to NATS; try again")
        return bus

    def _system(self) -> System:
        bus = self._connected()
        return System(bus, Log(bus, self._shards))

    async def _begin(self, accepted: _Accepted, kind: str, name: str, command: Any) -> None:
        accepted.admit(name)
        try:
            await self._system().ask(kind, name, command)
        except BaseException:
            accepted.drop(name)
            raise


def _scoped(principal: Principal, name: str) -> str:
    """Names of tenants begin with theirs and a colon, which no name has."""
    if not _ID.fullmatch(name):
        raise RefusedError(Code.INVALID, f"{name[:64]!r} is no name: at most 128 letters, digits, _, - and .")
    return f"{principal.tenant}:{name}" if principal.tenant else name
