"""Schedules of five fields, and when they come due: the grammar of robfig/cron, which Kubernetes uses.

Fields are minute, hour, day of month, month, day of week: `*`, `?`, numbers, names (`jan`, `mon`), ranges, lists, steps; or a
macro (`@hourly`). When both days are given, either will do. Times are local to a zone: a time that the clock skips in spring
does not come that day, one that comes twice in autumn comes due at its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_DAYS_AHEAD_MAX = 366 * 5
"""How far a schedule is searched: Feb 29 comes within so many days, most of the time; Feb 30 never does."""


@dataclass(frozen=True)
class Schedule:
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Both days are restricted: a day that fits one of them counts."""

    def due(self, after: datetime, zone: tzinfo = UTC) -> Iterator[datetime]:
        """The moments after `after` at which it comes due, in UTC, oldest first; none when there is none in 5 years."""
        first = after.astimezone(zone).date() - timedelta(days=0 if zone is UTC else 1)
        for ahead in range(_DAYS_AHEAD_MAX):
            day = first + timedelta(days=ahead)
            if self._on(day):
                yield from (at for at in self._moments(day, zone, after) if at > after)

    def _moments(self, day: date, zone: tzinfo, after: datetime) -> Iterable[datetime]:
        """The moments of a day in order; those before the hour of `after` may be left out."""
        if zone is UTC:  # no clock to be turned: as many as are asked for, one after the other
            begin = after.astimezone(UTC)
            hours = [hour for hour in self.hours if day > begin.date() or hour >= begin.hour]
            return (datetime.combine(day, time(hour, minute), tzinfo=UTC) for hour in hours for minute in self.minutes)
        found = []
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime.combine(day, time(hour, minute), tzinfo=zone)
                moment = local.astimezone(UTC)
                if moment.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                    found.append(moment)
        return sorted(found)

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week


def parse(text: str) -> Schedule:
    """The schedule that is written in `text`.

    Raises:
        ValueError: one line that names the field and what it may be.
    """
    fields = MACROS.get(text.strip().lower(), text).split()
    if text.startswith("@") and len(fields) == 1:
        raise ValueError(f"{text} is not a known macro; use one of {', '.join(MACROS)}")
    if len(fields) != 5:
        raise ValueError("expected 5 fields: minute, hour, day of month, month, day of week")
    minute, hour, day, month, weekday = (_values(part, *spec) for part, spec in zip(fields, _FIELDS, strict=True))
    either = not _starred(fields[2]) and not _starred(fields[4])
    return Schedule(tuple(sorted(minute)), tuple(sorted(hour)), day, month, weekday, either)


def zone_of(name: str | None) -> tzinfo:
    """The time zone of that name; UTC when none is given.

    Raises:
        ValueError: there is no such zone.
    """
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name}; write one like Europe/Berlin or Etc/UTC") from None


def _starred(field: str) -> bool:
    return field[0] in "*?"


def _values(text: str, what: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    out: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        if span in ("*", "?"):
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, what, low, high, names)
            last = _number(end, what, low, high, names) if dash else (high if slash else first)
        step = 1
        if slash:
            step = int(step_text) if step_text.isdecimal() else 0
        if first > last or step < 1:
            raise ValueError(f'"{part}" is not a {what}: ranges go upwards and steps are positive numbers')
        out.update(range(first, last + 1, step))
    return frozenset(out)


def _number(text: str, what: str, low: int, high: int, names: dict[str, int]) -> int:
    value = names.get(text.lower(), int(text) if text.isdecimal() else -1)
    if not low <= value <= high:
        raise ValueError(f'"{text}" is not a {what}: it must be from {low} to {high}')
    return value
