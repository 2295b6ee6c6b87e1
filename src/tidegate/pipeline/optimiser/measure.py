"""What the parts of a pipeline cost on records, and which of two pipelines takes less time on the same ones.

Invariant: all times are CPU time of this thread, in microseconds; what else the machine does is not counted, and what
it does to the caches is met by medians of several rounds and by taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from math import ceil, comb
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidegate.pipeline.definition import Definition
from tidegate.pipeline.flow import CONTENT_ERRORS, Flow, Passage, StageStats
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame
from tidegate.pipeline.stages.body import Body

__all__ = ["Gain", "Measurement", "Part", "lower_bound", "measure", "per_record", "race", "reframed"]

_TOGETHER = 256
"""Records that are timed together: asking for CPU time takes up to 1.5 microseconds."""
_WARM_UP = 2
"""Rounds before time counts: mappers learn the shapes of records, and caches fill."""
_ROUNDS = 5
_LEAST_ROUNDS, _MOST_ROUNDS = 9, 41
_ROUND_SECONDS = 0.02
"""A round that is shorter runs the records several times."""
_DOUBT = 0.02


class Part(Struct, frozen=True, kw_only=True):
    """One stage, or what comes before and after all of them (`mapping`, `encoding`)."""

    name: str
    type: str
    taken: int
    """Records that came to it, in one run over all records."""
    matched: int
    """Those for which its `when` was true; all, where it has none."""
    filtered: int
    failed: int
    microseconds: float
    """For each record that came to it."""

    @property
    def rejected(self) -> float:
        """The part of the records that came and were filtered out, from 0 to 1."""
        return self.filtered / self.taken if self.taken else 0.0


class Measurement(Struct, frozen=True, kw_only=True):
    records: int
    parts: list[Part]
    """In order; the first is `mapping` (with decoding), the last `encoding`."""

    @property
    def stages(self) -> list[Part]:
        return self.parts[1:-1]

    def share(self, part: Part) -> float:
        """Of the time of all parts, from 0 to 1."""
        total = sum(one.microseconds * one.taken for one in self.parts)
        return part.microseconds * part.taken / total if total else 0.0

    @property
    def bottleneck(self) -> Part:
        return max(self.parts, key=self.share)

    @property
    def in_stages(self) -> float:
        """Microseconds that an event takes in all stages, for each event that comes to the first."""
        first = self.stages[0].taken if self.stages else 0
        return sum(one.microseconds * one.taken for one in self.stages) / first if first else 0.0


def reframed(frames: Sequence[RawFrame], size: int) -> Iterator[RawFrame]:
    """The same records in frames of at most `size`."""
    for frame in frames:
        for start in range(0, len(frame.records), size):
            yield replace(frame, records=frame.records[start : start + size], origin=f"{frame.origin}+{start}")


def measure(pipeline: Pipeline, flow: Flow, frames: Sequence[RawFrame]) -> Measurement:
    """Runs `frames`, all of which take `flow`, part by part. `pipeline` must be new: it keeps what stages remember.

    Raises StageError where a policy says `fail`.
    """
    parts = list(reframed(frames, _TOGETHER))
    records = sum(len(frame.records) for frame in parts)
    matchers = _matchers(flow.definition)
    matched = dict.fromkeys(matchers, 0)
    _round(pipeline, flow, parts, matchers, matched)
    counts = [copy(stage.stats) for stage in flow.stages]
    for _ in range(_WARM_UP - 1):
        _round(pipeline, flow, parts)
    runs = [_round(pipeline, flow, parts) for _ in range(_ROUNDS)]
    seconds = [median(each) for each in zip(*runs, strict=True)]

    def part(index: int, name: str, kind: str, stats: StageStats) -> Part:
        return Part(
            name=name,
            type=kind,
            taken=stats.taken,
            matched=matched.get(name, stats.taken),
            filtered=stats.filtered,
            failed=stats.failed,
            microseconds=seconds[index] / stats.taken * 1e6 if stats.taken else 0.0,
        )

    stages = [part(index + 1, one.name, one.type, counts[index]) for index, one in enumerate(flow.stages)]
    left = counts[-1].passed if counts else records
    mapping = part(0, "mapping", "normalise", StageStats(taken=records))
    return Measurement(
        records=records, parts=[mapping, *stages, part(-1, "encoding", "encode", StageStats(taken=left))]
    )


Matcher = Callable[[list[Any], list[int]], int]


def _matchers(definition: Definition) -> dict[str, Matcher]:
    """By name of the stage, what counts the events for which its `when` is true."""
    found = {}
    for index, stage in enumerate(definition.file.stage):
        if stage.when:
            body = Body(definition, index, None)
            code = body.condition(stage.when, ["when"])
            lines = [
                "def matched(events, rows):",
                "    count = 0",
                "    for row in rows:",
                "        e = events[row]",
                *(f"        {line}" for line in body.lines),
                f"        count += bool({code})",
                "    return count",
            ]
            names = dict(body.names)
            exec(compile("\n".join(lines), f"<when {stage.name}>", "exec"), names)  # noqa: S102 - our own text
            found[stage.name] = names["matched"]
    return found


def _round(
    pipeline: Pipeline,
    flow: Flow,
    frames: Sequence[RawFrame],
    matchers: dict[str, Matcher] | None = None,
    matched: dict[str, int] | None = None,
) -> list[float]:
    """Seconds in mapping, in each stage, and in encoding; adds to `matched`, where it is given."""
    clock, encode, buffer = time.thread_time, msgspec.json.Encoder().encode_into, bytearray(8192)
    spent = [0.0] * (len(flow.stages) + 2)
    for frame in frames:
        began = clock()
        passage = Passage([flow.opened(event) for event in pipeline.mapped(frame)])
        now = clock()
        spent[0] += now - began
        for index, stage in enumerate(flow.stages, 1):
            if matchers and matched is not None and stage.name in matchers:
                matched[stage.name] += matchers[stage.name](passage.events, passage.rows)
            began = clock()
            stage.run(passage)
            spent[index] += clock() - began
        began = clock()
        for row in passage.rows:
            try:
                encode(passage.events[row], buffer)
            except CONTENT_ERRORS:
                continue
        spent[-1] += clock() - began
    return spent


class Gain(Struct, frozen=True, kw_only=True):
    """How two pipelines did on the same records, in rounds that took turns."""

    rounds: int
    before: float
    """Microseconds a record, from its bytes to the encoded event: the median of the rounds."""
    after: float
    gain: float
    """0.2: a fifth less time. The median of the rounds' ratios."""
    least: float
    """What the gain is at least, but for a chance of one in fifty."""


