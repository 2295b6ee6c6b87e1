"""What the commands around pipelines work on: rules, and raw records from a file, standard input, or the log."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError

if TYPE_CHECKING:
    from tidegate.lifecycle import Lifecycle
    from tidegate.pipeline.library import Library
    from tidegate.pipeline.runner import Pipeline, RawFrame

__all__ = ["From", "Given", "Json", "Rules", "frames_of", "lifecycle_of", "loaded", "rules_of", "runner_of"]

Given = Annotated[Settings, Parameter(parse=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Rules = Annotated[Path | None, Parameter(name="--rules")]
From = Annotated[str, Parameter(name="--from")]

_FRAME = 1000


async def loaded(rules: Path | None, settings: Settings) -> tuple[Library, Pipeline]:
    """The rules in a folder, with their tables."""
    from tidegate.pipeline.library import load_with_tables

    return await load_with_tables(1, rules, (settings.mongodb_uri, settings.mongodb.database))


async def runner_of(rules: Path | None, settings: Settings) -> Pipeline:
    return (await loaded(rules, settings))[1]


async def lifecycle_of(settings: Settings) -> Lifecycle:
    """What the settings' folder has, started."""
    from tidegate.app import rules_folder
    from tidegate.lifecycle import Lifecycle

    found = Lifecycle(1, rules_folder(settings), (settings.mongodb_uri, settings.mongodb.database))
    await found.start()
    return found


def rules_of(rules: Path | None, settings: Settings) -> Path | None:
    from tidegate.app import rules_folder

    return rules or rules_folder(settings)


async def frames_of(path: str, source: str, limit: int, settings: Settings) -> AsyncIterator[RawFrame]:
    """Raw records as frames of up to 1,000, at most `limit` in all; a file is JSON or text by its first line."""
    from tidegate.pipeline.runner import RawFrame

    if path == "log":
        async for frame in _frames_of_log(source, limit, settings):
            yield frame
        return
    if not source:
        raise QueryError("say where the records come from: --source NAME")
    now = int(time.time() * 1000)
    lines = await asyncio.to_thread(_lines, path, limit)
    codec: Literal["json", "text"] = "json" if not lines or lines[0].startswith((b"{", b"[")) else "text"
    for start in range(0, len(lines), _FRAME):
        records = lines[start : start + _FRAME]
        yield RawFrame(source=source, codec=codec, records=records, received_ms=now, origin=f"{path}/{start}")


def _lines(path: str, limit: int) -> list[bytes]:
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as stream:
        return list(islice((line.strip() for line in stream if not line.isspace()), limit))


async def _frames_of_log(source: str, limit: int, settings: Settings) -> AsyncIterator[RawFrame]:
    from tidegate.app import opened_log
    from tidegate.sample import newest

    async with (
        opened_log(settings) as (bus, _),
        contextlib.aclosing(newest(bus, source, limit, settings.ingest.max_inflated_bytes)) as frames,
    ):
        async for one in frames:
            yield one
