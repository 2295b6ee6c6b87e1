"""How much somebody may do a second, in one process.

Invariant: what was admitted never exceeds rate * (time + 1 s) by more than one request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Buckets"]

_MOST = 10_000


class Buckets:
    """A token bucket for each who has a rate. It holds a second's worth, and may go into debt with one request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Id -> (tokens, when)."""

    def take(self, who: str, rate: float, amount: float) -> None:
        """Take `amount`, whether it is there or not."""
        if rate:
            self._buckets[who] = (self._tokens(who, rate) - amount, self._clock())
            self._buckets.move_to_end(who)
            if len(self._buckets) > _MOST:
                self._buckets.popitem(last=False)

    def wait(self, who: str, rate: float) -> float:
        """After how many seconds there will be something to take; 0: there is."""
        if not rate:
            return 0.0
        tokens = self._tokens(who, rate)
        # A hair's breadth, so that who waits as long as told is not told to wait again.
        return 0.0 if tokens > -1e-6 else -tokens / rate

    def _tokens(self, who: str, rate: float) -> float:
        tokens, when = self._buckets.get(who, (rate, self._clock()))
        return min(rate, tokens + (self._clock() - when) * rate)
