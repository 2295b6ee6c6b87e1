"""Made-up native security events of four sources, for the demo, the benchmarks and the tests.

Invariant: every byte follows from the seed and the arguments; there is no clock, no network and no global state.
"""

from __future__ import annotations

from tidegate.generator.generate import DEFAULT_START_MS, SOURCES, Generator, NativeRecord

__all__ = ["DEFAULT_START_MS", "SOURCES", "Generator", "NativeRecord"]
