"""The language of pipelines: which stages the events of which sources go through, in TOML, one file a pipeline.

Invariant: what a file says is checked when it is read; an error names file, line, key and the nearest valid name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from tidegate import tomlfile
from tidegate.entities.pipeline import version_of
from tidegate.entities.window_definition import WindowDefinition
from tidegate.errors import ConfigError, RuleError
from tidegate.pipeline.anonymise.redact import BY_DEFAULT
from tidegate.pipeline.anonymise.settings import Anonymisation, Detector, Method

__all__ = [
    "BUILT_IN",
    "DEFAULT_POLICIES",
    "Aggregate",
    "Anonymise",
    "Case",
    "Check",
    "Deduplicate",
    "Definition",
    "Deserialise",
    "Enrich",
    "Filter",
    "Lookup",
    "Normalise",
    "Operation",
    "Parse",
    "PipelineFile",
    "Policy",
    "Route",
    "Stage",
    "Transform",
    "Validate",
    "load_definition",
    "parse_definition",
]

Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
Scalar = str | int | float | bool


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of a record whose stage has failed. Nothing is ever dropped unseen."""

    action: Literal["retry", "skip", "continue", "fallback", "dead_letter", "fail"] = "dead_letter"
    """`retry`, `dead_letter`: a dead letter in the end. `skip`: a dead letter, counted as skipped. `continue`: the
    record goes on as it was before the stage. `fallback`: it goes on with the values of `fallback`. `fail`: the cell
    stops and starts again with backoff, until somebody mends it."""
    attempts: Annotated[int, Meta(ge=1, le=10)] = 1
    """How often the stage is tried. What is wrong with a record's content is never tried again: it would not change."""
    backoff_ms: Annotated[int, Meta(ge=0, le=100)] = 5
    """Before the second attempt; doubled for each further one."""
    fallback: dict[str, Scalar] = {}
    """Attribute -> value, for `fallback`."""


DEFAULT_POLICIES = {
    "deserialise": Policy(action="retry", attempts=3),
    "normalise": Policy(action="dead_letter"),
    "validate": Policy(action="skip"),
    "enrich": Policy(action="continue", attempts=2),
    "filter": Policy(action="continue"),
    "parse": Policy(action="continue"),
    "transform": Policy(action="retry", attempts=3),
    "anonymise": Policy(action="dead_letter"),
    "deduplicate": Policy(action="continue"),
    "aggregate": Policy(action="continue"),
    "route": Policy(action="continue"),
}


class _Stage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    type_name: ClassVar[str]
    name: Name
    when: str = ""
    """An expression; the stage concerns only events for which it is true."""
    on_error: Policy | None = None
    """By default that of the stage's type."""


