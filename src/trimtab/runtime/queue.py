"""Keys waiting to be reconciled: each at most once, each by one worker at a time, some only later.

A key added while it waits stays once, and remembers every cause; a key added while its worker runs comes again when the
worker is done. A delay is kept per key, and the earliest wins. Urgent keys go before the others: with a hundred pods to start,
one whose container has become ready does not wait until the last is started to say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from trimtab.api import Ref
from trimtab.client.cache import Key

CAUSES_MAX = 8
"""Causes kept per waiting key: the first ones, which are what set things going."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a key is to be reconciled.

    external: something else than this reconciler's own writes changed, or time passed that it asked to pass; only then
        may it write again without limit (see `convergence.py`).
    """

    text: str
    ref: Ref | None = None
    external: bool = True


class Queue:
    """`wake` is called whenever a key may have become ready."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ready: dict[Key, list[Cause]] = {}
        self._again: dict[Key, list[Cause]] = {}
        self._running: dict[Key, None] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._urgent: dict[Key, None] = {}

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing is ready; timers may be set."""
        return not self._ready and not self._running

    def add(self, key: Key, cause: Cause, *, urgent: bool = False) -> None:
        if urgent:
            self._urgent[key] = None
        target = self._again if key in self._running else self._ready
        causes = target.setdefault(key, [])
        if len(causes) < CAUSES_MAX or (cause.external and not any(c.external for c in causes)):
            causes.append(cause)
        if target is self._ready:
            self._wake()

    def add_after(self, key: Key, delay_s: float, cause: Cause) -> None:
        """Adds the key in `delay_s`, unless a shorter delay is set already."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay_s:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay_s, self._expire, key, cause)

    def _expire(self, key: Key, cause: Cause) -> None:
        self._timers.pop(key, None)
        self.add(key, cause)

    def take(self) -> tuple[Key, list[Cause]] | None:
        """The next ready key and its causes, now running; None when there is none. Its timer is cancelled, for the run
        will say anew when to come back."""
        if not self._ready:
            return None
        # Of the urgent ones only those that run now are not ready: no more than there are workers.
        key = next((key for key in self._urgent if key in self._ready), None) or next(iter(self._ready))
        causes = self._ready.pop(key)
        self._urgent.pop(key, None)
        self._running[key] = None
        if timer := self._timers.pop(key, None):
            timer.cancel()
        return key, causes

    def done(self, key: Key) -> None:
        """The worker of `key` is done."""
        self._running.pop(key, None)
        if causes := self._again.pop(key, None):
            self._ready[key] = causes
            self._wake()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._urgent.clear()
