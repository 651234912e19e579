"""Time that runs faster than it does: a real event loop, with real sockets, whose seconds are shorter.

The contract kit waits minutes of simulated time for rest and for back-offs. Against a real API server nothing can be simulated,
but a second of the loop may take a twentieth of one.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

FACTOR = 20.0


class _ShortSelector(selectors.DefaultSelector):
    """Waits a fraction of what it is asked for."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / FACTOR if timeout is not None and timeout > 0 else timeout)


class AcceleratedLoop(asyncio.SelectorEventLoop):
    """`time()` and every wait are in short seconds."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        super().__init__(_ShortSelector())

    def time(self) -> float:
        return (time.monotonic() - self._began_s) * FACTOR


class AcceleratedClock:
    """The loop's time as time of day, and seeded randomness."""

    def __init__(self, loop: AcceleratedLoop, seed: int) -> None:
        self.seed = seed
        self._loop = loop
        self._random = random.Random(seed)
        self._began = datetime.now(UTC)

    @property
    def random(self) -> random.Random:
        return self._random

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self._loop.time())


def accelerate(main: Callable[[AcceleratedClock], Coroutine[Any, Any, T]], *, seed: int = 0) -> T:
    """Runs `main` to its end in short seconds."""
    with asyncio.Runner(loop_factory=AcceleratedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, AcceleratedLoop)
        return runner.run(main(AcceleratedClock(loop, seed)))
