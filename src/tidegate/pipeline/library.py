"""From a folder of rule files to a Pipeline: the shipped sources, the user's own, and the pipelines.

Invariant: what is loaded is compiled as a whole or refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from pathlib import Path

from tidegate import tomlfile
from tidegate.errors import ConfigError, RuleError
from tidegate.pipeline.compiler import Compiled, compile_source
from tidegate.pipeline.definition import Definition, load_definition
from tidegate.pipeline.flow import Flow
from tidegate.pipeline.rules import Source, load_source
from tidegate.pipeline.runner import Pipeline

__all__ = ["Library", "load_library", "load_pipeline"]


class Library:
    """Checked rules: sources by name (with the file of each), and pipelines by name."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[Source, Path]] = {}
        self.pipelines: dict[str, Definition] = {}
        self.shipped: Path | None = None
        """The folder whose sources were compiled by tests, and need not be to find out whether they are right."""

    def add(self, path: Path) -> None:
        """Reads a rule file: a pipeline if it has the key `pipeline`, else a source. Raises RuleError."""
        try:
            document = tomlfile.parse(path.read_text(encoding="utf-8"), str(path))
        except ConfigError as error:
            raise RuleError(error.where, error.problem) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RuleError(str(path), f"cannot be read: {error}") from error
        if "pipeline" in document:
            definition = load_definition(path)
            self.pipelines[definition.name] = definition
        else:
            source = load_source(path)
            self.sources[source.source] = source, path

    def compile(self, shards: int) -> Pipeline:
        """Raises RuleError for rules that cannot be compiled."""
        flows: dict[str, Flow] = {}
        names = {alias: source.source for source, _ in self.sources.values() for alias in source.aliases}
        for definition in self.pipelines.values():
            flow = Flow(definition)
            for index, wanted in enumerate(definition.file.sources):
                name = names.get(wanted, wanted)
                if name in flows:
                    other = flows[name].name
                    raise definition.fail(["sources", index], f'"{wanted}" already takes the pipeline "{other}"')
                flows[name] = flow
        makers: dict[str, Callable[[], Compiled]] = {}
        for source, path in self.sources.values():
            flow_of = flows.get(source.source) or flows.get("*")
            given = (flow_of.touched, flow_of.stamp) if flow_of else ()
            make: Callable[[], Compiled] = partial(compile_source, source, path, *given)
            if path.parent != self.shipped:
                make = partial(_same, make())
            makers |= dict.fromkeys((source.source, *source.aliases), make)
        return Pipeline(makers, shards, flows)


def _same(made: Compiled) -> Compiled:
    return made


def load_library(rules_path: Path | None = None) -> Library:
    """The shipped sources, and what the folder `rules_path` holds, which wins where a name is the same.

    Raises RuleError with file and line for a rule that is wrong.
    """
    library = Library()
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
    """`load_library`, compiled."""
    return load_library(rules_path).compile(shards)
