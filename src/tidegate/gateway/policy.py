"""What keeps a failing target from being made worse, and its callers from waiting for it: budget, breaker, pauses.

Invariant: retries and hedges together never exceed `burst + budget * first attempts`, and an open breaker lets nothing
through but one probe at a time.

Retry libraries (tenacity, stamina) know neither budgets nor hedging, and must not retry what a breaker refuses; what
would be left of them is the sleep between attempts.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from tidegate.gateway.configuration import Breaker, Retry

__all__ = ["BreakerState", "Budget", "CircuitBreaker", "pause"]

BreakerState = Literal["closed", "open", "half-open"]


def pause(attempt: int, first: float, most: float) -> float:
    """Seconds to wait after the failed `attempt`, from 1: anything between nothing and the doubled backoff."""
    return random.random() * min(most, first * 2.0 ** min(attempt - 1, 60))  # noqa: S311 - jitter, no secret


class Budget:
    """Pays for retries and hedges."""

    def __init__(self, settings: Retry) -> None:
        self._ratio = settings.budget
        self._most = float(settings.budget_burst)
        self._tokens = self._most

    def earn(self) -> None:
        """A first attempt is made."""
        self._tokens = min(max(self._most, self._ratio), self._tokens + self._ratio)

    def spend(self) -> bool:
        """Whether one more attempt is paid for."""
        # Shares such as 0.1 do not add up to exactly 1.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


class CircuitBreaker:
    """Of one channel. Each attempt that `admit` lets through is followed by one of `succeeded`, `failed`, `dropped`."""

    def __init__(
        self,
        settings: Breaker,
        changed: Callable[[BreakerState], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=settings.window)
        self._until = 0.0
        self._probing = False
        self._state: BreakerState = "closed"

    @property
    def state(self) -> BreakerState:
        """Half-open from when a probe may be made."""
        if self._state == "open" and self._clock() >= self._until:
            return "half-open"
        return self._state

    @property
    def wait_seconds(self) -> float:
        """Until a probe may be made."""
        return max(0.0, self._until - self._clock()) if self._state == "open" else 0.0

    def admit(self) -> bool:
        """Whether an attempt may be made."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._probing:
            return False
        self._probing = True
        self._set("half-open")
        return True

    def succeeded(self) -> None:
        """The target has answered."""
        if self._state == "half-open":
            self._outcomes.clear()
            self._probing = False
            self._set("closed")
        self._outcomes.append(True)

    def failed(self) -> None:
        """It has not, or said that it cannot."""
        if self._state == "half-open":
            self._open()
            return
        self._outcomes.append(False)
        bad = self._outcomes.count(False)
        seen = len(self._outcomes)
        if self._state == "closed" and seen >= self._settings.minimum and bad / seen >= self._settings.failures:
            self._open()

    def dropped(self) -> None:
        """The attempt was cancelled: it says nothing about the target."""
        self._probing = False

    def _open(self) -> None:
        self._probing = False
        self._outcomes.clear()
        self._until = self._clock() + self._settings.open_seconds
        self._set("open")

    def _set(self, state: BreakerState) -> None:
        if state != self._state:
            self._state = state
            self._changed(state)
