"""Subscriptions to the events of the log, for any process: `subscribe_to_stream`, and looking after them by name."""

from tidegate.entities.selection import EventFilter
from tidegate.entities.subscription import ErrorPolicy, Subscription, Totals
from tidegate.subscriptions.hand import Batch
from tidegate.subscriptions.manager import Lag, SubscriptionManager
from tidegate.subscriptions.member import Handler
from tidegate.subscriptions.subscriber import Subscriber, subscribe_to_stream

__all__ = [
    "Batch",
    "ErrorPolicy",
    "EventFilter",
    "Handler",
    "Lag",
    "Subscriber",
    "Subscription",
    "SubscriptionManager",
    "Totals",
    "subscribe_to_stream",
]
