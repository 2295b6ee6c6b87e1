"""A NATS server for each module, as for the other actors."""

from __future__ import annotations

from tests.actor.conftest import nats_server

__all__ = ["nats_server"]
