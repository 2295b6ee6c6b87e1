"""What `tidegate doctor` asks of Kafka: do the settings make sense, does a broker answer, are the topics there.

Invariant: looking writes nothing and joins no group.
"""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer
from msgspec.structs import replace

from tidegate.config import Kafka
from tidegate.edges.kafka.client import check, options, quiet, started, stopped, told

__all__ = ["topics"]


async def topics(settings: Kafka, seconds: float) -> dict[str, bool]:
    """Topic -> whether it is there, for all topics of the settings.

    Raises ConfigError for settings that make no sense, and TierUnavailableError when no broker answers.
    """
    check(settings)
    quiet()
    settings = replace(settings, request_timeout_seconds=seconds)
    consumer = AIOKafkaConsumer(**options(settings))
    try:
        with told(settings, "connecting"):
            await started(settings, consumer.start)
            there = await consumer.topics()
            names = [one.topic for one in settings.inputs] + [one.topic for one in settings.outputs]
            return {name: name in there for name in names}
    finally:
        await stopped(consumer)