class Check(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    check: str
    """An expression that is true of a valid event."""
    problem: str = ""
    """What to say when it is not."""


class Validate(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="validate"):
    type_name = "validate"
    rules: list[Check]


class Filter(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="filter"):
    """Events for which `drop` is true, or `keep` is not, are counted and left out."""

    type_name = "filter"
    drop: str = ""
    keep: str = ""


class Operation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of these in one table, done in the order of a `transform` stage's list."""

    set: dict[str, str] = {}
    """Attribute -> expression. Where it has no value, the attribute stays as it was."""
    rename: dict[str, str] = {}
    """Attribute -> attribute that takes its value over."""
    remove: list[str] = []
    """Attributes, or whole objects."""
    split: str = ""
    """A text attribute ..."""
    separator: str = ","
    into: list[str] = []
    """... whose parts become these attributes, the rest going into the last."""


class Transform(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="transform"):
    type_name = "transform"
    operations: list[Operation]


class Parse(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="parse"):
    """Takes a text apart by the first pattern that matches."""

    type_name = "parse"
    field: str
    """The text attribute."""
    patterns: Annotated[list[str], Meta(min_length=1)]
    """Grok such as `%{ANY} from %{IP:ip}%{REST}`, or regular expressions with named groups, for the whole text."""
    set: dict[str, str]
    """Attribute -> name of a group."""
    required: bool = False
    """Whether a text that no pattern matches is an error."""


class Deduplicate(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="deduplicate"):
    """Drops an event whose key was seen within `seconds` of event time, in the same partition, since the start."""

    type_name = "deduplicate"
    key: Annotated[list[str], Meta(min_length=1)]
    """Expressions; an event of which one has no value is never a duplicate."""
    seconds: Annotated[int, Meta(ge=1, le=86_400)] = 60
    most: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    """Keys remembered; beyond, the oldest are forgotten."""


class Lookup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns of a table for the value of an attribute."""

    table: str
    """One of `[[enrichment.tables]]`, or `tags`."""
    key: str
    """The attribute with the value to look up."""
    set: dict[str, str] = {}
    """Attribute -> column. What has a value already keeps it. Without any, the row is put into `enrichments`."""


class Enrich(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="enrich"):
    """Adds what the tables of `[enrichment]` know of values in the event."""

    type_name = "enrich"
    geo: list[str] = []
    """Endpoints, such as `src_endpoint`, whose `ip` gives `location` and `autonomous_system`."""
    indicators: bool = False
    """Look up all observables; what matches is put into `enrichments`, of type `threat_intel`."""
    lookup: list[Lookup] = []


class Anonymise(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="anonymise"):
    """Puts something else in the place of values that tell of people.

    An event for which it fails becomes a dead letter; no policy lets one pass as it is. Dead letters, and the stream of
    what arrives, hold the original bytes.
    """

    type_name = "anonymise"
    fields: list[Method] = []
    also_in: list[str] | None = None
    """Texts, or `unmapped` as a whole, in which values of `fields` are replaced, too, wherever they are whole words; by
    default `message` and `unmapped`. Observables and enrichments always follow."""
    redact: list[str] = []
    """Texts, or `unmapped` as a whole, in which what `detect` and `patterns` find is replaced. Numbers are no texts."""
    detect: list[Detector] = msgspec.field(default_factory=lambda: list(BY_DEFAULT))
    patterns: dict[Name, str] = {}
    """Name -> regular expression (RE2) whose first group, or whole match, is to be replaced."""
    replace: dict[str, Method] = {}
    """Name of a detector or pattern -> what to put in place of what it finds, instead of `[name]`."""
    correlation: Literal["pseudonymise", "keep"] = "pseudonymise"
    """Many correlation ids hold addresses or users. A pseudonym (unless it is the id of the event) still correlates."""
    most: Annotated[int, Meta(ge=1, le=10_000_000)] = 16_384
    """Values that are remembered with what takes their place, for each method and tenant."""


class Aggregate(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="aggregate"):
    """Counts events in windows; these are entities, so results are in the log as `window.closed` changes."""

    type_name = "aggregate"
    window: WindowDefinition


class Route(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="route"):
    """Says where events go besides the log, which has them all. What several stages say of one event adds up."""

    type_name = "route"
    tiers: list[Literal["hot", "warm", "lake"]] = []
    """Only these read models take the event in, and the archive (cold), which takes all."""
    subjects: list[str] = []
    """Subjects that get a copy; the records of a frame travel together, as zstd NDJSON."""
    topics: list[str] = []
    """Kafka topics that get a copy, where a bridge sends what is routed."""


class Deserialise(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="deserialise"):
    """The policy of decoding records, which precedes all stages. `continue`: what cannot be decoded is a message."""

    type_name = "deserialise"


class Normalise(_Stage, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="normalise"):
    """The policy of mapping records, which precedes all stages. `continue`: what cannot be mapped is a Base Event."""

    type_name = "normalise"


BUILT_IN = (Deserialise, Normalise)
Stage = (
    Deserialise
    | Normalise
    | Validate
    | Enrich
    | Filter
    | Transform
    | Parse
    | Anonymise
    | Deduplicate
    | Aggregate
    | Route
)


class Case(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test in the rule file: one record in, and what is to come of it."""

    name: str
    source: str
    record: str
    """As it arrives: JSON text, or a line."""
    expect: Literal["event", "filtered", "dead_letter"] = "event"
    by: str = ""
    """The stage that filters or refuses it."""
    values: dict[str, Any] = {}
    """Attribute path -> value of the event."""
    absent: list[str] = []
    """Attributes that the event must not have."""


class PipelineFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pipeline: Name
    description: str = ""
    sources: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["*"])
    """The sources whose events take these stages; `*`: all that no other pipeline names."""
    anonymisation: Anonymisation | None = None
    """What `anonymise` stages need keys from."""
    stage: list[Stage] = []
    test: list[Case] = []


class Definition(Struct, frozen=True, kw_only=True):
    """A pipeline file that was read."""

    file: PipelineFile
    path: str
    text: str

    @property
    def name(self) -> str:
        return self.file.pipeline

    @property
    def version(self) -> str:
        """Follows from the content: 12 hexadecimal digits."""
        return version_of(self.text)

    def fail(self, steps: list[str | int], problem: str) -> RuleError:
        """The error for what is at `steps`, such as `["stage", 2, "when"]`."""
        return RuleError(f"{self.path}:{tomlfile.line_of(self.text, steps)}", problem)


def load_definition(path: Path) -> Definition:
    """The pipeline in the file at `path`; raises RuleError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(str(path), f"cannot be read: {error}") from error
    return parse_definition(text, str(path))


def parse_definition(text: str, path: str) -> Definition:
    """The pipeline in `text`, which was found at `path`; raises RuleError."""
    try:
        definition = Definition(file=tomlfile.read(text, path, PipelineFile), path=path, text=text)
    except ConfigError as error:
        raise RuleError(error.where, error.problem) from error
    names: set[str] = set()
    for index, stage in enumerate(definition.file.stage):
        if stage.name in names:
            raise definition.fail(["stage", index, "name"], f'a second stage is named "{stage.name}"')
        names.add(stage.name)
    return definition
