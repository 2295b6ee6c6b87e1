"""What a source's records mostly look like, learned from those that went the general way.

Invariant: learning changes how quickly records are mapped, never what they become (but for nulls, which may be left
out of `unmapped`, and the order of keys).
"""

from __future__ import annotations

import msgspec

from tidegate.pipeline.compiler import KnownSource, Specials

__all__ = ["Habit"]

# What samples can do to a lesson, such as nesting to just below the limit; the general way still takes them.
_HOSTILE = (LookupError, RecursionError, TypeError, ValueError, msgspec.MsgspecError)
_FIRST_SAMPLES = 512
_MORE_SAMPLES = 768
_MOST_LESSONS = 4
_WORTH_A_LESSON = 0.03
_WORTH_ANOTHER = 0.3


class Habit:
    """The quick way for one source, once there is one, and the samples for the next lesson.

    Lessons take some tens of milliseconds each. There are few: the first after 512 records, the others when enough
    records have gone the general way since, when those were more than a few in a hundred, and as long as lessons help.
    """

    def __init__(self, source: KnownSource) -> None:
        self._source = source
        self._samples: list[bytes] = []
        self._lessons = 0
        self._due = _FIRST_SAMPLES
        self._records = 0
        self.specials: Specials | None = None
        self.fresh: list[bytes] | None = []
        """Where the runner leaves records that went the general way, while there is more to learn."""

    def after(self, records: int) -> None:
        """To be called after each frame, with the number of its records."""
        if self.fresh is None:
            return
        self._records += records
        if len(self.fresh) < self._due:
            return
        if len(self.fresh) >= self._records * _WORTH_A_LESSON:
            self._samples += self.fresh[:_MORE_SAMPLES]
            self._lessons += 1
            try:
                self.specials = self._source.specialise(self._samples)
            except _HOSTILE:
                self._samples = []
            if self.specials is None or sum(map(self.specials.takes, self.fresh)) < len(self.fresh) * _WORTH_ANOTHER:
                self._lessons = _MOST_LESSONS
        self.fresh = [] if self._lessons < _MOST_LESSONS else None
        self._due = _MORE_SAMPLES
        self._records = 0
        if self.fresh is None:
            self._samples = []
