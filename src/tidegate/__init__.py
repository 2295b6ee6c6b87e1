"""Tidegate: security events from NATS subjects through one event-sourced log into four read models."""

from __future__ import annotations

from tidegate.event import Envelope
from tidegate.publisher import Publisher, Receipt

__all__ = ["Envelope", "Publisher", "Receipt"]
