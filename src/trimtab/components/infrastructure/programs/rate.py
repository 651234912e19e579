"""How often a cloud is asked with one credential: so many times a second, and not at all for a while after it said that it is too often.

whoever asks --Rate.turn--> waits in its row: questions of people, looks --> goes      "429" --Rate.refused--> nobody goes, longer each time
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from trimtab.components.infrastructure.programs.terms import NotReady, is_asked_for

CROWDED_S = 1.0
QUESTIONS_IN_A_ROW = 3
"""After so many questions of people one look goes, so that what is kept true is looked at however much is asked."""
TICK_S = 1e-6
"""A timer may be so much early."""
BUSY_FIRST_S, BUSY_LAST_S = 5.0, 300.0
BUSY = re.compile(r"\b429\b|too many requests|rate.?limit|throttl", re.IGNORECASE)
"""How clouds say that they are asked too often, in the words of their providers."""


@dataclass
class Rate:
    """Turns to ask, questions of people before looks, and the pause after a refusal. What is asked overlaps: only what is asked after a pause says how the next one is."""

    per_second: float
    clock: Callable[[], float]
    next_at: float = 0.0
    busy_until: float = 0.0
    busy_s: float = BUSY_FIRST_S
    pauses: int = 0
    questions: deque[asyncio.Future[None]] = field(default_factory=deque)
    """Who waits for a turn because somebody waits for the answer: they go first."""
    looks: deque[asyncio.Future[None]] = field(default_factory=deque)
    in_a_row: int = 0
    """Questions since the last look."""
    timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Raises `NotReady` while its cloud is said to be busy."""
        left_s = self.busy_until - self.clock()
        if left_s > 0:
            raise NotReady(
                "RateLimited", f"the cloud asks for fewer requests: nothing is asked for {left_s:.0f} s", left_s
            )

    async def turn(self) -> None:
        """Waits until the credential may ask again. Raises `NotReady` while its cloud is said to be busy, or was in the meantime."""
        self.open()
        now, pauses = self.clock(), self.pauses
        if not self.waiting and now >= self.next_at:
            self.next_at = now + 1 / self.per_second
            return
        waiter = asyncio.get_running_loop().create_future()
        row = self.questions if is_asked_for() else self.looks
        row.append(waiter)
        self._wind()
        try:
            await waiter
        finally:
            if waiter in row:  # who asked is gone
                row.remove(waiter)
        self.open()
        if self.pauses != pauses:  # the turns are dealt out anew
            raise NotReady("RateLimited", "the cloud asked for fewer requests while this waited for its turn")

    def _wind(self) -> None:
        """Sees to it that the next turn is given when it is time."""
        if self.timer is None and self.waiting:
            self.timer = asyncio.get_running_loop().call_later(max(self.next_at - self.clock(), 0.0), self._deal)

    def _deal(self) -> None:
        """Gives the turns that are due: to questions first, every fourth to a look."""
        self.timer = None
        now = self.clock()
        self.next_at = max(
            self.next_at, now - CROWDED_S
        )  # what a process that was held up missed comes not all at once
        while self.waiting and self.next_at <= now + TICK_S:
            first = self.questions and (self.in_a_row < QUESTIONS_IN_A_ROW or not self.looks)
            self.in_a_row = self.in_a_row + 1 if first else 0
            waiter = (self.questions if first else self.looks).popleft()
            if not waiter.done():
                waiter.set_result(None)
                self.next_at += 1 / self.per_second
        self._wind()

    @property
    def waiting(self) -> int:
        return len(self.questions) + len(self.looks)

    @property
    def crowded(self) -> bool:
        """Whether so many ask that somebody who asks now waits longer than `CROWDED_S`."""
        return self.next_at + self.waiting / self.per_second > self.clock() + CROWDED_S

    def answered(self) -> None:
        """Something that the cloud was asked was not refused."""
        if self.clock() >= self.busy_until:
            self.busy_s = BUSY_FIRST_S

    def refused(self) -> None:
        """It was asked too often. What was asked together is refused together, and is one refusal."""
        if self.clock() < self.busy_until:
            return
        self.busy_until = self.next_at = self.clock() + self.busy_s
        self.busy_s = min(self.busy_s * 2, BUSY_LAST_S)
        self.pauses += 1
        for waiter in (*self.questions, *self.looks):
            if not waiter.done():
                waiter.set_result(None)  # and hears that it has to ask again
        self.questions.clear()
        self.looks.clear()


__all__ = ["BUSY", "Rate"]
