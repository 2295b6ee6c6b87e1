"""Trying pipelines on records, without a server: what each stage does to one, tests in rule files, and comparing two.

Invariant: what is tried runs the code that the intake runs; only the looking is added.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidegate.pipeline.definition import Case
from tidegate.pipeline.flow import Passage
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

__all__ = ["CaseResult", "Comparison", "Fate", "Step", "changes", "compare", "explain", "fates", "run_case"]

_MISSING = object()


class Step(Struct, frozen=True, kw_only=True):
    """What one stage did to one record."""

    stage: str
    type: str
    outcome: str
    """`passed`, `unchanged`, `filtered`, `dead_letter` or `continued` after an error."""
    microseconds: float
    bytes_in: int
    bytes_out: int
    changes: dict[str, tuple[Any, Any]] = {}
    """Attribute path -> value before and after; None where there is none."""
    problem: str = ""
    recovery: str = ""
    """The action of the policy that decided what became of the record, where the stage has failed."""


class Fate(Struct, frozen=True, kw_only=True):
    """What became of one record."""

    outcome: str
    """`event`, `filtered` or `dead_letter`."""
    by: str = ""
    """The stage (for a dead letter also the rule) that decided, where it is no event."""
    problem: str = ""
    event: dict[str, Any] | None = None
    correlation: str = ""
    routed: dict[str, str] = {}
    """Header of the frame in the log -> read models, subjects or topics, by a comma."""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for name, inner in value.items():
            found |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {prefix: value}


def changes(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Attribute path -> values, where the two differ. Lists are compared as wholes."""
    old, new = _flat(before), _flat(after)
    return {
        path: (old.get(path), new.get(path))
        for path in dict.fromkeys((*old, *new))
        if old.get(path, _MISSING) != new.get(path, _MISSING)
    }


def explain(pipeline: Pipeline, frame: RawFrame) -> list[Step]:
    """What each stage does to the only record of `frame`, from its bytes to the encoded event."""
    raw = frame.records[0]
    pipeline.map_one(frame)  # A shipped source is compiled when its first record comes, which is not to be timed.
    began = time.perf_counter()
    mapped = pipeline.map_one(frame)
    took = (time.perf_counter() - began) * 1e6
    flow = pipeline.flow(frame.source)
    if isinstance(mapped, str):
        return [
            Step(
                stage="mapping",
                type="normalise",
                outcome="dead_letter",
                microseconds=took,
                bytes_in=len(raw),
                bytes_out=0,
                problem=mapped,
                recovery="" if mapped.startswith("filtered") else "dead_letter",
            )
        ]
    line = msgspec.json.encode(mapped)
    now = msgspec.json.decode(line)
    steps = [
        Step(
            stage="mapping",
            type="normalise",
            outcome="passed",
            microseconds=took,
            bytes_in=len(raw),
            bytes_out=len(line),
            changes={path: (None, value) for path, value in _flat(now).items()},
        )
    ]
    for stage in flow.stages if flow else ():
        passage = Passage([mapped])
        began = time.perf_counter()
        stage.run(passage)
        took = (time.perf_counter() - began) * 1e6
        after_line = msgspec.json.encode(mapped)
        after = msgspec.json.decode(after_line)
        changed = changes(now, after)
        problem = passage.failures[0].problem if passage.failures else passage.problem
        outcome = "passed" if changed else "unchanged"
        if passage.failures:
            outcome = "dead_letter"
        elif passage.filtered:
            outcome = "filtered"
        elif problem:
            outcome = "continued"
        steps.append(
            Step(
                stage=stage.name,
                type=stage.type,
                outcome=outcome,
                microseconds=took,
                bytes_in=len(line),
                bytes_out=len(after_line) if passage.rows else 0,
                changes=changed,
                problem=problem,
                recovery=stage.policy.action if problem else "",
            )
        )
        if not passage.rows:
            break
        line, now = after_line, after
    return steps


