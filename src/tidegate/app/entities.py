"""The process `entities`: hosts every kind of entity, and tells what has to be told once."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tidegate import subject
from tidegate.actor.cell import Cell
from tidegate.actor.entity import Entity
from tidegate.actor.generations import GenerationWork
from tidegate.actor.mailbox import Mailbox
from tidegate.actor.ownership import PinnedConsumer
from tidegate.actor.pulling import PullConsumer
from tidegate.actor.system import forwarding
from tidegate.app.opening import rules_folder
from tidegate.app.process import Process, Rows, Task
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.errors import ConfigError
from tidegate.log import Log

if TYPE_CHECKING:
    from tidegate.entities.alert import Raised

__all__ = ["EntityHost", "entity_inputs", "entity_kinds"]


def entity_kinds(settings: Settings) -> list[Entity[Any, Any, Any]]:
    """The kinds of entities that the process `entities` hosts. Raises ConfigError for a window that makes no sense."""
    from tidegate.entities.access_key import AccessKeys
    from tidegate.entities.alert import Alerts
    from tidegate.entities.budget import Budgets
    from tidegate.entities.call import Calls
    from tidegate.entities.connection import Connections
    from tidegate.entities.correlation import Correlations
    from tidegate.entities.pipeline import Pipelines
    from tidegate.entities.subscription import Subscriptions
    from tidegate.entities.window import Windows
    from tidegate.entities.window_definition import WindowDefinition
    from tidegate.pipeline.library import aggregates

    windows = []
    for number, one in enumerate(settings.windows):
        try:
            windows.append(msgspec.convert(one, WindowDefinition))
        except msgspec.ValidationError as error:
            raise ConfigError(f"windows[{number}]", str(error)) from error
    windows += aggregates(rules_folder(settings))
    return [
        Correlations(settings.correlation),
        Alerts(),
        Windows(windows),
        Pipelines(),
        Subscriptions(),
        Budgets(),
        AccessKeys(),
        Calls(),
        Connections(),
    ]


def entity_inputs(
    bus: Bus, entity: Entity[Any, Any, Any], shard: int, pin_timeout_seconds: float, name: str = ""
) -> Mailbox:
    """Commands first, then the log as far as the kind follows it; `name` is for the consumers, if not the kind's."""
    commands = subject.command(entity.kind, shard)
    name = subject.consumer(name or entity.kind, shard)
    pinned = PinnedConsumer(
        bus, subject.COMMAND, name, [commands], pin_timeout_seconds=pin_timeout_seconds, nudge=commands
    )
    if not (followed := subject.followed(entity.follows, "*" if entity.all_shards else shard)):
        return Mailbox(pinned)
    return Mailbox(pinned, PullConsumer(bus, subject.LOG, name, followed, beat_seconds=pin_timeout_seconds / 3))


class EntityHost(Process):
    """A cell for each kind and shard, in the generation that serves."""

    name = "entities"

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """The cells of all kinds."""
        kinds = entity_kinds(self.settings)
        self._add_effects(bus, log)
        await stack.enter_async_context(forwarding(bus, {one.kind for one in kinds}, self.declared.shards))
        return [partial(self.keep, log, one.kind, partial(self._entities, bus, log, one)) for one in kinds]

    def _entities(self, bus: Bus, log: Log, entity: Entity[Any, Any, Any], generation: int) -> list[Cell]:
        name = subject.generation_of(entity.kind, generation)
        cells = []
        for shard in range(self.declared.shards):
            work = GenerationWork(bus, log, entity, shard, generation)
            inputs = entity_inputs(bus, entity, shard, self.settings.intake.pin_timeout_seconds, name)
            cells.append(Cell(f"{name}.{shard}", work, inputs))
        return cells

    def _add_effects(self, bus: Bus, log: Log) -> None:
        """Each new alert is told once, at most, on `alert.raised`, to whoever listens."""
        from tidegate.entities.effects import KIND, EffectWork

        async def tell(alert_id: str, raised: Raised) -> None:
            told = {"id": alert_id, **msgspec.to_builtins(raised)}
            await bus.send(subject.ALERT_RAISED, msgspec.json.encode(told))

        for shard in range(self.declared.shards):
            inputs = self.mailbox(bus, subject.LOG, f"{KIND}-{shard}", [subject.entity("alert", shard)])
            self.cells.append(Cell(f"{KIND}.{shard}", EffectWork(log, shard, tell), inputs))

    async def rows(self, bus: Bus, log: Log) -> dict[str, Rows]:
        """The subscriptions."""
        from tidegate.subscriptions.manager import SubscriptionManager

        rows = await SubscriptionManager(bus, log, timeout_seconds=2.0).rows()
        return {"subscriptions": rows} if rows else {}
