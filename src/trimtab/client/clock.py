"""Where time and randomness come from. The real ones here; simulated ones in `trimtab.runtime.simulation`.

Sleeping and deadlines need no clock of ours: they go through the event loop, whose time is simulated in tests.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    @property
    def random(self) -> random.Random: ...

    def now(self) -> datetime:
        """The time of day, in UTC with microseconds."""


class SystemClock:
    """The machine's time, and the operating system's randomness: passwords are made of it too."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    @property
    def random(self) -> random.Random:
        return self._random

    def now(self) -> datetime:
        return datetime.now(UTC)


def jittered(delay_s: float, clock: Clock) -> float:
    """`delay_s` give or take a quarter, so that many that fail together do not come back together."""
    return delay_s * (0.75 + 0.5 * clock.random.random())
