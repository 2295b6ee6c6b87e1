"""Events for Kafka: a request to the bridge, which answers once the broker has acknowledged the record.

Invariant: whose event it is says the gateway, by the key that its caller has; nothing in the event does.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from tidegate import frame, subject
from tidegate.bus import Bus, Outgoing
from tidegate.errors import BusUnavailableError, Code, RefusedError
from tidegate.event import KafkaPlace
from tidegate.gateway.transports.base import KEY

__all__ = ["write"]

_SECONDS = 12.0
"""More than the bridge takes for an answer, whatever its broker does."""


class _Refusal(Struct):
    code: Code
    detail: str
    retry_after_seconds: float = 0.0


async def write(bus: Bus, topic: str, event: bytes, *, tenant: str, key: str) -> KafkaPlace:
    """Have an event written. Raises RefusedError, which says so where it may be in the topic all the same."""
    headers = {name: value for name, value in ((frame.TENANT, tenant), (KEY, key)) if value}
    if len(event) > bus.max_payload:
        raise RefusedError(Code.TOO_LARGE, f"the event has {len(event)} bytes, more than NATS takes here")
    try:
        async with asyncio.timeout(_SECONDS):
            message = await (await bus.submit(Outgoing(subject.kafka(topic), event, headers)))
    except TimeoutError:
        problem = f"no answer of the Kafka bridge within {_SECONDS:g} s; the event may or may not be in {topic}"
        raise RefusedError(Code.TIMEOUT, problem) from None
    except BusUnavailableError as error:
        problem = f"{error}; the event may or may not be in {topic}"
        raise RefusedError(Code.UNAVAILABLE, problem, after=1.0) from error
    told = message.headers or {}
    if not message.data and told.get("Status") == "503":
        problem = "no Kafka bridge is there to write it: run the process `kafka`, with kafka.brokers set"
        raise RefusedError(Code.UNAVAILABLE, problem, after=1.0)
    try:
        if "Nats-Service-Error-Code" in told:
            refusal = msgspec.json.decode(message.data, type=_Refusal)
            raise RefusedError(refusal.code, refusal.detail, after=refusal.retry_after_seconds)
        return msgspec.json.decode(message.data, type=KafkaPlace)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = f"what answers on {subject.kafka(topic)} is no Kafka bridge of this version"
        raise RefusedError(Code.UNAVAILABLE, problem) from error
