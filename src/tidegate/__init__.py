"""Tidegate: security events from NATS subjects through one event-sourced log into four read models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.event import Envelope
    from tidegate.publisher import Publisher, Receipt
    from tidegate.subscriptions import Batch, ErrorPolicy, EventFilter, subscribe_to_stream

__all__ = ["Batch", "Envelope", "ErrorPolicy", "EventFilter", "Publisher", "Receipt", "subscribe_to_stream"]


def __getattr__(name: str) -> Any:
    # Loaded when used: every start of a process imports this package, and few of them need a client.
    match name:
        case "Envelope":
            from tidegate.event import Envelope

            return Envelope
        case "Publisher" | "Receipt":
            from tidegate import publisher

            return getattr(publisher, name)
        case "Batch" | "ErrorPolicy" | "EventFilter" | "subscribe_to_stream":
            from tidegate import subscriptions

            return getattr(subscriptions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
