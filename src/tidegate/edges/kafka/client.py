"""Connecting to Kafka, and what its errors mean to people.

Invariant: whatever goes wrong with a broker leaves here as TierUnavailableError, which every loop answers by waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from tidegate.config import Kafka
from tidegate.entities.selection import EventFilter, selecting
from tidegate.errors import ConfigError, TierUnavailableError

__all__ = [
    "KAFKA",
    "MissingTopicError",
    "TooLargeError",
    "check",
    "missing",
    "options",
    "quiet",
    "started",
    "stopped",
    "told",
]

KAFKA = "kafka"
_STOP_SECONDS = 3.0
_REFUSED = (KeyError, ValueError, AssertionError)
"""Seen with aiokafka 0.14: what its SASL raises for answers it does not expect, such as SCRAM's `e=unknown-user`."""
_AWAY = (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError, OSError, TimeoutError)


class MissingTopicError(TierUnavailableError):
    """There is no such topic, or not that partition of it."""


class TooLargeError(TierUnavailableError):
    """A batch has more bytes than the topic takes; nothing of it is stored."""


def check(settings: Kafka) -> None:
    """Raises ConfigError for settings that cannot work together."""
    if not settings.brokers:
        raise ConfigError("kafka.brokers", "is not set: name them as host:port, several with commas between")
    for broker in settings.brokers.split(","):
        host, colon, port = broker.strip().rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError("kafka.brokers", f"{broker!r} is not host:port")
    read, written = [one.topic for one in settings.inputs], [one.topic for one in settings.outputs]
    keys = [one.key for one in settings.outputs]
    for what, names in (("inputs", read), ("outputs", written), ("outputs", keys)):
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"kafka.{what}", f"{min(twice)!r} is there twice")
    if both := set(read) & set(written):
        raise ConfigError("kafka.outputs", f"{min(both)!r} is an input too: its events would go round for ever")
    if settings.protocol.startswith("SASL") and (settings.username is None or settings.password is None):
        raise ConfigError("kafka.username", f"and kafka.password are needed for the protocol {settings.protocol}")
    for one in settings.outputs:
        selecting(one.types, EventFilter())
    _tls(settings)


def _tls(settings: Kafka) -> ssl.SSLContext | None:
    if not settings.protocol.endswith("SSL"):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError("kafka.ca_file", f"{settings.ca_file} cannot be used: {error}") from error


def options(settings: Kafka) -> dict[str, Any]:
    """What every client of aiokafka takes."""
    return {
        "bootstrap_servers": [one.strip() for one in (settings.brokers or "").split(",")],
        "client_id": "tidegate",
        "request_timeout_ms": int(settings.request_timeout_seconds * 1000),
        "metadata_max_age_ms": 30_000,
        "security_protocol": settings.protocol,
        "ssl_context": _tls(settings),
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password,
    }


def missing(topic: str) -> MissingTopicError:
    return MissingTopicError(KAFKA, f"there is no topic {topic!r}; create it, or correct the settings")


def quiet() -> None:
    """aiokafka logs each attempt, many a second while a broker is away; what matters is told by the bridge itself."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def stopped(client: Any) -> None:
    """Stop a client of aiokafka, within seconds.

    Seen with 0.14: when a broker is away, `stop` may raise the CancelledError of a task of its own, or not return.
    """
    task = asyncio.ensure_future(client.stop() if hasattr(client, "stop") else client.close())
    with anyio.move_on_after(_STOP_SECONDS, shield=True):
        await asyncio.wait([task])
    if not task.done():
        task.cancel()
    elif not task.cancelled():
        task.exception()  # seen


async def started(settings: Kafka, start: Callable[[], Awaitable[Any]]) -> None:
    """Begin with a client of aiokafka. Raises TierUnavailableError with the reason, which aiokafka itself only logs."""
    try:
        await start()
    except (KafkaConnectionError, *_REFUSED) as error:
        raise TierUnavailableError(KAFKA, await _reason(settings)) from error


async def _reason(settings: Kafka) -> str:
    """Why there is no connection: that of the first broker which says one."""
    given = {name: value for name, value in options(settings).items() if name != "metadata_max_age_ms"}
    found = f"no broker answers at {settings.brokers}"
    for broker in given.pop("bootstrap_servers"):
        host, _, port = broker.rpartition(":")
        connection = None
        try:
            connection = await create_conn(host, int(port), **given)
            await connection.send(MetadataRequest([]))
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of {broker} is not trusted: {error.verify_message}; kafka.ca_file names whose are"
        except ssl.SSLError as error:
            return f"no TLS with {broker}: {error.reason}; see kafka.protocol"
        except UnsupportedSaslMechanismError:
            return f"{broker} does not take {settings.sasl_mechanism}; see kafka.sasl_mechanism"
        except (SaslAuthenticationFailed, *_REFUSED):
            return f"{broker} refuses the user {settings.username!r}; correct kafka.username or kafka.password"
        except KafkaConnectionError:
            found = f"{broker} closes the connection; see kafka.protocol, which is {settings.protocol}"
        except (KafkaError, OSError, TimeoutError) as error:
            found = f"no broker answers at {settings.brokers} ({str(error) or type(error).__name__})"[:300]
        finally:
            if connection is not None:
                connection.close()
    return found


@contextlib.contextmanager
def told(settings: Kafka, what: str) -> Iterator[None]:
    """Raises TierUnavailableError for the errors of Kafka."""
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise MissingTopicError(KAFKA, f"{what}: the topic, or this partition of it, is not there") from error
    except TopicAuthorizationFailedError as error:
        raise TierUnavailableError(KAFKA, f"{what}: this user may not do that; give it the right") from error
    except MessageSizeTooLargeError as error:
        problem = f"{what}: an event is larger than the topic takes; raise its max.message.bytes"
        raise TooLargeError(KAFKA, problem) from error
    except IllegalGenerationError as error:
        raise TierUnavailableError(KAFKA, f"{what}: the group has been shared out anew meanwhile") from error
    except KeyError as error:
        if error.args[0] not in ("r", "s", "i", "v"):
            raise
        raise TierUnavailableError(KAFKA, f"{what}: the user {settings.username!r} is refused") from error
    except _AWAY as error:
        problem = f"{what}: no broker answers at {settings.brokers} ({type(error).__name__})"
        raise TierUnavailableError(KAFKA, problem) from error
    except KafkaError as error:
        if type(error) is KafkaError:  # so aiokafka says that it has asked all brokers in vain
            raise TierUnavailableError(KAFKA, f"{what}: no broker answers at {settings.brokers}") from error
        raise TierUnavailableError(KAFKA, f"{what}: {type(error).__name__}: {error}"[:300]) from error
