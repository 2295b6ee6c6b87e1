"""The stages of one pipeline, compiled: lists of events in; events, filtered ones and failures out.

Invariant: every event that goes in comes out exactly once, whatever stages do; see `Passage`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.errors import RecordError, StageError
from tidegate.frame import Destination
from tidegate.ocsf import PROFILES, OcsfEvent, TransformationInfo
from tidegate.pipeline import access
from tidegate.pipeline import definition as language
from tidegate.pipeline.access import Touched, thaw
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.definition import DEFAULT_POLICIES, Definition, Policy, Stage
from tidegate.pipeline.enrichment.library import Library as Tables
from tidegate.pipeline.stages.anonymise import write_anonymise
from tidegate.pipeline.stages.body import Body
from tidegate.pipeline.stages.change import write_parse, write_transform
from tidegate.pipeline.stages.enrich import write_enrich
from tidegate.pipeline.stages.selection import (
    write_aggregate,
    write_deduplicate,
    write_filter,
    write_route,
    write_validate,
)

__all__ = ["CONTENT_ERRORS", "CompiledStage", "Failure", "Flow", "Passage", "StageStats"]

CONTENT_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecordError,
    RecursionError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
)
"""What hostile content can make decoding, mapping, stages and encoding raise; anything else is a fault of ours."""

_PASSING_ERRORS = (ConnectionError, TimeoutError, OSError)
"""What may be gone at the next attempt."""

_WRITERS: dict[type, Callable[[Any, Body], None]] = {
    language.Validate: write_validate,
    language.Filter: write_filter,
    language.Enrich: write_enrich,
    language.Parse: write_parse,
    language.Anonymise: write_anonymise,
    language.Aggregate: write_aggregate,
    language.Transform: write_transform,
    language.Deduplicate: write_deduplicate,
    language.Route: write_route,
}


class Failure(Struct, frozen=True):
    """An event that has become a dead letter."""

    row: int
    stage: str
    """Type of the stage."""
    rule: str
    problem: str
    attempts: int


class StageStats(Struct):
    """What a stage has done since the start."""

    taken: int = 0
    """Events that came to it."""
    passed: int = 0
    filtered: int = 0
    failed: int = 0
    """Of these, `skipped` were skipped, `continued` went on, and the others are dead letters."""
    skipped: int = 0
    continued: int = 0
    retries: int = 0
    seconds: float = 0.0


class Passage:
    """A list of events on their way through the stages."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.rows = list(range(len(events)))
        """Indexes of the events that are still under way."""
        self.routes: dict[int, Destination] = {}
        """Where rows go, of those that a stage has routed."""
        self.filtered: dict[str, int] = {}
        """`<pipeline>.<stage>` -> events."""
        self.failures: list[Failure] = []
        self.problem = ""
        """The last error after which an event went on."""

    def route(self, row: int, to: Destination) -> None:
        """Also to `to`."""
        before = self.routes.get(row)
        self.routes[row] = to if before is None else before.and_to(to)


