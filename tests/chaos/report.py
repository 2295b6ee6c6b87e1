"""What a run has found, as numbers.

Invariant: `wrong` is 0 exactly when everything adds up.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tests.chaos.faults import Fault
from tests.chaos.oracle import Alerts, Commands, Counts, Entities
from tests.system.load import Found

__all__ = ["Report", "shown"]


class Report(Struct, frozen=True, kw_only=True):
    """Everything is a sum over the whole run."""

    seed: int
    seconds: float
    faults: dict[str, int]
    """Kind -> how many."""
    published: int
    acknowledged: int
    uncertain: int
    """Neither acknowledged nor surely refused; not wrong, and may be there once."""
    overtaken: int
    """Stored before one published earlier, though order was asked for."""
    found: dict[str, Found]
    """In the log, among the dead letters, and in each read model."""
    differing: dict[str, int]
    """Frames of each read model that are not as in the log."""
    correlations: Counts
    entities: dict[str, Entities]
    alerts: Alerts
    commands: Commands
    unanswered: int
    """Commands without an answer in time; not wrong."""
    wrong_versions: int
    """Answers that name another version than the command must have led to."""
    wrong_states: int
    """Correlations whose state, asked for, has another count than the log."""
    settled_seconds: float
    unsettled: str
    """What has not come to an end; empty: everything has."""
    errors: dict[str, int]
    """What processes have reported and no fault accounts for -> how often."""
    unruly: list[str]
    """Processes that ended by themselves, or did not end when told to."""

    @property
    def wrong(self) -> int:
        found = sum(one.lost + one.doubled + one.strangers + one.reordered for one in self.found.values())
        versions = sum(one.repeated + one.gaps for one in self.entities.values())
        told, asked = self.alerts, self.commands
        return (
            found
            + sum(self.differing.values())
            + self.overtaken
            + self.correlations.missing
            + self.correlations.surplus
            + versions
            + told.raised_again
            + abs(told.not_due)
            + told.told_again
            + told.told_unraised
            + asked.lost
            + asked.doubled
            + self.wrong_versions
            + self.wrong_states
            + sum(self.errors.values())
            + len(self.unruly)
            + bool(self.unsettled)
        )


def shown(report: Report, faults: Sequence[Fault]) -> str:
    """For people."""
    lines = [f"{one.at:7.1f} s  {one.kind:8}{one.target:16}{one.lasts:.1f} s" for one in faults]
    for name, value in msgspec.to_builtins(report).items():
        if isinstance(value, dict) and any(isinstance(one, dict) for one in value.values()):
            lines.append(name)
            lines += [f"    {key:22}{_row(one)}" for key, one in value.items()]
        else:
            lines.append(f"{name:26}{_row(value)}")
    return "\n".join(lines)


def _row(value: object) -> str:
    if isinstance(value, dict):
        value = "  ".join(f"{key} {one}" for key, one in value.items())
    return "-" if value in ("", []) else str(value)
