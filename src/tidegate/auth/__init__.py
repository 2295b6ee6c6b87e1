"""Who somebody is, and what they may do: keys, tokens, limits, and a record of what was refused."""

from tidegate.auth.gate import Gate
from tidegate.auth.principal import LOCAL, Principal

__all__ = ["LOCAL", "Gate", "Principal"]
