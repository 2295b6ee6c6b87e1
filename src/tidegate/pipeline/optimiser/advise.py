"""What to set larger or smaller around a pipeline: caches of tables, memories of deduplication, frames.

Invariant: these are advice only; what they are about is outside of the pipeline's text, or changes what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

from msgspec.structs import replace

from tidegate.pipeline.definition import Deduplicate, Definition
from tidegate.pipeline.enrichment.library import Library as Tables
from tidegate.pipeline.enrichment.library import TableStatus
from tidegate.pipeline.flow import Flow
from tidegate.pipeline.optimiser.measure import per_record
from tidegate.pipeline.optimiser.plan import Recommendation
from tidegate.pipeline.runner import Pipeline, RawFrame

__all__ = ["caches", "frame_sizes", "memories"]

_FEW = 100
"""Records of a frame; from here on larger frames gain little."""
_LARGE = 1000
_WORTH = 0.05


def caches(tables: Tables, before: Sequence[TableStatus]) -> list[Recommendation]:
    """How the caches did since `before`, and how large they should be."""
    sizes = {"geo": tables.settings.geo.cache_entries, "indicators": tables.settings.indicator_cache_entries}
    keys = {"geo": "enrichment.geo.cache_entries", "indicators": "enrichment.indicator_cache_entries"}
    found: dict[str, Recommendation] = {}
    for old, new in zip(before, tables.statistics(), strict=True):
        hits, misses = new.hits - old.hits, new.misses - old.misses
        # All files of one kind share a cache, and each of them tells of it.
        if new.kind not in sizes or new.kind in found or not hits + misses:
            continue
        entries = sizes[new.kind]
        text = f"{new.kind}: {hits / (hits + misses):.1%} of {hits + misses:,} look-ups were answered from memory"
        if misses > entries:
            text += f", which was full: set {keys[new.kind]} to {_power(2 * misses):,} (now {entries:,})"
        else:
            text += f"; {entries:,} entries are enough for the {misses:,} values that were new"
        found[new.kind] = Recommendation(kind="cache", stage=new.kind, text=text, done=False)
    return list(found.values())


def memories(definition: Definition, flow: Flow) -> list[Recommendation]:
    """Whether deduplication remembers enough, after the records have gone through `flow`."""
    found = []
    limits = {stage.name: stage.most for stage in definition.file.stage if isinstance(stage, Deduplicate)}
    for stage in flow.stages:
        most = limits.get(stage.name, 0)
        kept = len(stage.body.names["RECENT"]) if most else 0
        if most and kept >= most:
            text = f'"{stage.name}" forgets keys before their time: set most above {most:,}, to {_power(2 * kept):,}'
            found.append(Recommendation(kind="remember", stage=stage.name, text=text, done=False))
    return found


def frame_sizes(make: Callable[[], Pipeline], frames: Sequence[RawFrame]) -> list[Recommendation]:
    """Whether larger frames would take less time; `make` gives a new pipeline."""
    records = sum(len(frame.records) for frame in frames)
    mean = records / max(len(frames), 1)
    large = list(_merged(frames))
    if mean >= _FEW or len(large) == len(frames):
        return []
    pipeline, other = make(), make()
    pairs = [(per_record(pipeline, frames), per_record(other, large)) for _ in range(7)][2:]
    gain = median(1 - after / before for before, after in pairs)
    if gain < _WORTH:
        return []
    text = (
        f"frames hold {mean:.1f} records; of frames of {_LARGE:,} a record takes {gain:.0%} less time:"
        " publish more records at once"
    )
    return [Recommendation(kind="batch", stage="frames", text=text, done=False)]


def _merged(frames: Sequence[RawFrame]) -> list[RawFrame]:
    """The same records in frames of up to `_LARGE`."""
    found = []
    for _, alike in groupby(
        sorted(frames, key=lambda one: (one.source, one.codec)), lambda one: (one.source, one.codec)
    ):
        first, *others = alike
        records = [*first.records, *(record for one in others for record in one.records)]
        found += [
            replace(first, records=records[start : start + _LARGE], origin=f"{first.origin}*{start}")
            for start in range(0, len(records), _LARGE)
        ]
    return found


def _power(number: int) -> int:
    """The power of two that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()
