"""The process `transformation-pipeline`: from INGEST through the pipelines into LOG, and on to subjects."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.actor.system import System
from tidegate.app.opening import rules_folder
from tidegate.app.process import Process, Task
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.forwarder import KIND as FORWARD
from tidegate.forwarder import ForwardWork
from tidegate.intake import KIND as INTAKE
from tidegate.intake import IntakeWork
from tidegate.lifecycle import Lifecycle
from tidegate.log import Log
from tidegate.optimising import keep_watch

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

__all__ = ["TransformationPipeline"]


class TransformationPipeline(Process):
    """An intake cell for each partition, one that forwards for each shard, and the pipelines' lives."""

    name = "transformation-pipeline"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where settings make no sense."""
        super().__init__(settings)
        self.lifecycle: Lifecycle | None = None
        """Once the rules are compiled."""

    def routes(self) -> list[ControllerRouterHandler]:
        """Pipelines."""
        from tidegate.edges import rest_pipelines

        return rest_pipelines.routes(
            lambda: self.lifecycle, lambda: self.system, lambda: self.bus, self.settings.ingest.max_inflated_bytes
        )

    def micro_services(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """Pipelines."""
        from tidegate.edges import micro_services as offer

        return offer.offered(bus, self.service, pipelines=offer.pipelines(self.service, lambda: self.lifecycle))

    async def prepare(self) -> None:
        """Compile the rules: a broken one must end the process at once, not after NATS has come up."""
        place = self.settings.mongodb_uri, self.settings.mongodb.database
        lifecycle = Lifecycle(self.declared.shards, rules_folder(self.settings), place)
        await lifecycle.start()
        self.lifecycle = lifecycle

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """The cells of all partitions and shards."""
        assert self.lifecycle is not None
        for partition in range(self.declared.partitions):
            inputs = self.mailbox(bus, subject.INGEST, f"{INTAKE}-{partition}", [f"ingest.*.{partition}"])
            work = IntakeWork(bus, log, self.lifecycle.rules, partition, self.settings)
            self.cells.append(Cell(f"{INTAKE}.{partition}", work, inputs))
        for shard in range(self.declared.shards):
            inputs = self.mailbox(bus, subject.LOG, f"{FORWARD}-{shard}", [subject.event(shard)], headers_only=True)
            self.cells.append(Cell(f"{FORWARD}.{shard}", ForwardWork(bus, log, shard), inputs))
        watch = partial(keep_watch, bus, System(bus, log), self.lifecycle, self.settings.ingest.max_inflated_bytes)
        return [partial(self.lifecycle.follow, bus, log), watch]
