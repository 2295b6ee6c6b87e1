"""The composition root: builds each of Tidegate's processes from its parts and runs it."""

from __future__ import annotations

from tidegate.app.entities import entity_inputs, entity_kinds
from tidegate.app.opening import TIERS, batching, declarations, opened_log, read_models, rules_folder, serving_models
from tidegate.app.process import ENTITY_KINDS
from tidegate.app.running import collect_rarely, run

__all__ = [
    "ENTITY_KINDS",
    "TIERS",
    "batching",
    "collect_rarely",
    "declarations",
    "entity_inputs",
    "entity_kinds",
    "opened_log",
    "read_models",
    "rules_folder",
    "run",
    "serving_models",
]