class CompiledStage:
    """One stage; `code` is the Python text of its function."""

    def __init__(self, pipeline: str, stage: Stage, policy: Policy, body: Body) -> None:
        self.name = stage.name
        self.type = str(type(stage).__struct_config__.tag)
        self.policy = policy
        self.stats = StageStats()
        self.told = StageStats()
        """The stats when they were last told."""
        self.body = body
        self._rule = f"{pipeline}.{stage.name}"
        self.code = ""
        self._function: Callable[..., list[int]] = lambda *_: []
        self._fallback: Callable[[Any], None] = lambda _: None

    def compile(self, namespace: dict[str, Any], fallback: list[str]) -> None:
        """Makes the function, which all stages of the pipeline have to be written for."""
        lines = self.body.lines
        self.code = "\n".join(
            [
                "def stage(events, rows, drop, failed, route):",
                "    kept = []",
                "    keep = kept.append",
                *(f"    {line}" for line in self.body.first),
                "    for row in rows:",
                "        e = events[row]",
                "        try:",
                *(f"            {line}" for line in lines),
                "        except ERRORS as error:",
                "            if not failed(row, error):",
                "                continue",
                "        keep(row)",
                "    return kept",
                "",
                "def fallback(e):",
                *(f"    {line}" for line in fallback),
                "    return None",
                "",
            ]
        )
        names = {**self.body.names, **namespace, "ERRORS": (*CONTENT_ERRORS, *_PASSING_ERRORS)}
        exec(compile(self.code, f"<stage {self._rule}>", "exec"), names)  # noqa: S102 - our own text
        self._function = names["stage"]
        self._fallback = names["fallback"]

    def run(self, passage: Passage) -> None:
        """Takes the events of `passage` that are under way through the stage. Raises StageError by its policy."""
        stats, rows = self.stats, passage.rows
        began = time.perf_counter()
        dropped: list[int] = []
        again: list[int] = []
        attempt = 1

        def failed(row: int, error: Exception) -> bool:
            if attempt < self.policy.attempts and isinstance(error, _PASSING_ERRORS):
                again.append(row)
                return False
            return self._give_up(passage, row, error, attempt)

        kept = self._function(passage.events, rows, dropped.append, failed, passage.route)
        while again:
            time.sleep(self.policy.backoff_ms / 1000 * 2 ** (attempt - 1))
            attempt += 1
            rows, again = again, []
            stats.retries += len(rows)
            kept = sorted(kept + self._function(passage.events, rows, dropped.append, failed, passage.route))
        if dropped:
            passage.filtered[self._rule] = passage.filtered.get(self._rule, 0) + len(dropped)
            stats.filtered += len(dropped)
        stats.taken += len(passage.rows)
        stats.passed += len(kept)
        stats.seconds += time.perf_counter() - began
        passage.rows = kept

    def _give_up(self, passage: Passage, row: int, error: Exception, attempts: int) -> bool:
        """Whether the event goes on."""
        self.stats.failed += 1
        action = self.policy.action
        if action == "fail":
            raise StageError(self._rule, f"{error.__class__.__name__}: {error}") from error
        if isinstance(error, RecordError):
            rule, problem = error.rule, error.problem
        else:
            rule, problem = self.name, f"{error.__class__.__name__}: {error}"
        if action in ("continue", "fallback"):
            passage.problem = problem
            self.stats.continued += 1
            if action == "fallback":
                self._fallback(passage.events[row])
            return True
        if action == "skip":
            self.stats.skipped += 1
        passage.failures.append(Failure(row, self.type, rule, problem, attempts))
        return False


