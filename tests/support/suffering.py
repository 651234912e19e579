"""Stages of a life, each killed or cut off at its n-th step, until none of them has so many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from mortal_world import MANNERS, MortalWorld, Order

STEPS_MAX = 60
Victim = Literal["controllers", "connection"]
Goal = Callable[[], Awaitable[bool]]
Act = Callable[[], Awaitable[None]]


class Stages:
    """Stages of a life, each suffered with the n-th step of it; `done` has the steps of those that had fewer."""

    def __init__(self, world: MortalWorld, victim: Victim) -> None:
        self._world = world
        self._victim = victim
        self.done: dict[str, list[str]] = {}

    async def suffer(self, stage: str, n: int, act: Act, goal: Goal) -> None:
        """Does it, disturbed at step n, and waits for the goal, which is reached whatever happened."""
        world, what = self._world, f"{stage}, step {n}"
        await world.at_rest()
        order = Order(0 if stage in self.done else n, MANNERS[n % 3], self._victim)
        await world.living(order)
        await act()
        await world.through_armed(goal, what)
        if not order.at or not order.carried_out:
            self.done.setdefault(stage, order.steps)
        await world.through(Order(), goal, f"{what}, after {order.steps[-1:]} {order.manner}, left alone")
