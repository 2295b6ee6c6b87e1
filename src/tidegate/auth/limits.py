"""How much somebody may do a second, in one process, and how much at one time.

Invariant: what was admitted never exceeds rate * (time + burst) by more than one request, and what is kept of those
who come is bounded.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address

from tidegate.errors import Code, RefusedError

__all__ = ["Buckets", "Shares", "network_of"]

_MOST = 10_000


class Buckets:
    """A token bucket for each who has a rate. It holds `burst_seconds`' worth, and may go into debt with one request.

    Of more than 10,000 the one that has been away the longest is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, burst_seconds: float = 1.0) -> None:
        self._clock = clock
        self._burst = burst_seconds
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
        most = rate * self._burst
        tokens, when = self._buckets.get(who, (most, self._clock()))
        return min(most, tokens + (self._clock() - when) * rate)


class Shares:
    """How many of something each may have at one time."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, who: str) -> Iterator[None]:
        """One more, until the block ends. Raises RefusedError where there is none left."""
        if self._taken[who] >= self._most:
            raise RefusedError(
                Code.RATE_LIMITED, f"{who} has {self._most} {self._what} in this process already; end one", after=1.0
            )
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


def network_of(peer: str) -> str:
    """What stands for a caller's address: of IPv6 the first 64 bits, as whoever has one of these has all of them."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
