"""Counts over the lake with differential privacy: noise in them, and a budget that they spend.

Invariant: an answer is given only after what it costs is in the log; no true count leaves this module.

A dataset is the events of one source, so datasets have no event in common. A count changes by one at most when one
event is added or taken away: it is single events that are protected, not all that somebody has done.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec

from tidegate.actor.system import System
from tidegate.entities.budget import MOST, Granted, Refused, Spend, Spent
from tidegate.errors import BusUnavailableError, CommandRefusedError, ConfigError, QueryError
from tidegate.ocsf import CLASSES
from tidegate.query import Queries

__all__ = ["By", "Group", "NoisyCount", "PrivateCounts", "millionths", "noise"]

By = Literal["class_uid", "severity_id"]
_VALUES: dict[By, list[int]] = {
    "class_uid": sorted(one.uid for one in CLASSES.values()),
    "severity_id": [0, 1, 2, 3, 4, 5, 6, 99],
}
"""All groups there can be: which of them have events is not to be told without noise."""
_SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PROBABILITY = 0.95


class Group(msgspec.Struct, frozen=True):
    value: int | None
    """None: all."""
    count: int
    """With noise, and not below 0."""


class NoisyCount(msgspec.Struct, frozen=True, kw_only=True):
    dataset: str
    epsilon: float
    """What was spent."""
    within: int
    """Each count's noise is at most so much with a probability of 95 %."""
    groups: list[Group]
    sequence: int
    """Where in the log the spend is."""


def millionths(epsilon: float) -> int:
    """Epsilon as budgets count it. Raises QueryError for what is none."""
    if not (math.isfinite(epsilon) and 1 <= (found := math.ceil(round(epsilon * 1e6, 3))) <= MOST):
        raise QueryError(f"epsilon is from 0.000001 to {MOST / 1e6:g}, not {epsilon:g}")
    return found


def noise(cost: int) -> tuple[Callable[[int], int], int]:
    """What adds discrete Laplace (two-sided geometric) noise to a count for `cost` millionths of epsilon, and the
    bound that it keeps with a probability of 95 %. Raises ConfigError where OpenDP is not installed."""
    try:
        # Takes a third of a second, so only who counts imports it.
        import opendp.prelude as dp
    except ImportError as error:
        raise ConfigError("privacy", "OpenDP is not installed; run pip install 'tidegate[privacy]'") from error
    dp.enable_features("contrib")
    epsilon = cost / 1e6
    scale = 1 / epsilon
    while True:
        measurement: Any = dp.m.make_laplace(dp.atom_domain(T=int), dp.absolute_distance(T=int), scale=scale)
        # OpenDP rounds what it guarantees upwards.
        if measurement.map(1) <= epsilon:
            break
        scale *= 1 + 1e-12
    # P(|noise| > t) = 2 a^(t+1) / (1 + a) with a = e^-epsilon.
    within = math.ceil(math.log((1 - _PROBABILITY) * (1 + math.exp(-epsilon)) / 2) / -epsilon - 1)
    return cast("Callable[[int], int]", measurement), max(within, 0)


class PrivateCounts:
    """Counts for people who are not to see events."""

    def __init__(self, system: System, queries: Queries) -> None:
        self._system = system
        self._queries = queries

    async def count(
        self,
        dataset: str,
        epsilon: float,
        *,
        by: By | None = None,
        class_uid: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        after: str | None = None,
    ) -> NoisyCount:
        """The events of the source `dataset` with since <= time < until, with noise: the less epsilon, the more of it.

        Raises CommandRefusedError("exhausted") when the budget has not enough left, QueryError, and
        BusUnavailableError when it is not known whether epsilon was spent: nothing is told then.
        """
        if _SOURCE.fullmatch(dataset) is None:
            raise QueryError(f"{dataset!r} is no source")
        cost = millionths(epsilon)
        add, within = noise(cost)
        where = _where(dataset, class_uid, since_ms, until_ms)
        counted = await self._queries.sql(
            f"SELECT {by or 'NULL'}, count(*) FROM events WHERE {where} GROUP BY 1",  # noqa: S608 - numbers and a checked name
            after=after,
        )
        true = dict(counted.rows)
        sequence = await self._spend(dataset, cost, f"count by {by or 'nothing'} where {where}")
        # No event is in two groups, so all of them together cost what one does.
        values: list[int | None] = [*_VALUES[by]] if by else [None]
        groups = [Group(value, max(add(true.get(value, 0)), 0)) for value in values]
        return NoisyCount(dataset=dataset, epsilon=cost / 1e6, within=within, groups=groups, sequence=sequence)

    async def _spend(self, dataset: str, cost: int, query: str) -> int:
        # An id of its own for each count: noise that was drawn twice for one price could be averaged away.
        answer = await self._system.ask("budget", dataset, Spend(cost, query), command_id=uuid.uuid4().hex)
        if answer.duplicate:
            raise BusUnavailableError("the budget's first answer was lost; epsilon may have been spent for nothing")
        (event,) = msgspec.json.decode(answer.events, type=list[Granted | Spent | Refused])
        if isinstance(event, Refused):
            raise CommandRefusedError(
                "exhausted",
                f"the privacy budget of {dataset!r} has {event.left / 1e6:g} left, and this asks for {cost / 1e6:g};"
                " ask for less, or have more granted (`tidegate privacy grant`)",
            )
        return answer.sequence


def _where(dataset: str, class_uid: int | None, since_ms: int | None, until_ms: int | None) -> str:
    parts = [f"source = '{dataset}'"]
    if class_uid is not None:
        parts.append(f"class_uid = {class_uid:d}")
    for sign, ms in ((">=", since_ms), ("<", until_ms)):
        if ms is not None:
            moment = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
            parts.append(f"time {sign} TIMESTAMPTZ '{moment}'")
    return " AND ".join(parts)
