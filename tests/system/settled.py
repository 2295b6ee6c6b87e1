"""Waiting until what was published has gone all the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.system.harness import until
from tests.system.load import Load
from tidegate import subject
from tidegate.actor.host import EntityProgress
from tidegate.bus import Bus
from tidegate.entities import effects
from tidegate.history import cells_of
from tidegate.log import Log
from tidegate.projection import ReadModel
from tidegate.subject import Declarations

__all__ = ["caught_up", "entities_caught_up", "in_log"]


async def in_log(bus: Bus, declared: Declarations, load: Load, timeout_seconds: float = 60) -> None:
    """Returns when everything that was acknowledged has been through the intake."""
    log = Log(bus, declared.shards)

    async def done() -> bool:
        for partition, sequence in load.last.items():
            _, progress = await log.progress("intake", partition)
            if progress is None or progress.sequence < sequence:
                return False
        return True

    await until(done, timeout_seconds, "the intake has taken in all that was acknowledged")


async def caught_up(models: Iterable[ReadModel], log: Log, timeout_seconds: float = 60) -> None:
    """Returns when every cell of every read model has reached the log's end."""
    ends = await log.last_event_sequences()
    for model in models:
        await model.open()
        for cell in cells_of(model, log.shards):
            end = max(ends.values()) if cell == "all" else ends[int(cell)]

            async def there(model: ReadModel = model, cell: str = cell, end: int = end) -> bool:
                position = await model.position(cell)
                return position is not None and position.sequence >= end

            await until(there, timeout_seconds, f"{model.name}.{cell} has reached {end}")


async def entities_caught_up(bus: Bus, log: Log, timeout_seconds: float = 60) -> None:
    """Returns when events are correlated, escalations have become alerts, and alerts have had their effects."""
    shape: Any
    for kind, shape, followed in (
        ("correlation", EntityProgress, "event"),
        ("alert", EntityProgress, "correlation"),
        (effects.KIND, effects.EffectProgress, "alert"),
    ):
        for shard in range(log.shards):
            last = await bus.last_message(subject.LOG, subject.entity(followed, shard))
            end = last.sequence if last else 0

            async def there(kind: str = kind, shape: Any = shape, shard: int = shard, end: int = end) -> bool:
                _, progress = await log.newest(kind, shard, shape)
                positions = getattr(progress, "positions", {})
                return int(positions.get(subject.LOG, getattr(progress, "sequence", 0))) >= end

            await until(there, timeout_seconds, f"{kind}.{shard} has reached {end}")
