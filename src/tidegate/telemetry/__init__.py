"""Telemetry: one typed operational event gives the log line, the metrics and the mark on the span."""

from __future__ import annotations

from tidegate.telemetry.emission import Event, emit
from tidegate.telemetry.events import (
    BusConnected,
    BusDisconnected,
    BusReconnected,
    CellFailed,
    CellFenced,
    CellStarted,
    CellStopped,
    CellWaiting,
    FrameRefused,
    FramesPublished,
    HttpServed,
    IntakeCommitted,
    OwnershipGained,
    OwnershipLost,
    ProcessStarted,
    ProcessStopped,
    ProjectionApplied,
    PublishRetried,
    QueryServed,
    TierRecovered,
    TierUnavailable,
)
from tidegate.telemetry.metrics import render_metrics
from tidegate.telemetry.process import Telemetry, setup
from tidegate.telemetry.spans import Span, inject, span

__all__ = [
    "BusConnected",
    "BusDisconnected",
    "BusReconnected",
    "CellFailed",
    "CellFenced",
    "CellStarted",
    "CellStopped",
    "CellWaiting",
    "Event",
    "FrameRefused",
    "FramesPublished",
    "HttpServed",
    "IntakeCommitted",
    "OwnershipGained",
    "OwnershipLost",
    "ProcessStarted",
    "ProcessStopped",
    "ProjectionApplied",
    "PublishRetried",
    "QueryServed",
    "Span",
    "Telemetry",
    "TierRecovered",
    "TierUnavailable",
    "emit",
    "inject",
    "render_metrics",
    "setup",
    "span",
]
