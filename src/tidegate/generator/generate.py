"""The generator: mixes activities of all sources into one stream of records with rising time.

Invariant: `records` continues where the last call ended, and how the calls are cut changes no byte. Times never fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from tidegate.generator.cloudtrail import CloudTrail
from tidegate.generator.malformed import spoil
from tidegate.generator.stories import Stories
from tidegate.generator.template import Step
from tidegate.generator.traffic import Traffic
from tidegate.generator.windows import Windows
from tidegate.generator.world import Dice, World

__all__ = ["DEFAULT_START_MS", "SOURCES", "Generator", "NativeRecord"]

SOURCES = ("aws_cloudtrail", "suricata", "windows", "zeek")

DEFAULT_START_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z: fixed, so that equal seeds give equal bytes. A demo passes the present instead."""

_ACTIVE_BITS = 6  # 64 activities go on at the same time, and each record belongs to one of them at random.
_STORY_SHARE = 0.01


class NativeRecord(NamedTuple):
    source: str
    data: bytes
    malformed: bool


class Generator:
    """Makes records of `sources` in about equal shares, `malformed_share` of them unusable."""

    def __init__(
        self,
        seed: int = 1,
        *,
        start_ms: int | None = None,
        rate_per_second: float = 1000.0,
        malformed_share: float = 0.01,
        sources: Sequence[str] = SOURCES,
    ) -> None:
        if not sources or not set(sources) <= set(SOURCES):
            raise ValueError(f"sources must be some of {', '.join(SOURCES)}, not {', '.join(sources) or 'none'}")
        if not 0 <= malformed_share <= 1:
            raise ValueError(f"malformed_share must be between 0 and 1, not {malformed_share}")
        if not rate_per_second > 0:
            raise ValueError(f"rate_per_second must be above 0, not {rate_per_second}")
        start_ms = DEFAULT_START_MS if start_ms is None else start_ms
        self._start = start_ms * 1000
        self._interval = 1_000_000 / rate_per_second
        self._malformed_share = malformed_share
        self._made = 0
        self._dice = dice = Dice(seed)
        world = World(dice)
        windows = Windows(dice, world)
        traffic = Traffic(dice, world, windows)
        # Sessions that are already going on began half an hour before the start.
        cloud = CloudTrail(dice, world, start_ms // 1000 - 1800)
        self._stories = Stories(dice, world, traffic, windows, cloud)
        self._plans = {
            "aws_cloudtrail": cloud.plan,
            "suricata": traffic.plan,
            "windows": windows.plan,
            "zeek": traffic.plan,
        }
        self._planned = dict.fromkeys(SOURCES, 0)
        self._sources = tuple(source for source in SOURCES if source in sources)
        # Every story begins at the start, so that a small run has them too.
        self._active = [self._activity(story=slot < self._stories.count) for slot in range(1 << _ACTIVE_BITS)]

    def records(self, count: int) -> list[NativeRecord]:
        """The next `count` records."""
        bits, uniform, active = self._dice.bits, self._dice.uniform, self._active
        malformed_share, start, interval = self._malformed_share, self._start, self._interval
        moment: dict[str, str | int] = {}
        second = -1
        records: list[NativeRecord] = []
        for number in range(self._made, self._made + count):
            micros = start + int(number * interval)
            now, fraction = divmod(micros, 1_000_000)
            if now != second:
                second, moment = now, _moment(now)
            micro = f"{fraction:06d}"
            time = f"{moment['iso']}.{micro}"
            slot = bits(_ACTIVE_BITS)
            steps = active[slot]
            if not steps:
                steps = active[slot] = self._activity(story=uniform() < _STORY_SHARE)
            source, template, values = steps.pop()
            values.update(moment, micro=micro, milli=micro[:3], time=time)
            if "start" not in values:
                values["start"], values["began"] = time, now
            values["age"] = now - values["began"]
            data = (template % values).encode()
            malformed = uniform() < malformed_share
            records.append(NativeRecord(source, spoil(self._dice, data) if malformed else data, malformed))
        self._made += count
        return records

    def _activity(self, *, story: bool) -> list[Step]:
        """The steps of something new, last one first: a story, or something of the source that is behind the others."""
        sources, planned = self._sources, self._planned
        while True:
            behind = min(sources, key=planned.__getitem__)
            steps = self._stories.tell() if story else self._plans[behind]()
            steps = [step for step in reversed(steps) if step[0] in sources]
            for step in steps:
                planned[step[0]] += 1
            if steps:
                return steps


def _moment(second: int) -> dict[str, str | int]:
    """The forms of a second that templates use."""
    at = datetime.fromtimestamp(second, UTC)
    date, clock = f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}"
    return {"iso": f"{date}T{clock}", "date": date, "clock": clock, "epoch": second}
