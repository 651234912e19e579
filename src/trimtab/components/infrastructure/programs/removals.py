"""What was made anew with one credential lately, so that one that sees nothing any more does not make a fleet twice.

    may this be made anew? --Removals.allows--> yes, counted once; no         --entries--> status.madeAnew of the ProviderConfig --read--> ...

It is counted before it is done, and written down before it is done: whoever starts again knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from trimtab.components.infrastructure.kinds import MadeAnew

WINDOW_S = 600.0
"""Within this long so many resources may be made anew as `removalsPerInterval` says."""
WRITTEN_MAX = 500
"""Entries that are written down: an object of the API has its limits, and so many are no guard of a fleet any more."""


class Removals:
    """The count of one ProviderConfig. Times are in seconds since 1970."""

    def __init__(self, written: Iterable[MadeAnew] = ()) -> None:
        self._at: dict[str, float] = {}
        for entry in written:
            try:
                self._at[entry.what] = datetime.fromisoformat(entry.at).timestamp()
            except ValueError:
                continue  # somebody else wrote it

    def allows(self, what: str, at_most: int, now_s: float) -> bool:
        """Whether one more may be made anew; counts it if so. what: names the resource and which of its lives, so that a step that is
        tried again counts once."""
        self._at = {one: at for one, at in self._at.items() if now_s - WINDOW_S < at <= now_s + WINDOW_S}
        if what in self._at:
            return True
        if len(self._at) >= at_most:
            return False
        self._at[what] = now_s
        return True

    @property
    def entries(self) -> list[MadeAnew]:
        """As they are written down, oldest first."""
        newest = sorted(self._at.items(), key=lambda one: (one[1], one[0]))[-WRITTEN_MAX:]
        return [MadeAnew(what=what, at=datetime.fromtimestamp(at, UTC).isoformat()) for what, at in newest]


__all__ = ["WINDOW_S", "Removals"]
