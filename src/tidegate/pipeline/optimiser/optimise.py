"""From a pipeline and records to a candidate that does the same in less time, with the proof and the measured gain.

Invariant: a candidate is called better only when every record of the sample ended as it does with the original, every
test of the file came out alike, and the gain is above what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidegate.errors import QueryError
from tidegate.ocsf import CLASSES
from tidegate.pipeline.definition import Definition
from tidegate.pipeline.flow import Flow
from tidegate.pipeline.library import Library
from tidegate.pipeline.ocsf_schema import shapes
from tidegate.pipeline.optimiser.advise import caches, frame_sizes, memories
from tidegate.pipeline.optimiser.measure import Gain, Measurement, Part, measure, race
from tidegate.pipeline.optimiser.plan import Plan, Recommendation, make_plan
from tidegate.pipeline.optimiser.rewrite import rewrite
from tidegate.pipeline.runner import Pipeline, RawFrame
from tidegate.pipeline.trial import Comparison, compare, run_case

__all__ = ["LEAST_GAIN", "Candidate", "Report", "build", "classes_of", "optimise", "prove", "takes"]

LEAST_GAIN = 0.03
"""A candidate that gains less is not worth a change."""


class Candidate(Struct, frozen=True, kw_only=True):
    """A pipeline that is meant to do the same in less time."""

    version: str
    text: str
    parts: list[Part]
    """What they cost."""
    in_stages: float
    """Microseconds that an event takes in all stages."""
    proof: Comparison
    tests: list[str]
    """Tests of the file that came out otherwise than with the original."""
    gain: Gain | None
    """None where the outputs are not equal."""

    @property
    def equal(self) -> bool:
        return self.proof.equal == self.proof.records and not self.tests

    @property
    def better(self) -> bool:
        return self.equal and self.gain is not None and self.gain.gain >= LEAST_GAIN and self.gain.least > 0


class Report(Struct, frozen=True, kw_only=True):
    pipeline: str
    version: str
    """That was measured."""
    text: str
    records: int
    parts: list[Part]
    """What they cost: mapping, the stages, encoding."""
    in_stages: float
    bottleneck: str
    """The part that takes most of the time ..."""
    share: float
    """... and how much of it, from 0 to 1."""
    recommendations: list[Recommendation]
    candidate: Candidate | None
    """None where there is nothing to change."""


def optimise(library: Library, name: str, frames: Sequence[RawFrame], seconds: float = 5.0) -> Report:
    """Measures the pipeline `name` of `library` (its tables loaded) on `frames`, for some seconds more than `seconds`.

    Frames of sources that take other pipelines are left out. Raises QueryError where none is left, or there is no such
    pipeline; StageError where a record stops the pipeline, by its policy.
    """
    definition = library.pipelines.get(name)
    if definition is None:
        raise QueryError(f'there is no pipeline "{name}"; known are: {", ".join(sorted(library.pipelines)) or "none"}')
    pipeline = library.compile(1)
    frames = [one for one in frames if one.records and takes(pipeline, one, name)]
    if not frames:
        raise QueryError(f'there are no records of sources that take the pipeline "{name}"')
    flow = _flow(pipeline, name)
    status = library.tables.statistics() if library.tables is not None else []
    measured = measure(pipeline, flow, frames)
    plan = make_plan(definition, flow, measured, classes_of(library))
    candidate, recommendations = build(definition, plan)
    if library.tables is not None:
        recommendations += caches(library.tables, status)
    recommendations += memories(definition, flow)
    recommendations += frame_sizes(lambda: library.compile(1), frames)
    return Report(
        pipeline=name,
        version=definition.version,
        text=definition.text,
        records=measured.records,
        parts=measured.parts,
        in_stages=measured.in_stages,
        bottleneck=measured.bottleneck.name,
        share=measured.share(measured.bottleneck),
        recommendations=recommendations,
        candidate=_judge(library, candidate, frames, seconds) if candidate is not None else None,
    )


def build(definition: Definition, plan: Plan) -> tuple[Definition | None, list[Recommendation]]:
    """The candidate, None where nothing is changed, and what became of the recommendations."""
    said = list(plan.recommendations)
    if not plan.changes:
        return None, said
    made = rewrite(definition, plan.groups, plan.changes)
    if made is not None:
        return made, said
    # Operations in one line cannot be put together with others; the other changes may still be possible.
    said = [replace(one, done=False) if one.kind == "fuse" else one for one in said]
    changes = [one.text for one in said if one.done]
    apart = [[index] for group in plan.groups for index in group]
    made = rewrite(definition, apart, changes) if changes else None
    return made, said if made is not None else [replace(one, done=False) for one in said]


def prove(library: Library, candidate: Definition, frames: Sequence[RawFrame]) -> tuple[Comparison, list[str]]:
    """Whether the candidate does the same with each record, and the names of tests of the file that tell otherwise."""
    changed = _with(library, candidate)
    proof = compare(library.compile(1), changed.compile(1), frames, by_any_filter=True)
    old, new = library.compile(1), changed.compile(1)
    now = frames[0].received_ms if frames else 0
    cases = [case for case in candidate.file.test if run_case(old, case, now) != run_case(new, case, now)]
    return proof, [case.name for case in cases]


def classes_of(library: Library) -> frozenset[int]:
    """All `class_uid` that events can have: any source may come to any pipeline, in an envelope, and so may OCSF."""
    rules = (rule for source, _ in library.sources.values() for rule in source.rule)
    return frozenset({0, *shapes(), *(CLASSES[rule.class_].uid for rule in rules)})


def _judge(library: Library, made: Definition, frames: Sequence[RawFrame], seconds: float) -> Candidate:
    changed = _with(library, made)
    proof, tests = prove(library, made, frames)
    pipeline = changed.compile(1)
    measured: Measurement = measure(pipeline, _flow(pipeline, made.name), frames)
    equal = proof.equal == proof.records and not tests
    return Candidate(
        version=made.version,
        text=made.text,
        parts=measured.parts,
        in_stages=measured.in_stages,
        proof=proof,
        tests=tests,
        gain=race(library.compile(1), changed.compile(1), frames, seconds) if equal else None,
    )


def _with(library: Library, definition: Definition) -> Library:
    changed = library.copy()
    changed.pipelines[definition.name] = definition
    return changed


def _flow(pipeline: Pipeline, name: str) -> Flow:
    return next(flow for flow in pipeline.flows if flow.name == name)


def takes(pipeline: Pipeline, frame: RawFrame, name: str) -> bool:
    """Whether the records of `frame` go through the stages of the pipeline `name`."""
    flow = pipeline.flow(frame.source)
    return flow is not None and flow.name == name
