"""The process `kafka`: topics in and out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tidegate.app.process import Process, Rows, Task
from tidegate.bus import Bus
from tidegate.config import Settings
from tidegate.errors import ConfigError
from tidegate.log import Log

if TYPE_CHECKING:
    from tidegate.edges.kafka.bridge import Bridge

__all__ = ["KafkaBridge"]


class KafkaBridge(Process):
    """Inputs and outputs as `kafka` in the settings names them."""

    name = "kafka"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for settings that make no sense, or without what has to be installed for them."""
        try:
            from tidegate.edges.kafka.client import check
        except ModuleNotFoundError as error:
            raise ConfigError("kafka", f"needs {error.name}: pip install 'tidegate[kafka]'") from error
        check(settings.kafka)
        super().__init__(settings)
        self._bridge: Bridge | None = None

    async def begin(self, bus: Bus, log: Log, stack: contextlib.AsyncExitStack) -> list[Task]:
        """The cells of the outputs, and who reads the inputs."""
        from tidegate.edges.kafka.bridge import bridged

        self._bridge = await stack.enter_async_context(bridged(self.settings, self.declared, bus))
        self.cells += self._bridge.cells
        return [self._bridge.inputs.run] if self._bridge.inputs is not None else []

    def rows_at_hand(self) -> dict[str, Rows]:
        """Partitions and outputs."""
        return self._bridge.sections() if self._bridge is not None else {}
