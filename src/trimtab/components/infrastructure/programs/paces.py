"""Whether what is kept with a credential can be looked at as often as it says, and what to say of the ProviderConfig when it cannot.

    an object's interval, requestsPerSecond --Paces.look--> status.behind of the ProviderConfig: figures, in one line; empty when all is well

It is said when it has been so for a while, and at most once in that while: objects come and go by the hundred.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TELL_S = 60.0
Place = tuple[str, str]
"""Namespace and name of a ProviderConfig."""


@dataclass
class _Pace:
    told_at: float
    intervals: dict[str, float] = field(default_factory=dict)
    """By uid, in seconds."""


class Paces:
    """Of all ProviderConfigs of a process. Times are in seconds of a clock that only goes on."""

    def __init__(self) -> None:
        self._of: dict[Place, _Pace] = {}
        self._places: dict[str, Place] = {}

    def look(self, uid: str, place: Place, interval_s: float, per_second: float, now_s: float) -> str | None:
        """Counts an object that is looked at; returns what is to be said of its ProviderConfig, None when it is not time to say it."""
        if self._places.get(uid, place) != place:
            self.drop(uid)
        self._places[uid] = place
        pace = self._of.setdefault(place, _Pace(now_s))
        pace.intervals[uid] = interval_s
        if now_s - pace.told_at < TELL_S:
            return None
        pace.told_at = now_s
        return behind(list(pace.intervals.values()), per_second)

    def drop(self, uid: str) -> bool:
        """An object is gone, or not looked at any more. Whether that leaves none with its ProviderConfig."""
        place = self._places.pop(uid, None)
        if place is None:
            return False
        pace = self._of[place]
        del pace.intervals[uid]
        if not pace.intervals:
            del self._of[place]
        return not pace.intervals


def behind(intervals: list[float], per_second: float) -> str:
    """One line with the figures when so many looks, each in its interval of seconds, are more than may be asked; else empty."""
    wanted = sum(1 / one for one in intervals)
    if wanted <= per_second:
        return ""
    return (
        f"{len(intervals)} objects want {wanted:.3g} looks a second at their intervals, and requestsPerSecond is {per_second:g}: each is "
        f"looked at every {_duration(len(intervals) / per_second)} or so; raise requestsPerSecond or the intervals"
    )


def _duration(seconds: float) -> str:
    """`4m10s`."""
    whole = max(round(seconds), 1)
    parts = ((whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


__all__ = ["Paces", "Place", "behind"]
