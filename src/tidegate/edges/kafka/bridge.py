"""The two ways of the bridge, and the answers to requests, together: what the process `kafka` runs.

Invariant: inputs, outputs and requests do not wait for each other, nor one output for another.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.edges.kafka.answering import Answering, answering
from tidegate.edges.kafka.client import check, quiet
from tidegate.edges.kafka.producing import Producing
from tidegate.edges.kafka.reading import Inputs
from tidegate.edges.kafka.registry import Registry
from tidegate.edges.kafka.writing import OutputWork, kind_of
from tidegate.log import Log
from tidegate.subject import Declarations

__all__ = ["Bridge", "bridged"]


class Bridge:
    """Made by `bridged`."""

    def __init__(
        self,
        settings: Settings,
        declared: Declarations,
        bus: Bus,
        producing: Producing,
        registry: Registry | None,
        answering: Answering,
    ) -> None:
        kafka = settings.kafka
        self._answering = answering
        self.inputs = Inputs(kafka, bus, declared.partitions, registry) if kafka.inputs else None
        self.cells: list[Cell] = []
        self._works: list[OutputWork] = []
        log = Log(bus, declared.shards)
        for output in kafka.outputs:
            for shard in range(declared.shards):
                consumer = PinnedConsumer(
                    bus,
                    subject.LOG,
                    subject.consumer(kind_of(output), shard),
                    [subject.event(shard)],
                    pin_timeout_seconds=settings.intake.pin_timeout_seconds,
                )
                work = OutputWork(kafka, output, log, shard, producing, registry)
                self._works.append(work)
                self.cells.append(Cell(f"{kind_of(output)}.{shard}", work, Mailbox(consumer)))

    def sections(self) -> dict[str, list[dict[str, Any]]]:
        """Title -> rows, for `tidegate status`."""
        found: dict[str, list[dict[str, Any]]] = {}
        if self.inputs is not None:
            found["kafka in"] = self.inputs.rows()
        rows = [
            work.row(cell.status.pending, cell.status.problem)
            for work, cell in zip(self._works, self.cells, strict=True)
            if cell.status.state not in ("starting", "standby")
        ]
        if self._works:
            found["kafka out"] = rows
        found["kafka requests"] = [self._answering.row()]
        return found


@contextlib.asynccontextmanager
async def bridged(settings: Settings, declared: Declarations, bus: Bus) -> AsyncIterator[Bridge]:
    """A bridge; its inputs and cells are for the caller to run. Raises ConfigError for settings that make no sense."""
    check(settings.kafka)
    quiet()
    producing = Producing(settings.kafka)
    registry = Registry(settings.kafka.registry) if settings.kafka.registry else None
    try:
        async with answering(settings.kafka, bus, registry) as requests:
            yield Bridge(settings, declared, bus, producing, registry, requests)
    finally:
        await producing.aclose()