class Flow:
    """A pipeline ready to run. It keeps what its stages remember, so one Flow serves one partition's frames."""

    def __init__(self, definition: Definition, tables: Tables | None = None) -> None:
        """`tables`: what `enrich` stages look things up in. Raises RuleError."""
        self.definition = definition
        self.name = definition.name
        self.stages: list[CompiledStage] = []
        built_in = [stage for stage in definition.file.stage if isinstance(stage, language.BUILT_IN)]
        self.policies = {name: DEFAULT_POLICIES[name] for name in ("deserialise", "normalise")}
        self.policies |= {stage.type_name: stage.on_error for stage in built_in if stage.on_error}
        self.mapping = {name: StageStats() for name in self.policies}
        """What was done before the first stage."""
        self.bytes_in = self.bytes_out = 0
        """Of records as they came, and of the events that they became."""
        fallbacks: list[list[str]] = []
        for index, stage in enumerate(definition.file.stage):
            if isinstance(stage, language.BUILT_IN):
                continue
            body = Body(definition, index, tables)
            if stage.when:
                condition = body.condition(stage.when, ["when"])
                body.put(f"if not ({condition}):", "    keep(row)", "    continue")
            _WRITERS[type(stage)](stage, body)
            policy = stage.on_error or DEFAULT_POLICIES[type(stage).type_name]
            fallbacks.append(_fallback(policy, body))
            self.stages.append(CompiledStage(self.name, stage, policy, body))
        self.touched = Touched(
            (path for stage in self.stages for path in stage.body.reads),
            (path for stage in self.stages for path in stage.body.writes),
            (path for stage in self.stages for path in stage.body.changes),
        )
        self._profiles = {
            PROFILES[name] for path in self.touched.writes if (name := path.partition(".")[0]) in PROFILES
        }
        namespace = {"NEW": access.fresh(self.touched)}
        for compiled, fallback in zip(self.stages, fallbacks, strict=True):
            compiled.compile(namespace, fallback)
        self.stamp = [TransformationInfo(name=self.name, uid=definition.version)]
        """What the events say of the pipeline that made them."""

    def not_mapped(self, stage: str, error: Exception) -> str:
        """The action for a record that could not be decoded or mapped. Raises StageError where it is `fail`."""
        policy, stats = self.policies[stage], self.mapping[stage]
        stats.failed += 1
        if policy.action == "fail":
            raise StageError(f"{self.name}.{stage}", f"{error.__class__.__name__}: {error}") from error
        stats.continued += policy.action == "continue"
        stats.skipped += policy.action == "skip"
        return policy.action

    def run(self, events: list[Any]) -> Passage:
        """What becomes of `events`, which are changed in place. Raises StageError where a policy says `fail`."""
        passage = Passage(events)
        for row, event in enumerate(events):
            if event.__class__ is OcsfEvent or event.__class__ is dict:
                events[row] = self.opened(event)
        for stage in self.stages:
            if not passage.rows:
                break
            stage.run(passage)
        return passage

    def news(self) -> list[tuple[str, StageStats]]:
        """What each stage has done since the last call, for stages that did anything."""
        found = []
        for stage in self.stages:
            now, before = stage.stats, stage.told
            if now.taken != before.taken:
                names = StageStats.__struct_fields__
                delta = StageStats(*(getattr(now, name) - getattr(before, name) for name in names))
                stage.told = copy(now)
                found.append((stage.name, delta))
        return found

    def opened(self, event: Any) -> Any:
        """An event that stages can change; a copy, where no rule of a source has made it."""
        if event.__class__ is not OcsfEvent and event.__class__ is not dict:
            return event
        # Parts of it may be encoded or lack slots that stages need, as rules compiled for another pipeline make them.
        line = msgspec.json.encode(event)
        opened = thaw(msgspec.json.decode(line, type=OcsfEvent))
        if event.__class__ is dict and (rest := _beyond(msgspec.json.decode(line), msgspec.to_builtins(opened))):
            # Attributes of OCSF that our Structs do not have, in events that came as OCSF.
            opened.unmapped = {**(opened.unmapped or {}), "ocsf": rest}
        opened.metadata.transformation_info_list = self.stamp
        if self._profiles:
            opened.metadata.profiles = sorted({*(opened.metadata.profiles or ()), *self._profiles})
        return opened


def _beyond(whole: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What of `whole` is not in `known`; lists that differ are taken whole."""
    found: dict[str, Any] = {}
    for name, value in whole.items():
        if name not in known:
            found[name] = value
        elif value.__class__ is dict and known[name].__class__ is dict:
            if rest := _beyond(value, known[name]):
                found[name] = rest
        elif value != known[name]:
            found[name] = value
    return found


def _fallback(policy: Policy, body: Body) -> list[str]:
    lines: list[str] = []
    for path, value in policy.fallback.items():
        steps: list[str | int] = ["on_error", "fallback", path]
        attribute = body.writable(path, steps)
        converted = value if attribute.kind == "any" else CONVERSIONS[attribute.kind].function(value)
        if converted is None:
            raise body.fail(steps, f"{value!r} does not fit {path}, which is {attribute.kind}")
        lines += body.write(path, repr(converted), attribute)
    if policy.action == "fallback" and not lines:
        raise body.fail(["on_error"], 'the policy "fallback" needs values: fallback = { attribute = value }')
    return lines
