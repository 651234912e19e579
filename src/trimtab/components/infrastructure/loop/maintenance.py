"""When what exists may be changed: windows of the week.

windows, now --opening--> None: one is open        a time: when the next one opens
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo

from trimtab.api.cron import zone_of
from trimtab.components.infrastructure.kinds import Maintenance

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class WindowFault(ValueError):
    """A window that there cannot be: one line that names the field."""


def opening(windows: Sequence[Maintenance], now: datetime) -> datetime | None:
    """When the next window opens, in its own time zone; None when one is open, or there are none.

    Raises:
        WindowFault: a time zone that there is none of.
    """
    if not windows:
        return None
    found = [_opening(window, now, place) for place, window in enumerate(windows)]
    return None if None in found else min(one for one in found if one is not None)


def _opening(window: Maintenance, now: datetime, place: int) -> datetime | None:
    local = now.astimezone(_zone(window.time_zone, place))
    first, last = _minutes(window.start), _minutes(window.end)
    length = timedelta(minutes=(last - first) % 1440 or 1440)
    days: Sequence[str] = window.days or DAYS
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    for ahead in range(-1, 8):
        day = midnight + timedelta(days=ahead)
        if DAYS[day.weekday()] not in days:
            continue
        start = day.replace(hour=first // 60, minute=first % 60)
        if start <= local < start + length:
            return None
        if start > local:
            return start
    raise AssertionError("a week has every day")


def _zone(name: str, place: int) -> tzinfo:
    try:
        return zone_of(name)
    except ValueError as err:
        raise WindowFault(f"spec.policy.maintenance[{place}].timeZone: {err}") from None


def _minutes(text: str) -> int:
    """`02:30` -> 150."""
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


__all__ = ["DAYS", "WindowFault", "opening"]
