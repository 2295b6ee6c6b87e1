"""Which changes make a pipeline quicker and leave what it does as it is; and which ones would need a person to decide.

Invariant: every change is right for all records, not only for those it was measured on; measurements only decide which
changes are worth while. Records say nothing of what a stage would do with others.

- A filter goes before a stage when it reads nothing that the stage changes, the stage remembers nothing of the events
  it sees, and nothing of what the filter drops would have become a dead letter there: the stage cannot fail, or goes on
  with the event when it does. Of two filters that drop the same event the other one may then count it.
- Transforms that follow each other are fused when they have the same condition and the first does not change what it
  reads. They cannot fail: expressions and conversions give none for what they cannot do.
- A stage is dropped when its condition can never be true, whatever comes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from math import inf

from msgspec import Struct

from tidegate.ocsf import PROFILES
from tidegate.pipeline.access import check_readable
from tidegate.pipeline.definition import (
    BUILT_IN,
    DEFAULT_POLICIES,
    Aggregate,
    Definition,
    Enrich,
    Filter,
    Parse,
    Route,
    Stage,
    Transform,
    Validate,
)
from tidegate.pipeline.expressions import compile_expression, steps_of
from tidegate.pipeline.flow import CompiledStage, Flow
from tidegate.pipeline.optimiser.conditions import never
from tidegate.pipeline.optimiser.measure import Measurement, Part

__all__ = ["Plan", "Recommendation", "make_plan"]

_PASSED_OVER = (Filter, Aggregate, Transform, Parse, Enrich, Validate, Route)
"""Types of stages that remember nothing of the events they see."""
_DROPPED = (Filter, Validate, Transform, Parse, Enrich)
"""Types of stages that can be left out where they never do anything."""
_CLEARLY = 0.8
"""Filters change places when one costs less than this part of the other, for each event that it drops."""


class Recommendation(Struct, frozen=True, kw_only=True):
    kind: str
    """`reorder`, `fuse`, `drop`, `dead`, `cache`, `batch` or `remember`."""
    stage: str
    """What it is about."""
    text: str
    done: bool
    """Whether the candidate does it; the others are for a person to decide."""


class Plan(Struct, frozen=True, kw_only=True):
    groups: list[list[int]]
    """Indexes of the stages in the file, in their new order; those in one group become one."""
    recommendations: list[Recommendation]

    @property
    def changes(self) -> list[str]:
        return [one.text for one in self.recommendations if one.done]


class _Facts:
    """What is known of one stage."""

    def __init__(self, index: int, stage: Stage, compiled: CompiledStage, part: Part) -> None:
        self.index = index
        self.stage = stage
        self.name = stage.name
        self.reads = compiled.body.reads
        self.writes = {*compiled.body.writes, *compiled.body.changes}
        if self.writes and "observables" in self.reads:
            self.writes.add("observables")
        self.policy = stage.on_error or DEFAULT_POLICIES[stage.type_name]
        self.can_fail = (
            not isinstance(stage, Filter | Aggregate | Transform | Parse | Route)
            or (isinstance(stage, Parse) and stage.required)
            or part.failed > 0
        )
        self.part = part
        dropping = isinstance(stage, Filter) and part.rejected
        self.rank = part.microseconds / part.rejected if dropping else inf
        """Microseconds for each event that it drops."""


def make_plan(definition: Definition, flow: Flow, measured: Measurement, classes: frozenset[int]) -> Plan:
    """`measured`: of `flow`, which `definition` was compiled to. `classes`: all `class_uid` that events can have."""
    stages = definition.file.stage
    built_in = [index for index, stage in enumerate(stages) if isinstance(stage, BUILT_IN)]
    own = [index for index in range(len(stages)) if index not in built_in]
    facts = [
        _Facts(index, stages[index], compiled, part)
        for index, compiled, part in zip(own, flow.stages, measured.stages, strict=True)
    ]
    found: list[Recommendation] = []
    order = _ordered(_without_dead(facts, classes, found), measured, found)
    groups = _fused(order, found)
    return Plan(groups=[*([index] for index in built_in), *groups], recommendations=found)


def _without_dead(facts: Sequence[_Facts], classes: frozenset[int], found: list[Recommendation]) -> list[_Facts]:
    """The stages that can ever do something; says of the others, and of those that did nothing, what they are."""
    kept = []
    for one in facts:
        stage, part = one.stage, one.part
        drop = stage.drop if isinstance(stage, Filter) else ""
        impossible = next((text for text in (stage.when, drop) if text and never(text, classes)), "")
        others = (path for other in facts if other is not one for path in other.writes)
        profiles = _profiles(one.writes) - _profiles(others)
        if impossible and isinstance(stage, _DROPPED) and not profiles:
            text = f'"{one.name}" is left out: no source has events for which {impossible!r} is true'
            found.append(Recommendation(kind="drop", stage=one.name, text=text, done=True))
            continue
        kept.append(one)
        if impossible:
            text = f'"{one.name}" never does anything: no source has events for which {impossible!r} is true'
        elif stage.when and part.taken and not part.matched:
            text = f'"{one.name}" did nothing: {stage.when!r} was true of none of {part.taken:,} events; if that is'
            text += " so of all, remove it"
        elif isinstance(stage, Filter) and part.taken and not part.filtered:
            text = f'"{one.name}" dropped none of {part.taken:,} events'
        else:
            continue
        found.append(Recommendation(kind="dead", stage=one.name, text=text, done=False))
    return kept


def _profiles(paths: Iterable[str]) -> set[str]:
    """The profiles that events name because a stage may set these attributes."""
    return {PROFILES[name] for path in paths if (name := path.partition(".")[0]) in PROFILES}


def _ordered(facts: list[_Facts], measured: Measurement, found: list[Recommendation]) -> list[_Facts]:
    """Filters as early as they may, the ones that drop most for their cost first."""
    order = list(facts)
    passed: dict[str, list[str]] = {}
    changed = True
    while changed:
        changed = False
        for at in range(len(order) - 1):
            before, one = order[at], order[at + 1]
            if one.rank < _CLEARLY * before.rank and not _obstacle(one, before):
                order[at], order[at + 1] = one, before
                passed.setdefault(one.name, []).append(before.name)
                changed = True
    for name, others in passed.items():
        text = f'filter "{name}" goes before {_listed(others)}, which it does not depend on'
        found.append(Recommendation(kind="reorder", stage=name, text=text, done=True))
    for before, one in itertools.pairwise(order):
        if one.rank < _CLEARLY * before.rank:
            saved = before.part.microseconds * one.part.rejected * before.part.taken / max(measured.records, 1)
            text = f'filter "{one.name}" would save {saved:.2f} us a record before "{before.name}", but'
            text += f" {_obstacle(one, before)}"
            found.append(Recommendation(kind="reorder", stage=one.name, text=text, done=False))
    return order


def _obstacle(one: _Facts, before: _Facts) -> str:
    """Why the filter `one` must not go before the stage `before`; "" where nothing is in the way."""
    if not isinstance(before.stage, _PASSED_OVER):
        return f'"{before.name}" must go on seeing the events that it drops'
    if path := _overlap(one.reads, before.writes):
        return f'it reads {path}, which "{before.name}" may change'
    if before.can_fail and before.policy.action not in ("continue", "fallback"):
        return (
            f'events that fail in "{before.name}" would be filtered and no longer be dead letters'
            ' (on_error = { action = "continue" } there would allow it)'
        )
    return ""


def _overlap(reads: Iterable[str], writes: Iterable[str]) -> str:
    """A path of `reads` that is, holds or is part of one of `writes`; "" where there is none."""
    written = [steps_of(path) for path in writes]
    for path in sorted(reads):
        steps = steps_of(path)
        if any(steps[: len(one)] == one[: len(steps)] for one in written):
            return path
    return ""


def _fused(order: Sequence[_Facts], found: list[Recommendation]) -> list[list[int]]:
    groups: list[list[_Facts]] = []
    for one in order:
        if groups and _fit(groups[-1], one):
            groups[-1].append(one)
        else:
            groups.append([one])
    for first, *others in groups:
        if others:
            names = [each.name for each in others]
            text = f'transform "{first.name}" also does what {_listed(names)} did'
            found.append(Recommendation(kind="fuse", stage=first.name, text=text, done=True))
    return [[one.index for one in group] for group in groups]


def _fit(group: Sequence[_Facts], one: _Facts) -> bool:
    """Whether the transform `one` can be done in one go with those of `group`, which come before it."""
    first = group[0].stage
    if not (isinstance(first, Transform) and isinstance(one.stage, Transform)):
        return False
    if first.when != one.stage.when or group[0].policy != one.policy or any(each.can_fail for each in (*group, one)):
        return False
    read = compile_expression(first.when, check_readable).paths if first.when else ()
    return not any(_overlap(read, each.writes) for each in group)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
