"""Runs one of the processes, by name."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence

import anyio

from tidegate import telemetry
from tidegate.app.opening import TIERS
from tidegate.app.process import Process, until_signalled
from tidegate.config import Settings

__all__ = ["collect_rarely", "run"]


async def run(name: str, settings: Settings, tiers: Sequence[str] = TIERS) -> None:
    """Run the process `name` until SIGTERM or SIGINT. `tiers` limits what a storage-manager keeps.

    Raises ConfigError.
    """
    if name == "kafka" and not settings.kafka.brokers:
        # A line of the Procfile that ended would end all the others.
        async with anyio.create_task_group() as group:
            group.start_soon(until_signalled, group.cancel_scope, lambda: None)
            await asyncio.sleep(0)
            print("kafka.brokers (KAFKA_BROKERS) is not set: there is nothing to bridge", flush=True)  # noqa: T201
        return
    process = _made(name, settings, tiers)
    if process.niceness:
        os.nice(process.niceness)
    collect_rarely()
    with telemetry.setup(
        name,
        log_level=settings.telemetry.log_level,
        log_format=settings.telemetry.log_format,
        spans_path=settings.spans_path,
    ):
        try:
            await process.run()
        finally:
            telemetry.emit(telemetry.ProcessStopped(name=name))


def _made(name: str, settings: Settings, tiers: Sequence[str]) -> Process:
    # Each imports what it alone needs.
    match name:
        case "event-streaming":
            from tidegate.app.event_streaming import EventStreaming

            return EventStreaming(settings)
        case "transformation-pipeline":
            from tidegate.app.transformation_pipeline import TransformationPipeline

            return TransformationPipeline(settings)
        case "gateway":
            from tidegate.app.gateway import CommunicationGateway

            return CommunicationGateway(settings)
        case "entities":
            from tidegate.app.entities import EntityHost

            return EntityHost(settings)
        case "storage-manager":
            from tidegate.app.storage_manager import StorageManager

            return StorageManager(settings, tiers)
        case _:
            from tidegate.app.kafka import KafkaBridge

            return KafkaBridge(settings)


def collect_rarely() -> None:
    """Batches are lists of many small objects without cycles: collecting rarely takes a tenth off handling them."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
