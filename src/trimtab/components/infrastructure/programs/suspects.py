"""Objects that may be what ends a provider's program: they wait, so that the others are looked at meanwhile.

an object, the program ended while it was asked about it --blame--> spare: NotReady, longer each time --all went well--> clear
"""

from __future__ import annotations

import asyncio

from trimtab.components.infrastructure.programs.terms import NotReady

WAIT_FIRST_S, WAIT_LAST_S = 10.0, 1800.0


class Suspects:
    """Objects in the midst of whose questions a provider's program ended: one of them may be what ends it. When that happens again, each
    is asked about later, and later each time, so that one that takes the program down does not hold up all the others."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, float, str]] = {}
        """By uid: until when it is not asked about, for how long that was, and how the program ended."""

    def blame(self, uid: str, why: str) -> None:
        """why: how the program ended, in one line."""
        if uid not in self._found:
            self._found[uid] = (0.0, WAIT_FIRST_S / 2, why)
            return
        wait_s = min(self._found[uid][1] * 2, WAIT_LAST_S)
        self._found[uid] = (_now() + wait_s, wait_s, why)

    def spare(self, uid: str) -> None:
        """Raises `NotReady` until it is time to ask about it again."""
        until, _, why = self._found.get(uid, (0.0, 0.0, ""))
        left_s = until - _now()
        if left_s > 0:
            raise NotReady(
                "ProviderFailed", f"{why}; about this object it is asked again in {max(left_s, 1):.0f} s", left_s
            )

    def clear(self, uid: str) -> None:
        """It was asked about, and all went well; or it is gone."""
        self._found.pop(uid, None)


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["Suspects"]
