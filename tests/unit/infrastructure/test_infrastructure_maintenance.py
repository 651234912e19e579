"""Maintenance windows: open exactly when the week says so, and when the next one opens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.infrastructure.kinds import Maintenance
from trimtab.components.infrastructure.loop.maintenance import DAYS, WindowFault, opening

SATURDAY = datetime(2026, 1, 3, 12, 0, tzinfo=UTC)
TIMES = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))


def test_a_window_that_crosses_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    night = Maintenance(days=["Sat"], start="22:00", end="04:00")
    assert opening([night], SATURDAY) == SATURDAY.replace(hour=22)
    assert opening([night], SATURDAY.replace(hour=23)) is None
    assert opening([night], SATURDAY + timedelta(hours=15)) is None  # Sunday, 3:00
    assert opening([night], SATURDAY + timedelta(hours=16)) == SATURDAY.replace(hour=22) + timedelta(days=7)
    assert opening([], SATURDAY) is None
    assert opening([Maintenance()], SATURDAY) is None  # all day, every day


def test_a_window_is_of_its_own_time_zone() -> None:
    berlin = Maintenance(start="13:00", end="14:00", time_zone="Europe/Berlin")
    assert opening([berlin], SATURDAY) is None
    told = opening([berlin], SATURDAY + timedelta(hours=2))
    assert told is not None
    assert f"{told:%a %H:%M} {told:%Z}" == "Sun 13:00 CET"
    # The same hour of the clock on the day in which the clock is put forward.
    spring = datetime(2026, 3, 28, 20, 0, tzinfo=UTC)
    assert opening([berlin], spring) == datetime(2026, 3, 29, 11, 0, tzinfo=UTC)
    with pytest.raises(WindowFault) as fault:
        opening([Maintenance(), Maintenance(time_zone="Mars/Olympus")], SATURDAY)
    assert str(fault.value) == (
        "spec.policy.maintenance[1].timeZone: unknown time zone Mars/Olympus; write one like Europe/Berlin or Etc/UTC"
    )


@given(
    st.lists(st.sampled_from(DAYS), unique=True),
    TIMES,
    TIMES,
    st.integers(0, 7 * 24 * 60 - 1).map(lambda m: timedelta(minutes=m)),
)
def test_it_opens_at_the_first_minute_in_which_it_is_open(
    days: list[str], start: str, end: str, later: timedelta
) -> None:
    window = Maintenance(days=days, start=start, end=end)  # type: ignore[arg-type]
    now = SATURDAY + later
    opens = opening([window], now)
    if opens is not None:
        assert now < opens <= now + timedelta(days=7)
        assert opening([window], opens) is None
        assert opening([window], opens - timedelta(minutes=1)) == opens
