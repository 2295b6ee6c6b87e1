"""Queries over the read models; each may wait until what its caller has published can be seen."""

from __future__ import annotations

from tidegate.query.queries import MAX_EVENTS, Answer, ArchiveObject, Queries, TierName, Visible
from tidegate.query.times import parse_time
from tidegate.query.waiting import parse_after

__all__ = ["MAX_EVENTS", "Answer", "ArchiveObject", "Queries", "TierName", "Visible", "parse_after", "parse_time"]
