"""Loads tables again when their source changes, while the ones in use serve on.

Invariant: a table is installed only when it was loaded without a fault from a file that stayed as it was meanwhile;
otherwise the table in use stays, and what was wrong is kept for the status.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from anyio import to_thread
from msgspec import Struct

from tidegate.errors import ConfigError, TableError

__all__ = ["Every", "Files", "Problem", "Reloader", "Watch"]

T = TypeVar("T")


class Problem(Struct, frozen=True):
    """Why the newest version of a table is not in use."""

    where: str
    """File and line, as far as known."""
    problem: str
    at_ms: int


class Source(Protocol):
    settles: bool
    """Whether it can be seen in the middle of being written."""

    def version(self) -> object:
        """Something that differs after each change. Raises OSError when there is no telling."""


class Files:
    """Files that are overwritten or replaced (renamed over)."""

    settles = True

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def version(self) -> object:
        stats = [path.stat() for path in self._paths]
        return [(one.st_mtime_ns, one.st_ctime_ns, one.st_size, one.st_ino) for one in stats]


class Every:
    """A source that does not tell whether it has changed: it is loaded again after so many seconds."""

    settles = False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def version(self) -> object:
        return time.monotonic() // self._seconds


class Watch(Generic[T]):
    """One table: its source, how it is loaded, and where it goes."""

    def __init__(self, name: str, source: Source, load: Callable[[], T], install: Callable[[T], None]) -> None:
        """`load` runs in a thread and raises TableError; `install` runs in the event loop."""
        self.name = name
        self.source = source
        self.problem: Problem | None = None
        self.loaded_at_ms = 0
        self.load_seconds = 0.0
        self._load = load
        self._install = install
        self._seen: object = None
        self._tried: object = None

    async def first(self) -> None:
        """Loads and installs the table. Raises TableError."""
        try:
            self._tried = self.source.version()
        except OSError as error:
            raise TableError(self.name, f"cannot be read: {error}") from error
        self._put(*await self._loaded())

    async def check(self) -> bool:
        """Loads and installs the table when its source has changed, and has stayed so since the last check.

        Whether a table was installed. Never raises for what is wrong with a source.
        """
        try:
            version = self.source.version()
            if version == self._tried:
                return False
            if version != self._seen and self.source.settles:
                self._seen = version
                return False
            self._tried = version
            table, seconds = await self._loaded()
            if self.source.settles and self.source.version() != version:
                # It was written to meanwhile; the next check sees another version.
                return False
        except ConfigError as error:
            self.problem = Problem(error.where, error.problem, _now_ms())
            return False
        except OSError as error:
            self.problem = Problem(self.name, f"cannot be read: {error}", _now_ms())
            return False
        self._put(table, seconds)
        return True

    async def _loaded(self) -> tuple[T, float]:
        start = time.perf_counter()
        # At shutdown nobody waits for the thread: what it loads is dropped.
        table = await to_thread.run_sync(self._load, abandon_on_cancel=True)
        return table, time.perf_counter() - start

    def _put(self, table: T, seconds: float) -> None:
        self._install(table)
        self.problem = None
        self.loaded_at_ms = _now_ms()
        self.load_seconds = seconds


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Reloader:
    """All watched tables. Call `check` every few seconds; it does nothing while another call is still at it."""

    def __init__(self, watches: Sequence[Watch[object]]) -> None:
        self.watches = watches
        self._busy = False

    async def first(self) -> None:
        """Loads all tables, one after the other. Raises TableError for the first that cannot be loaded."""
        for watch in self.watches:
            await watch.first()

    async def check(self) -> list[str]:
        """The names of the tables that were replaced."""
        if self._busy:
            return []
        self._busy = True
        try:
            return [watch.name for watch in self.watches if await watch.check()]
        finally:
            self._busy = False
