"""From a folder of rule files to a Pipeline: the shipped sources, the user's own, and the pipelines.

Invariant: what is loaded is compiled as a whole or refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from pathlib import Path

from msgspec import Struct

from tidegate import tomlfile
from tidegate.entities.window_definition import WindowDefinition
from tidegate.errors import ConfigError, RuleError
from tidegate.pipeline.compiler import Compiled, KnownSource, compile_source
from tidegate.pipeline.definition import Aggregate, Definition, load_definition
from tidegate.pipeline.enrichment.library import Library as Tables
from tidegate.pipeline.enrichment.settings import Enrichment
from tidegate.pipeline.flow import Flow
from tidegate.pipeline.passthrough import PassThrough
from tidegate.pipeline.rules import Source, load_source
from tidegate.pipeline.runner import Pipeline

__all__ = ["Library", "aggregates", "load_library", "load_pipeline", "load_with_tables"]


NO_MONGODB = ("", "")


class _EnrichmentFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enrichment: Enrichment


class Library:
    """Checked rules: sources by name (with the file of each), pipelines by name, and tables for enrichment."""

    def __init__(self, mongodb: tuple[str, str] = NO_MONGODB) -> None:
        """`mongodb`: URI and database, for tables that are collections."""
        self.mongodb = mongodb
        self.sources: dict[str, tuple[Source, Path]] = {}
        self.pipelines: dict[str, Definition] = {}
        self.tables: Tables | None = None
        """To be loaded before the pipelines run: `await tables.load()`."""
        self.shipped: Path | None = None
        """The folder whose sources were compiled by tests, and need not be to find out whether they are right."""

    def copy(self) -> Library:
        """The same rules, to be changed; tables are shared."""
        found = Library(self.mongodb)
        found.sources, found.pipelines = dict(self.sources), dict(self.pipelines)
        found.tables, found.shipped = self.tables, self.shipped
        return found

    def add(self, path: Path) -> None:
        """Reads a rule file: a pipeline if it has the key `pipeline`, tables if it has `enrichment`, else a source.

        A key file of anonymisation is left to the pipelines that name it. Raises RuleError.
        """
        try:
            document = tomlfile.parse(path.read_text(encoding="utf-8"), str(path))
        except ConfigError as error:
            raise RuleError(error.where, error.problem) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RuleError(str(path), f"cannot be read: {error}") from error
        if "enrichment" in document:
            if self.tables is not None:
                raise RuleError(str(path), "a second file with [enrichment]; put all tables into one")
            try:
                settings = tomlfile.load(path, _EnrichmentFile).enrichment
                self.tables = Tables(settings, path.parent, *self.mongodb)
            except ConfigError as error:
                raise RuleError(error.where, error.problem) from error
        elif "pipeline" in document:
            definition = load_definition(path)
            self.pipelines[definition.name] = definition
        elif document.keys() != {"key"}:
            source = load_source(path)
            self.sources[source.source] = source, path

    def compile(self, shards: int) -> Pipeline:
        """Raises RuleError for rules that cannot be compiled."""
        flows: dict[str, Flow] = {}
        names = {alias: source.source for source, _ in self.sources.values() for alias in source.aliases}
        for definition in self.pipelines.values():
            flow = Flow(definition, self.tables)
            for index, wanted in enumerate(definition.file.sources):
                name = names.get(wanted, wanted)
                if name in flows:
                    other = flows[name].name
                    raise definition.fail(["sources", index], f'"{wanted}" already takes the pipeline "{other}"')
                flows[name] = flow
        makers: dict[str, Callable[[], KnownSource]] = {}
        for source, path in self.sources.values():
            flow_of = flows.get(source.source) or flows.get("*")
            given = (flow_of.touched, flow_of.stamp) if flow_of else ()
            make: Callable[[], Compiled] = partial(compile_source, source, path, *given)
            if path.parent != self.shipped:
                make = partial(_same, make())
            makers |= dict.fromkeys((source.source, *source.aliases), make)
        makers.setdefault(PassThrough.name, PassThrough)
        return Pipeline(makers, shards, flows)


def _same(made: Compiled) -> Compiled:
    return made


def load_library(rules_path: Path | None = None, mongodb: tuple[str, str] = NO_MONGODB) -> Library:
    """The shipped sources, and what the folder `rules_path` holds, which wins where a name is the same.

    Raises RuleError with file and line for a rule that is wrong.
    """
    library = Library(mongodb)
    shipped = resources.files("tidegate.pipeline") / "sources"
    with resources.as_file(shipped) as folder:
        library.shipped = folder
        _add_all(library, folder.glob("*.toml"))
    if rules_path is not None:
        if not rules_path.is_dir():
            raise ConfigError(str(rules_path), "is not a folder with rule files")
        _add_all(library, rules_path.glob("*.toml"))
    return library


def _add_all(library: Library, paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        library.add(path)


def load_pipeline(shards: int, rules_path: Path | None = None) -> Pipeline:
    """`load_library`, compiled, for rules that look nothing up."""
    return load_library(rules_path).compile(shards)


async def load_with_tables(
    shards: int, rules_path: Path | None = None, mongodb: tuple[str, str] = NO_MONGODB
) -> tuple[Library, Pipeline]:
    """`load_library`, compiled, with its tables loaded. Raises RuleError and TableError."""
    library = load_library(rules_path, mongodb)
    pipeline = library.compile(shards)
    if library.tables is not None:
        await library.tables.load()
    return library, pipeline


def aggregates(rules_path: Path | None) -> list[WindowDefinition]:
    """The windows of all `aggregate` stages. Raises RuleError."""
    pipelines = load_library(rules_path).pipelines.values()
    return [stage.window for one in pipelines for stage in one.file.stage if isinstance(stage, Aggregate)]
