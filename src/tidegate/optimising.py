"""An optimised version on its way into use: defined and tried in the log, activated, watched, and taken back.

Invariant: only a candidate that was proven equal and measured to be quicker is activated, and one that turns out
otherwise on records that come later is rolled back. Each of these steps is a change of the pipeline's entity.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from tidegate import subject
from tidegate.actor.system import System
from tidegate.bus import Bus
from tidegate.entities.pipeline import KIND, Activate, ConcludeWatch, Define, PipelineHistory, RecordTrial, Watch
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError, StageError
from tidegate.lifecycle import Lifecycle
from tidegate.pipeline.definition import parse_definition
from tidegate.pipeline.library import Library
from tidegate.pipeline.optimiser.measure import per_record
from tidegate.pipeline.optimiser.optimise import Report, takes
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame
from tidegate.pipeline.trial import compare
from tidegate.sample import newest

__all__ = ["concluded", "keep_watch", "put_into_use"]

_LOOK_SECONDS = 2.0
_MOST_RECORDS = 2_000
"""Looked at each time."""
_LEAST_LOOKS = 3
_SLOWER = 0.05
"""Within this, and with fewer looks, it may be noise."""


class _Look(NamedTuple):
    """What was seen at one look."""

    records: int = 0
    differing: int = 0
    gain: float = 0.0


async def put_into_use(system: System, report: Report, by: str, watch_seconds: float) -> bool:
    """Defines the candidate, notes how it did, and activates it if it is better; whether it is.

    The pipelines' processes watch it then for `watch_seconds`.

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
        await system.ask(KIND, name, Activate(candidate.version, by, watch_seconds), expected_version=tried.version)
    return candidate.better


async def concluded(system: System, name: str, version: str, seconds: float) -> Watch | None:
    """How `version` did while it was watched, once that is known; None after `seconds`, or where another is in use."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = await system.get(KIND, name)
        history = msgspec.json.decode(answer.state, type=PipelineHistory)
        if history.watch is not None and history.watch.version == version:
            return history.watch
        if history.active != version:
            return None
        await asyncio.sleep(0.3)
    return None


async def keep_watch(bus: Bus, system: System, lifecycle: Lifecycle, max_inflated: int) -> None:
    """Until cancelled: watch each version that is to be watched, however it came into use.

    Every process does: the first one to come to a conclusion is heard.
    """
    watching: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            for name, history in lifecycle.histories().items():
                if history.watched_until_ms and (name not in watching or watching[name].done()):
                    watching[name] = asyncio.create_task(_watch(bus, system, lifecycle, name, history, max_inflated))
            await asyncio.sleep(_LOOK_SECONDS / 4)
    finally:
        for task in watching.values():
            task.cancel()
        await asyncio.gather(*watching.values(), return_exceptions=True)


async def _watch(
    bus: Bus, system: System, lifecycle: Lifecycle, name: str, history: PipelineHistory, max_inflated: int
) -> None:
    """Runs what comes through both versions; has the new one rolled back if it does otherwise than the one before,
    stops where that does not, or is clearly slower. Where nothing comes, it stays, and nothing is known."""
    old, new = history.find(history.previous), history.find(history.active)
    if old is None or new is None:  # forgotten, after many others
        await _conclude(system, name, Watch(history.active))
        return
    library, gains, found, seen = lifecycle.library(), list[float](), Watch(new.version), 0
    before, after = _with(library, name, old.text), _with(library, name, new.text)
    while True:
        left = history.watched_until_ms / 1000 - time.time()
        try:
            end = (await bus.stream(subject.INGEST)).last_sequence
            frames = [one async for one in newest(bus, "", _MOST_RECORDS, max_inflated, after=seen or end)]
        except (BusError, BusUnavailableError):
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        seen, reason = end, ""
        try:
            look = await asyncio.to_thread(_looked, before, after, name, frames)
        except StageError as error:
            look, reason = _Look(differing=1), f"it stops where {old.version} does not: {error}"
        gains += [look.gain] if look.records else []
        records, differing = found.records + look.records, found.differing + look.differing
        found = Watch(new.version, records, differing, median(gains) if gains else 0.0)
        if not reason and differing:
            reason = f"{differing} of {records} records came out otherwise than with {old.version}"
        elif not reason and left <= 0 and len(gains) >= _LEAST_LOOKS and found.gain < -_SLOWER:
            reason = f"it takes {-found.gain:.0%} more time than {old.version} on {records} later records"
        if reason or left <= 0:
            await _conclude(system, name, replace(found, rolled_back=reason))
            return
        if (now := lifecycle.history(name)) is None or now.active != new.version or not now.watched_until_ms:
            return
        await asyncio.sleep(min(_LOOK_SECONDS, left))


async def _conclude(system: System, name: str, watch: Watch) -> None:
    while True:
        with contextlib.suppress(BusUnavailableError):
            await system.ask(KIND, name, ConcludeWatch(watch))
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _with(library: Library, name: str, text: str) -> Callable[[], Pipeline]:
    changed = library.copy()
    changed.pipelines[name] = parse_definition(text, f"pipeline {name}")
    return lambda: changed.compile(1)


def _looked(old: Callable[[], Pipeline], new: Callable[[], Pipeline], name: str, frames: Sequence[RawFrame]) -> _Look:
    """Raises StageError where only the new one stops, by its policy."""
    before, after = old(), new()
    mine = [one for one in frames if one.records and takes(before, one, name)]
    if not mine:
        return _Look()
    try:
        for one in mine:
            before.run(one, Outcome(1))
    except StageError:
        return _Look()  # Nothing to compare it with.
    before = old()
    compared = compare(before, after, mine, by_any_filter=True)
    before, after = old(), new()
    rounds = [(per_record(before, mine), per_record(after, mine)) for _ in range(5)][2:]
    return _Look(
        records=compared.records,
        differing=compared.records - compared.equal,
        gain=median(1 - later / earlier for earlier, later in rounds),
    )
