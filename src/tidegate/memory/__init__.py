"""A bus, a log and a system of entities in this process alone: for tests, trials and teaching.

Invariant: it passes the suites that the real bus and the real entities pass, in `tests/`; what it has no use for it
refuses. Nothing is stored, and nobody else can connect.
"""

from __future__ import annotations

from tidegate.memory.bus import MemoryBus
from tidegate.memory.system import MemoryInput, memory_log, memory_system

__all__ = ["MemoryBus", "MemoryInput", "memory_log", "memory_system"]
