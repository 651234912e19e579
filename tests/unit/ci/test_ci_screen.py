"""What people see while a run goes on: lines, and on a terminal the steps that run now."""

from __future__ import annotations

from io import StringIO

import pytest

from trimtab.ci.runs.ports import Found
from trimtab.ci.runs.run import Did
from trimtab.ci.runs.screen import Live, Plain, command_text, seconds_text, shown

FOUND = Found("unit", "d", "c", {}, None, "never run before")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.00 s"), (9.99, "9.99 s"), (12.34, "12.3 s"), (59.96, "60.0 s"), (65, "1 m 05 s"), (3720, "1 h 02 m")],
)
def test_seconds_are_told_as_people_tell_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("over\rwritten\x08", "overwritten"),
        ("a\tb", "a       b"),
        ("naïve ✓", "naïve ✓"),
        ("\x9b31mred", "31mred"),
    ],
)
def test_what_a_step_prints_cannot_move_the_cursor(line: str, text: str) -> None:
    assert shown(line) == text


def test_a_command_for_the_shell_is_shown_as_it_was_said() -> None:
    assert command_text(["/bin/sh", "-ec", "make | tee log"]) == "make | tee log"
    assert command_text(["make", "a b"]) == "make 'a b'"


def test_verbose_lines_come_whole_and_with_their_step() -> None:
    out = StringIO()
    plain = Plain(out, verbose=True)
    plain.prints("unit", b"one\ntw")
    plain.prints("lint", b"other\n")
    plain.prints("unit", b"o\nrest")
    plain.ends("unit", Did("succeeded", FOUND, seconds=1.0))
    assert out.getvalue().splitlines() == [
        "  unit | one",
        "  lint | other",
        "  unit | two",
        "  unit | rest",
        "  ok        unit  1.00 s",
    ]


def test_the_picture_shows_what_runs_and_is_wiped_before_lines() -> None:
    out = StringIO()
    live = Live(out, colour=False)
    live.starts("unit", "never run before")
    live.prints("unit", b"collecting\n\x1b[1mtest 1\x1b[0m\n\n")
    live.tick()
    picture = out.getvalue().rpartition("\x1b[J")[2]
    assert picture.startswith("  > unit  0.0")
    assert picture.endswith("test 1\n")
    live.ends("unit", Did("succeeded", FOUND, seconds=1.0))
    after = out.getvalue().rpartition("\x1b[J")[2]
    assert after == "  ok        unit  1.00 s\n"


def test_many_running_steps_are_counted() -> None:
    out = StringIO()
    live = Live(out, colour=False)
    for number in range(15):
        live.starts(f"s{number}", "")
    assert out.getvalue().endswith("  > and 3 more\n")
    live.close()
    assert out.getvalue().endswith("\x1b[13A\x1b[J")
