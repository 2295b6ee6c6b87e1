"""What the settings name, opened: the declarations, a connection to the log, the read models.

Invariant: each store's driver is imported only by a process that needs it: together they take a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tidegate import resources
from tidegate.bus import Bus, connect
from tidegate.config import Settings
from tidegate.errors import ConfigError
from tidegate.log import Log
from tidegate.projection import ReadModel
from tidegate.subject import Declarations, load_declarations

__all__ = ["TIERS", "batching", "declarations", "opened_log", "read_models", "rules_folder", "serving_models"]

TIERS = ("hot", "warm", "cold", "lake")


def declarations(settings: Settings) -> Declarations:
    """The stream declarations in force."""
    return load_declarations(Path(settings.subjects_path) if settings.subjects_path else resources.folder("subjects"))


@contextlib.asynccontextmanager
async def opened_log(settings: Settings) -> AsyncIterator[tuple[Bus, Log]]:
    """A connection to NATS and the log on it, for commands."""
    async with connect(
        settings.nats_url,
        name="tidegate command",
        credentials_file=settings.nats.credentials_file,
        connect_timeout_seconds=settings.nats.connect_timeout_seconds,
        request_timeout_seconds=settings.nats.request_timeout_seconds,
    ) as bus:
        yield bus, Log(bus, declarations(settings).shards)


async def serving_models(settings: Settings, log: Log, names: Sequence[str] = TIERS) -> dict[str, ReadModel]:
    """The read models called `names` in the generations that serve, not yet open."""
    return read_models(settings, names, {name: (await log.generation(name))[1].active for name in names})


def read_models(
    settings: Settings, names: Sequence[str] = TIERS, generations: Mapping[str, int] | None = None
) -> dict[str, ReadModel]:
    """The read models called `names`, not yet open, in these generations, else in the first.

    Raises ConfigError for a name that does not exist.
    """
    models: dict[str, ReadModel] = {}
    for name in names:
        generation = (generations or {}).get(name, 1)
        match name:
            case "hot":
                from tidegate.tiers.hot import HotTier

                models[name] = HotTier(settings.redis_url, settings.hot, generation=generation)
            case "warm":
                from tidegate.tiers.warm import WarmTier

                models[name] = WarmTier(
                    settings.mongodb_uri, settings.mongodb.database, settings.warm, generation=generation
                )
            case "cold":
                from tidegate.tiers.cold import ColdTier

                models[name] = ColdTier(settings.s3_endpoint, settings.s3, generation=generation)
            case "lake":
                from tidegate.tiers.lake import LakeTier

                models[name] = LakeTier(
                    settings.catalog_uri,
                    settings.s3_endpoint,
                    catalog=settings.catalog,
                    s3=settings.s3,
                    settings=settings.lake,
                    generation=generation,
                )
            case _:
                raise ConfigError("tiers", f"there is no tier {name!r}; there are: {', '.join(TIERS)}")
    return models


def batching(settings: Settings, tier: str) -> tuple[int, float]:
    """How many events a batch of this tier takes, and how long its first may wait."""
    match tier:
        case "hot":
            return settings.hot.batch_events, 0.0
        case "warm":
            return settings.warm.batch_events, 0.02
        case "cold":
            return settings.cold.object_events, settings.cold.object_seconds
        case _:
            return settings.lake.commit_rows, settings.lake.commit_seconds


def rules_folder(settings: Settings) -> Path | None:
    """Where the user's rule files are."""
    return Path(settings.intake.rules_path) if settings.intake.rules_path else None
