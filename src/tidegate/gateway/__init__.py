"""The communication gateway: through it services call each other and are called, with failures handled."""

from tidegate.gateway.channel import CallResult, ChannelStatus
from tidegate.gateway.configuration import Configuration, load
from tidegate.gateway.gateway import EventPublished, Gateway
from tidegate.gateway.transports.base import CallFailedError

__all__ = ["CallFailedError", "CallResult", "ChannelStatus", "Configuration", "EventPublished", "Gateway", "load"]
