"""Where the server's time and randomness come from, so that simulated time can replace both.

Deadlines need no clock: they go through the event loop. The protocol is the one that the client has.
"""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime
from typing import Protocol

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names: no vowels, so no words; no digits that look like letters (as apimachinery chooses them)."""
SUFFIX_LENGTH = 5


class Clock(Protocol):
    @property
    def random(self) -> random.Random: ...

    def now(self) -> datetime:
        """The time of day, in UTC."""


class SystemClock:
    """The machine's time, and randomness from the operating system."""

    def __init__(self) -> None:
        self.random: random.Random = random.SystemRandom()

    def now(self) -> datetime:
        return datetime.now(UTC)


def timestamp(clock: Clock) -> str:
    """Now, as `metav1.Time` writes it: whole seconds."""
    return clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid(clock: Clock) -> str:
    return str(uuid.UUID(int=clock.random.getrandbits(128), version=4))


def name_suffix(clock: Clock) -> str:
    return "".join(clock.random.choice(SUFFIX_ALPHABET) for _ in range(SUFFIX_LENGTH))
