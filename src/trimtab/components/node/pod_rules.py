"""No container of a pod starts before the rules know the pod's address: where the agent and the rules meet.

agent: admit(uid, ip) -> the rules are computed with that address -> applied(generation) -> the container starts
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WAIT_S = 10.0


class RulesMissing(RuntimeError):
    """The rules for a pod do not stand; the text says why."""


class PodRules:
    """Addresses that this node has given out, and whether the rules know them."""

    def __init__(self) -> None:
        self.claims: dict[str, str] = {}
        """uid -> address: newer than any status."""
        self.generation = 0
        self._applied = -1
        self._failure = "nothing was said by nft"
        self._listeners: list[Callable[[], None]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def admit(self, uid: str, ip: str) -> None:
        """Returns once the rules of this node stand with this pod at this address.

        Raises:
            RulesMissing: they do not within 10 s.
        """
        if self.claims.get(uid) != ip:
            self.claims = {**self.claims, uid: ip}
            self.generation += 1
            for listener in self._listeners:
                listener()
        if self._applied >= self.generation:
            return
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.generation, applied))
        try:
            async with asyncio.timeout(WAIT_S):
                await applied
        except TimeoutError:
            raise RulesMissing(
                f"the network rules of this node were not in place after {WAIT_S:.0f} s: {self._failure}"
            ) from None

    def forget(self, uid: str) -> None:
        """The pod's address is given back."""
        if uid in self.claims:
            self.claims = {other: ip for other, ip in self.claims.items() if other != uid}
            for listener in self._listeners:
                listener()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` after each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def applied(self, generation: int) -> None:
        """The rules stand as of a generation."""
        self._applied = generation
        for wanted, done in self._waiting:
            if wanted <= generation and not done.done():
                done.set_result(None)
        self._waiting = [(wanted, done) for wanted, done in self._waiting if not done.done()]

    def failed(self, why: str) -> None:
        """The rules could not be put in place."""
        self._failure = why
