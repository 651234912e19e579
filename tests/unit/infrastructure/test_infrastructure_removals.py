"""What may be made anew within ten minutes: so many, each counted once, and known again by who starts later."""

from __future__ import annotations

from trimtab.components.infrastructure.kinds import MadeAnew
from trimtab.components.infrastructure.programs.removals import WINDOW_S, WRITTEN_MAX, Removals

NOW = 1_900_000_000.0


def test_so_many_are_allowed_within_the_window() -> None:
    removals = Removals()
    assert [removals.allows(f"web-{i}", 3, NOW + i) for i in range(5)] == [True, True, True, False, False]
    assert not removals.allows("web-5", 3, NOW + WINDOW_S - 1)
    assert removals.allows("web-5", 3, NOW + WINDOW_S + 1)


def test_a_step_that_is_tried_again_counts_once() -> None:
    removals = Removals()
    assert all(removals.allows("web/1", 1, NOW + i) for i in range(5))
    assert not removals.allows("web/2", 1, NOW + 5)


def test_none_is_none() -> None:
    assert not Removals().allows("web", 0, NOW)


def test_who_starts_later_knows_of_it() -> None:
    removals = Removals()
    for i in range(3):
        removals.allows(f"web-{i}", 3, NOW + i)
    later = Removals(removals.entries)
    assert later.entries == removals.entries
    assert [one.what for one in later.entries] == ["web-0", "web-1", "web-2"]
    assert not later.allows("web-3", 3, NOW + 10)
    assert later.allows("web-1", 3, NOW + 10)


def test_what_somebody_else_wrote_there_does_no_harm() -> None:
    written = [MadeAnew(what="web", at="yesterday"), MadeAnew(what="db", at="2999-01-01T00:00:00+00:00")]
    assert Removals(written).allows("one", 1, NOW)


def test_no_more_than_an_object_can_hold_is_written_down() -> None:
    removals = Removals()
    for i in range(WRITTEN_MAX + 100):
        removals.allows(f"web-{i}", 10**6, NOW + i / 1000)
    assert len(removals.entries) == WRITTEN_MAX
    assert removals.entries[-1].what == f"web-{WRITTEN_MAX + 99}"
