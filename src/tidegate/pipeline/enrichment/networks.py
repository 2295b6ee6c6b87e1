"""Networks in CIDR notation, found by address, longest prefix first.

Invariant: networks are either one inside the other or apart, so each address belongs to one innermost network, and the
others around it are that one's ancestors.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, MutableSequence, Sequence

__all__ = ["Networks"]

_NONE = -1


class Networks:
    """Numbers by network; `find` is two lookups by bisection whatever the count of networks."""

    __slots__ = ("_four", "_six")

    def __init__(self, networks: Mapping[bytes, int]) -> None:
        """`networks`: keys as of `values.network_key`, each with the number to be found under it."""
        self._four = _Family(4, {key: number for key, number in networks.items() if len(key) == 5})
        self._six = _Family(16, {key: number for key, number in networks.items() if len(key) == 17})

    def __len__(self) -> int:
        return len(self._four) + len(self._six)

    @property
    def nbytes(self) -> int:
        return self._four.nbytes + self._six.nbytes

    def find(self, address: bytes) -> Sequence[tuple[int, int]]:
        """Length of the prefix and number of each network that has `address` (4 or 16 bytes), innermost first."""
        return (self._four if len(address) == 4 else self._six).find(address)


class _Family:
    """The networks of one IP version as ranges that do not overlap: where each begins, and whose it is."""

    __slots__ = ("_begins", "_numbers", "_owners", "_parents", "_prefixes")

    def __init__(self, size: int, networks: Mapping[bytes, int]) -> None:
        bits = 8 * size
        # Python has no array of 128 bits.
        self._begins: MutableSequence[int] = array("I") if size == 4 else []
        self._owners = array("i")
        self._parents = array("i")
        self._numbers = array("I")
        self._prefixes = array("B")
        around: list[tuple[int, int]] = []
        # In order of the first address, a network before those inside it.
        for index, key in enumerate(sorted(networks)):
            begin, prefix = int.from_bytes(key[:size], "big"), key[size]
            self._close(around, begin)
            self._begin(begin, index)
            self._parents.append(around[-1][1] if around else _NONE)
            self._numbers.append(networks[key])
            self._prefixes.append(prefix)
            around.append((begin + (1 << bits - prefix), index))
        self._close(around, (1 << bits) - 1)

    def _close(self, around: list[tuple[int, int]], until: int) -> None:
        """What follows each network that ends at or before `until` belongs to the one around it."""
        while around and around[-1][0] <= until:
            end, _ = around.pop()
            self._begin(end, around[-1][1] if around else _NONE)

    def _begin(self, at: int, owner: int) -> None:
        if self._begins and self._begins[-1] == at:
            self._owners[-1] = owner
        else:
            self._begins.append(at)
            self._owners.append(owner)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def nbytes(self) -> int:
        # An int of 128 bits takes 44 bytes, and 8 for its place in the list.
        each = 4 if isinstance(self._begins, array) else 52
        return (each + 4) * len(self._owners) + 9 * len(self._numbers)

    def find(self, address: bytes) -> Sequence[tuple[int, int]]:
        at = bisect_right(self._begins, int.from_bytes(address, "big")) - 1
        network = self._owners[at] if at >= 0 else _NONE
        if network == _NONE:
            return ()
        found = []
        while network != _NONE:
            found.append((self._prefixes[network], self._numbers[network]))
            network = self._parents[network]
        return found
