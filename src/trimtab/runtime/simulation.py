"""Simulated time: an event loop that never waits.

When nothing is ready to run, the loop's clock jumps to the next timer, so an hour of back-off takes no time and every run
with the same seed is the same run. Nothing outside can wake it: there are no sockets, no threads (work handed to an executor
is done on the spot), and when nothing is ready and nothing is scheduled, it says who waits for what instead of hanging.
The idea of replacing time and randomness to make a distributed system's tests repeatable is FoundationDB's.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import base_events
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
"""When simulated time starts. In the future of any real clock, so that a real one that leaks in shows."""
LIMIT_S = 7 * 86400.0
STEPS_MAX = 200_000
"""Turns of the loop at one instant; more means tasks keep waking each other without time passing."""


class SimulationStuck(RuntimeError):
    """Nothing can happen any more, or nothing but the same; the text lists the tasks and where they wait."""


class SimulatedLoop(base_events.BaseEventLoop):
    """An asyncio event loop on simulated time."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        super().__init__()
        self._now_s = 0.0
        self._limit_s = limit_s
        self._steps = 0
        self.unlimited = False
        """No more limits: tasks are being cancelled."""
        self._selector = self  # what the base class asks for events: nothing comes from outside
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> tuple[()]:
        """What the base class calls to wait for the outside; here, time passes instead."""
        if timeout is None:
            raise SimulationStuck(f"nothing is ready and nothing is scheduled at {self._now_s:.3f} s\n{self.waiting()}")
        if timeout > 0:
            self._now_s += timeout
            self._steps = 0
            if self._now_s > self._limit_s and not self.unlimited:
                raise SimulationStuck(f"not done after {self._limit_s:.0f} simulated seconds\n{self.waiting()}")
        else:
            self._steps += 1
            if self._steps > STEPS_MAX and not self.unlimited:
                raise SimulationStuck(f"{STEPS_MAX} steps without time passing\n{self.waiting()}")
        return ()

    def waiting(self) -> str:
        """One line per task: its name and the line of ours on which it waits."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda t: t.get_name()):
            stack = task.get_stack(limit=3)
            where = f"{stack[-1].f_code.co_filename}:{stack[-1].f_lineno}" if stack else "finished"
            lines.append(f"  {task.get_name()}: {where}")
        return "\n".join(lines)

    def _process_events(self, event_list: object) -> None:
        return None

    def _write_to_self(self) -> None:
        return None

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Does the work at once, in the loop's own thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as err:
            future.set_exception(err)
        return future


class SimulatedClock:
    """Time of day from the simulated loop, and seeded randomness."""

    def __init__(self, loop: SimulatedLoop, seed: int) -> None:
        self.seed = seed
        self._loop = loop
        self._random = random.Random(seed)
        self._set_by = timedelta()

    @property
    def random(self) -> random.Random:
        return self._random

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time()) + self._set_by

    def set_by(self, seconds: float) -> None:
        """Somebody sets the machine's clock, forward or back; how time passes does not change."""
        self._set_by += timedelta(seconds=seconds)


def simulate(main: Callable[[SimulatedClock], Coroutine[Any, Any, T]], *, seed: int = 0, limit_s: float = LIMIT_S) -> T:
    """Runs `main` to its end in simulated time; whatever it left running is cancelled.

    Raises:
        SimulationStuck: nothing can happen any more, or `limit_s` simulated seconds have passed.
    """
    loop = SimulatedLoop(limit_s)
    clock = SimulatedClock(loop, seed)
    try:
        try:
            return loop.run_until_complete(main(clock))
        finally:
            loop.unlimited = True
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _cancel_all(loop: SimulatedLoop) -> None:
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