def fates(pipeline: Pipeline, frame: RawFrame) -> list[Fate]:
    """What becomes of each record of `frame`, in order."""
    found = []
    for index, record in enumerate(frame.records):
        outcome = Outcome(1)
        pipeline.run(replace(frame, records=[record], origin=f"{frame.origin}#{index}"), outcome)
        if outcome.dead[0]:
            letter = outcome.dead[0][0]
            by = f"{letter.stage}/{letter.rule}"
            found.append(Fate(outcome="dead_letter", by=by, problem=letter.error))
        elif outcome.filtered:
            found.append(Fate(outcome="filtered", by=next(iter(outcome.filtered))))
        else:
            (to, line), *_ = [(to, line) for to, (lines,) in outcome.groups() for line in lines]
            event = msgspec.json.decode(line)
            found.append(
                Fate(
                    outcome="event",
                    event=event,
                    correlation=event["metadata"]["correlation_uid"],
                    routed=to.headers() if to else {},
                )
            )
    return found


class CaseResult(Struct, frozen=True, kw_only=True):
    """Of one test in a rule file."""

    name: str
    problems: list[str]
    """Empty: it passed."""


def run_case(pipeline: Pipeline, case: Case, received_ms: int) -> CaseResult:
    """Runs a test of a rule file."""
    frame = RawFrame(
        source=case.source, codec="json", records=[case.record.encode()], received_ms=received_ms, origin="test/1"
    )
    if not case.record.lstrip().startswith(("{", "[", '"')):
        frame = replace(frame, codec="text")
    fate = fates(pipeline, frame)[0]
    problems = []
    if fate.outcome != case.expect:
        problems.append(f"expected {case.expect}, got {fate.outcome} {fate.by} {fate.problem}".rstrip())
    elif case.by and case.by not in fate.by.replace("/", ".").split("."):
        problems.append(f"expected to be decided by {case.by}, not by {fate.by}")
    if fate.event is not None and not problems:
        flat = _flat(fate.event)
        for path, value in case.values.items():
            got = flat.get(path)
            if got != value:
                problems.append(f"{path}: expected {value!r}, got {got!r}")
        problems += [
            f"{path}: expected no value, got {flat.get(path, '(an object)')!r}"
            for path in case.absent
            if path in flat or any(each.startswith(f"{path}.") for each in flat)
        ]
    return CaseResult(name=case.name, problems=problems)


class Comparison(Struct, kw_only=True):
    """How two versions of the rules treat the same records."""

    records: int = 0
    equal: int = 0
    fates: Counter[str] = msgspec.field(default_factory=Counter)
    """`event -> filtered` and the like, where the fate differs."""
    paths: Counter[str] = msgspec.field(default_factory=Counter)
    """Attribute path -> events in which its value differs."""
    examples: list[tuple[str, dict[str, tuple[Any, Any]]]] = []
    """Some records (as text), each with what differs."""
    recounted: int = 0
    """Of the equal ones, those that both filter, each by another stage."""


def compare(
    old: Pipeline,
    new: Pipeline,
    frames: Iterable[RawFrame],
    *,
    most_examples: int = 5,
    ignore_version: bool = True,
    by_any_filter: bool = False,
) -> Comparison:
    """Runs the same records through both. `by_any_filter`: it does not matter which stage filters a record."""
    found = Comparison()
    for frame in frames:
        for raw, before, after in zip(frame.records, fates(old, frame), fates(new, frame), strict=True):
            found.records += 1
            if ignore_version:
                for each in (before, after):
                    if each.event is not None:
                        each.event["metadata"].pop("transformation_info_list", None)
            differing = changes(before.event, after.event) if before.event and after.event else {}
            if before.routed != after.routed:
                differing["(routed)"] = (before.routed, after.routed)
            if before.outcome != after.outcome:
                found.fates[f"{before.outcome} -> {after.outcome}"] += 1
                differing = {"(fate)": (_said(before), _said(after))}
            elif not differing and (before.by, before.problem) == (after.by, after.problem):
                found.equal += 1
                continue
            elif by_any_filter and before.outcome == "filtered":
                found.equal += 1
                found.recounted += 1
                continue
            elif not differing:
                differing = {"(by)": (_said(before), _said(after))}
            found.paths.update(differing.keys())
            if len(found.examples) < most_examples:
                found.examples.append((raw[:2000].decode(errors="replace"), differing))
    return found


def _said(fate: Fate) -> str:
    return f"{fate.outcome} {fate.by} {fate.problem}".strip()
