"""What is said of a credential with which more is kept than it may ask for."""

from __future__ import annotations

from trimtab.components.infrastructure.programs.paces import TELL_S, Paces, behind

PLACE = ("default", "cloud")


def test_the_figures_are_said_only_when_the_intervals_cannot_be_kept() -> None:
    assert behind([60.0] * 120, 2.0) == ""
    assert behind([60.0] * 500, 2.0) == (
        "500 objects want 8.33 looks a second at their intervals, and requestsPerSecond is 2: each is looked at every 4m10s or so; "
        "raise requestsPerSecond or the intervals"
    )
    assert "every 1h or so" in behind([60.0] * 360, 0.1)


def test_it_is_said_once_in_a_while_of_all_that_were_looked_at() -> None:
    paces = Paces()
    assert [paces.look(str(n), PLACE, 1.0, 2.0, 0.0) for n in range(9)] == [None] * 9
    told = paces.look("0", PLACE, 1.0, 2.0, TELL_S)
    assert told is not None
    assert told.startswith(
        "9 objects want 9 looks a second at their intervals, and requestsPerSecond is 2: each is looked at every 4s "
    )
    assert paces.look("1", PLACE, 1.0, 2.0, TELL_S + 1) is None
    assert paces.look("1", PLACE, 1.0, 9.0, TELL_S * 2) == ""


def test_what_is_gone_or_of_another_credential_counts_no_more() -> None:
    paces = Paces()
    for uid in ("a", "b", "c"):
        paces.look(uid, PLACE, 1.0, 2.0, 0.0)
    paces.look("c", ("default", "other"), 1.0, 2.0, 0.0)
    assert paces.look("a", PLACE, 1.0, 2.0, TELL_S) == ""
    assert [paces.drop(uid) for uid in ("a", "a", "b", "c", "d")] == [False, False, True, True, False]
