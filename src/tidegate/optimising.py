"""An optimised version on its way into use: defined and tried in the log, activated, watched, and taken back.

Invariant: only a candidate that was proven equal and measured to be quicker is activated, and one that turns out
otherwise on records that come later is rolled back. Each of these steps is a change of the pipeline's entity.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
from msgspec import Struct

from tidegate import subject
from tidegate.actor.system import System
from tidegate.bus import Bus
from tidegate.entities.pipeline import KIND, Activate, Define, PipelineHistory, RecordTrial, RollBack
from tidegate.errors import CommandRefusedError, StageError
from tidegate.pipeline.definition import parse_definition
from tidegate.pipeline.library import Library
from tidegate.pipeline.optimiser.measure import per_record
from tidegate.pipeline.optimiser.optimise import Report, takes
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame
from tidegate.pipeline.trial import compare
from tidegate.sample import newest

__all__ = ["Watched", "put_into_use", "watch"]

_LOOK_SECONDS = 2.0
_MOST_RECORDS = 2_000
"""Looked at each time."""
_LEAST_LOOKS = 3
_SLOWER = 0.05
"""Within this, and with fewer looks, it may be noise."""


class Watched(Struct, kw_only=True):
    """What was seen of a version in use."""

    records: int = 0
    differing: int = 0
    gain: float = 0.0
    """The median over all looks; 0.2 is a fifth less time."""
    rolled_back: str = ""
    """Why; "" where it was not."""


async def put_into_use(system: System, report: Report, by: str) -> bool:
    """Defines the candidate, notes how it did, and activates it if it is better; whether it is.

    Raises CommandRefusedError where another version than the measured one is in use by now, or the candidate was rolled
    back before.
    """
    candidate, name = report.candidate, report.pipeline
    if candidate is None:
        return False
    known = msgspec.json.decode((await system.get(KIND, name)).state, type=PipelineHistory | None) or PipelineHistory()
    if known.active != report.version:
        problem = f"version {report.version} was measured, but {known.active or 'none'} is in use"
        raise CommandRefusedError("not_in_use", problem)
    if candidate.version in known.rejected:
        problem = f"version {candidate.version} was rolled back before; activate it by hand if you want it"
        raise CommandRefusedError("rejected", problem)
    gain = candidate.gain
    define = Define(
        candidate.text,
        origin="optimise",
        by=by,
        optimises=report.version,
        gain=gain.gain if gain else 0.0,
    )
    await system.ask(KIND, name, define)
    per_second = report.records / 1e6
    trial = RecordTrial(
        candidate.version,
        records=candidate.proof.records,
        equal=candidate.equal,
        seconds_before=gain.before * per_second if gain else 0.0,
        seconds_after=gain.after * per_second if gain else 0.0,
    )
    tried = await system.ask(KIND, name, trial)
    if candidate.better:
        await system.ask(KIND, name, Activate(candidate.version, by=by), expected_version=tried.version)
    return candidate.better


async def watch(
    bus: Bus, system: System, library: Library, report: Report, seconds: float, max_inflated: int
) -> Watched:
    """Runs what comes within `seconds` through both versions; rolls the candidate back if it does otherwise than the
    original, stops where that does not, or is clearly slower. Where nothing comes, it stays, and nothing is known."""
    assert report.candidate is not None
    name, candidate = report.pipeline, report.candidate.version
    old, new = _with(library, name, report.text), _with(library, name, report.candidate.text)
    seen, gains, found = (await bus.stream(subject.INGEST)).last_sequence, [], Watched()
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        await asyncio.sleep(min(_LOOK_SECONDS, max(left, 0.0)))
        end = (await bus.stream(subject.INGEST)).last_sequence
        frames = [one async for one in newest(bus, "", _MOST_RECORDS, max_inflated, after=seen)]
        seen = end
        reason = ""
        try:
            look = await asyncio.to_thread(_looked, old, new, name, frames)
        except StageError as error:
            look, reason = Watched(), f"it stops where {report.version} does not: {error}"
        found.records += look.records
        found.differing += look.differing
        if look.records:
            gains.append(look.gain)
            found.gain = median(gains)
        if reason:
            found.differing += 1
        elif found.differing:
            reason = f"{found.differing} of {found.records} records came out otherwise than with {report.version}"
        elif left <= 0 and len(gains) >= _LEAST_LOOKS and found.gain < -_SLOWER:
            reason = f"it takes {-found.gain:.0%} more time than {report.version} on {found.records} later records"
        if reason:
            answer = await system.get(KIND, name)
            if msgspec.json.decode(answer.state, type=PipelineHistory).active == candidate:
                await system.ask(KIND, name, RollBack(by="optimise", reason=reason))
                found.rolled_back = reason
            return found
        if left <= 0:
            return found


def _with(library: Library, name: str, text: str) -> Callable[[], Pipeline]:
    changed = library.copy()
    changed.pipelines[name] = parse_definition(text, f"pipeline {name}")
    return lambda: changed.compile(1)


def _looked(old: Callable[[], Pipeline], new: Callable[[], Pipeline], name: str, frames: Sequence[RawFrame]) -> Watched:
    """Raises StageError where only the new one stops, by its policy."""
    before, after = old(), new()
    mine = [one for one in frames if one.records and takes(before, one, name)]
    if not mine:
        return Watched()
    try:
        for one in mine:
            before.run(one, Outcome(1))
    except StageError:
        return Watched()  # Nothing to compare it with.
    before = old()
    compared = compare(before, after, mine, by_any_filter=True)
    before, after = old(), new()
    rounds = [(per_record(before, mine), per_record(after, mine)) for _ in range(5)][2:]
    return Watched(
        records=compared.records,
        differing=compared.records - compared.equal,
        gain=median(1 - later / earlier for earlier, later in rounds),
    )