def race(old: Pipeline, new: Pipeline, frames: Sequence[RawFrame], seconds: float) -> Gain:
    """Runs the same frames through both by turns, for about `seconds` of CPU time."""
    for _ in range(_WARM_UP):
        per_record(old, frames)
        one = per_record(new, frames)
    records = sum(len(frame.records) for frame in frames)
    times = ceil(_ROUND_SECONDS / max(one * records / 1e6, 1e-6))
    pairs: list[tuple[float, float]] = []
    began = time.thread_time()
    while len(pairs) < _LEAST_ROUNDS or (len(pairs) < _MOST_ROUNDS and time.thread_time() - began < seconds):
        if len(pairs) % 2:
            after, before = per_record(new, frames, times), per_record(old, frames, times)
        else:
            before, after = per_record(old, frames, times), per_record(new, frames, times)
        pairs.append((before, after))
    gains = sorted(1 - after / before for before, after in pairs)
    return Gain(
        rounds=len(pairs),
        before=median(before for before, _ in pairs),
        after=median(after for _, after in pairs),
        gain=median(gains),
        least=lower_bound(gains),
    )


def per_record(pipeline: Pipeline, frames: Sequence[RawFrame], times: int = 1) -> float:
    """Microseconds of CPU time that a record takes."""
    records = times * sum(len(frame.records) for frame in frames)
    began = time.thread_time()
    for _ in range(times):
        for frame in frames:
            pipeline.run(frame, Outcome(1))
    return (time.thread_time() - began) / records * 1e6 if records else 0.0


def lower_bound(ordered: Sequence[float]) -> float:
    """What the median of the distribution that `ordered` was drawn from is not below, with a doubt of one in fifty.

    It is so many values from the least that a fair coin would hardly show heads so seldom (the sign test), whatever
    the distribution; below 6 values, minus infinity.
    """
    count = len(ordered)
    chance, place = 0.0, -1
    while (chance := chance + comb(count, place + 1) / 2**count) <= _DOUBT:
        place += 1
    return ordered[place] if place >= 0 else float("-inf")
