"""The rules that are in use, while they change: by edited files and by commands, without a restart.

Invariant: `rules()` is always a whole set of rules that compiled; a broken new one never replaces it. Which version of
a pipeline is in use follows from the log, so that all processes come to use the same one.

A file whose content is new defines a version and activates it. A version that was defined before is in use only if the
log says so: going back by command outlives a restart, though the file still has the newer text.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from msgspec import Struct

from tidegate import subject, telemetry
from tidegate.actor.entity import Codec
from tidegate.actor.system import System
from tidegate.bus import Bus
from tidegate.entities.pipeline import KIND, Define, PipelineHistory, Pipelines
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError, ConfigError, TidegateError
from tidegate.log import Log, lines_of
from tidegate.pipeline.definition import Definition, parse_definition
from tidegate.pipeline.library import Library, load_library
from tidegate.pipeline.runner import Pipeline

__all__ = ["Lifecycle", "Problem", "histories"]

CHECKED_SECONDS = 2.0
_ASK_SECONDS = 2.0
"""A definition that nobody has answered by then is in the log once the process `entities` is up."""


class Problem(Struct, frozen=True):
    """Why the newest rules are not in use."""

    problem: str
    at_ms: int


async def histories(bus: Bus, log: Log) -> dict[str, PipelineHistory]:
    """What the log knows of all pipelines, by name; needs no process but NATS."""
    kind = Pipelines()
    codec = Codec(kind)
    found: dict[str, PipelineHistory] = {}
    async with contextlib.aclosing(log.read(subject.entity(KIND, "*"))) as messages:
        async for message in messages:
            for line in lines_of(message):
                change = codec.change(line)
                found[change.id] = codec.fold(change.id, found.get(change.id), change.events)
    return found


class Lifecycle:
    """Loads the rules, and keeps them as the folder and the log have them."""

    def __init__(self, shards: int, folder: Path | None, mongodb: tuple[str, str]) -> None:
        self._shards = shards
        self._folder = folder
        self._mongodb = mongodb
        self._base = Library(mongodb)
        """What the folder had when it was right last."""
        self._known: dict[str, PipelineHistory] = {}
        self._used: object = None
        self._seen: object = None
        self._end = -1
        self._rules: Pipeline | None = None
        self.problem: Problem | None = None

    def rules(self) -> Pipeline:
        """The rules in use."""
        assert self._rules is not None, "not started"
        return self._rules

    def history(self, name: str) -> PipelineHistory | None:
        """What is known of a pipeline."""
        return self._known.get(name)

    def histories(self) -> dict[str, PipelineHistory]:
        """What is known of each pipeline, by name."""
        return self._known

    def library(self) -> Library:
        """The rules of the folder, with the versions of pipelines that the log has in use as far as it was read."""
        return self._with_known()

    def trial(self, definition: Definition | None = None) -> Pipeline:
        """The rules in use compiled once more, with `definition` in the place of the pipeline of its name.

        Raises RuleError for one that does not work. Takes some hundred milliseconds.
        """
        library = self._with_known()
        if definition is not None:
            library.pipelines[definition.name] = definition
        return library.compile(1)

    async def start(self) -> None:
        """Loads what the folder has. Raises RuleError and TableError: what is broken at the start must be seen."""
        self._used = self._seen = await asyncio.to_thread(_look, self._folder)
        self._base = await self._read()
        self._rules = await asyncio.to_thread(self._base.compile, self._shards)

    async def _read(self) -> Library:
        """The folder as it is now, checked, with its tables."""
        library = await asyncio.to_thread(load_library, self._folder, self._mongodb)
        await asyncio.to_thread(library.compile, 1)
        before = self._base.tables
        if library.tables is not None and before is not None and library.tables.settings == before.settings:
            library.tables = before  # Loading millions of indicators again would take seconds.
        elif library.tables is not None:
            await library.tables.load()
        return library

    def _with_known(self) -> Library:
        """The rules of the folder, with the versions of pipelines that the log has in use."""
        library = self._base.copy()
        for name, history in self._known.items():
            file = library.pipelines.get(name)
            active = history.find(history.active)
            if active is not None and (file is None or history.find(file.version) is not None):
                library.pipelines[name] = parse_definition(active.text, f"pipeline {name} version {active.version}")
        return library

    async def look(self, bus: Bus, log: Log) -> None:
        """After `start`, for `library`: reads which versions of pipelines the log has in use."""
        self._known = await histories(bus, log)

    async def follow(self, bus: Bus, log: Log) -> None:
        """Until cancelled: looks at the folder, the tables and the log every few seconds."""
        system = System(bus, log)
        problems: dict[str, object] = {}
        while True:
            try:
                await self._look_again(system, bus, log)
            except (BusError, BusUnavailableError):
                pass  # The rules in use go on; the cells say that NATS is away.
            except ConfigError as error:
                self._refuse(error)
            await self._refresh_tables(problems)
            await asyncio.sleep(CHECKED_SECONDS)

    async def _look_again(self, system: System, bus: Bus, log: Log) -> None:
        seen = await asyncio.to_thread(_look, self._folder)
        settled, self._seen = seen == self._seen, seen
        changed = settled and seen != self._used
        if changed:
            self._used = seen
            # Compiled before it is defined: nothing gets into the log that does not work.
            self._base = await self._read()
            self.problem = None
        if changed or self._end < 0:
            await self._define(system)
        end = await self._last_change(bus)
        if changed or end != self._end:
            self._known = await histories(bus, log)
            self._end = end
            library = self._with_known()
            self._rules = await asyncio.to_thread(library.compile, self._shards)
            for name, definition in library.pipelines.items():
                telemetry.emit(telemetry.PipelineInUse(pipeline=name, version=definition.version))

    async def _define(self, system: System) -> None:
        for name, definition in self._base.pipelines.items():
            history = self._known.get(name)
            if history is None or history.find(definition.version) is None:
                with contextlib.suppress(BusUnavailableError, CommandRefusedError):
                    await system.ask(
                        KIND,
                        name,
                        Define(definition.text, origin=Path(definition.path).name, activate=True),
                        command_id=f"{name}-{definition.version}",
                        timeout_seconds=_ASK_SECONDS,
                    )

    async def _last_change(self, bus: Bus) -> int:
        """The sequence of the newest change of any pipeline."""
        found = 0
        for shard in range(self._shards):
            message = await bus.last_message(subject.LOG, subject.entity(KIND, shard))
            found = max(found, message.sequence if message else 0)
        return found

    def _refuse(self, error: TidegateError) -> None:
        if self.problem is None or self.problem.problem != str(error):
            self.problem = Problem(str(error), int(time.time() * 1000))
            telemetry.emit(telemetry.RulesRefused(error=str(error)))

    async def _refresh_tables(self, problems: dict[str, object]) -> None:
        tables = self._base.tables
        if tables is None:
            return
        replaced = await tables.check()
        for one in tables.statistics():
            if one.name in replaced:
                telemetry.emit(telemetry.TablesReplaced(table=one.name, entries=one.entries))
            if one.problem is not None and one.problem != problems.get(one.name):
                error = f"{one.problem.where}: {one.problem.problem}"
                telemetry.emit(telemetry.TableRefused(table=one.name, error=error))
            problems[one.name] = one.problem


def _look(folder: Path | None) -> object:
    """What tells whether a rule file was changed, added or removed."""
    if folder is None:
        return None
    found = []
    for path in sorted(folder.glob("*.toml")):
        with contextlib.suppress(OSError):
            about = path.stat()
            found.append((path.name, about.st_size, about.st_mtime_ns, about.st_ino))
    return found
