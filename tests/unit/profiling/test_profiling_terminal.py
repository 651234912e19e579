"""What a terminal shows of profiles."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from trimtab.components.profiling.queries import terminal
from trimtab.components.profiling.queries.shapes import (
    ROOT,
    DiffAnswer,
    DiffRow,
    Function,
    LabelsAnswer,
    Row,
    SandwichAnswer,
    SeriesAnswer,
    Side,
    TopAnswer,
    TopDiffAnswer,
    TreeAnswer,
)

S = 1_000_000_000
SLOW = Function("slow", "/app/main.py", 12, kind="python")
QUICK = Function("quick", "/app/main.py", 40, kind="python")
BARE = Function("libc.so.6+0x1234", binary="libc.so.6", kind="native", reason="no debug information")
TREE = TreeAnswer(
    type="cpu", unit="nanoseconds", side=Side(total=10 * S, samples=190, lost={"no-room": 3}, selector='app="shop"'),
    functions=[ROOT, SLOW, QUICK, BARE], function=[0, 1, 2, 3], parent=[-1, 0, 0, 1], self=[0, 2 * S, 2 * S, 6 * S],
    total=[10 * S, 8 * S, 2 * S, 6 * S],
)  # fmt: skip
DIFF = DiffAnswer(
    type="cpu", unit="nanoseconds", per="total", before=Side(total=10 * S, units=10 * S),
    after=Side(total=20 * S, units=20 * S), functions=[ROOT, SLOW, QUICK, BARE], function=[0, 1, 2, 3],
    parent=[-1, 0, 0, 0], before_self=[0, S, 9 * S, 0], before_total=[10 * S, S, 9 * S, 0],
    after_self=[0, 10 * S, 0, 10 * S], after_total=[20 * S, 10 * S, 0, 10 * S],
)  # fmt: skip
TOP = TopAnswer(
    type="cpu", unit="nanoseconds", by="function", side=TREE.side, rows=[Row(function=SLOW, self=2 * S, total=8 * S)],
    rows_total=4,
)  # fmt: skip
TOP_DIFF = TopDiffAnswer(
    type="cpu", unit="nanoseconds", by="function", per="request", before=Side(total=S, units=100),
    after=Side(total=S, units=50), rows_total=2,
    rows=[
        DiffRow(function=SLOW, before_self=0, before_total=S, after_self=0, after_total=S),
        DiffRow(function=BARE, before_self=0, before_total=0, after_self=0, after_total=S // 2, change="new"),
    ],
)  # fmt: skip


def test_a_table():
    assert terminal.lines(TOP, width=90) == [
        'cpu: 10.00 s in 190 samples; app="shop"; samples lost: 3 no-room',
        "       self  self %                  total  total %  function",
        "     2.00 s   20.0% ██              8.00 s    80.0%  slow  /app/main.py:12",
        "and 3 more: --limit 4",
    ]


def test_a_table_of_a_diff_calls_what_was_not_there_new():
    *_, slow, bare = terminal.lines(TOP_DIFF, width=100)

    assert slow.split() == ["10.00", "ms", "20.00", "ms", "+100%", "slow", "/app/main.py:12"]
    assert bare.split()[:5] == ["0", "ns", "10.00", "ms", "new"]
    assert bare.endswith("libc.so.6+0x1234  (no debug information)")


def test_a_tree_has_a_bar_for_each_node_and_fits():
    _head, *tree = terminal.lines(TREE, width=80)

    assert [line.split("  ")[-1].strip() for line in tree[1:2]] == ["/app/main.py:12"]
    assert [re.sub(r" +", " ", line).strip()[:30] for line in tree] == [
        "100.0% 10.00 s █████████████ a", "80.0% 8.00 s ██████████▍ slow ", "60.0% 6.00 s ███████▊ libc.so.",
        "20.0% 2.00 s ██▋ quick /app/ma",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in tree)


def test_of_a_tree_with_more_nodes_than_lines_the_greatest_are_shown():
    _, *tree, rest = terminal.lines(TREE, width=80, rows=3)

    assert [line.split()[0] for line in tree] == ["100.0%", "80.0%", "60.0%"]
    assert rest == "and 1 smaller ones"


def test_a_tree_of_a_diff():
    tree = terminal.lines(DIFF, width=100)[3:]

    changes = [re.sub(r"\s*[█▏▎▍▌▋▊▉].*", "", line)[20:].strip() for line in tree]
    assert changes == ["+0.0 pts", "vanished", "+40.0 pts", "new"]


def test_an_icicle_gives_every_box_its_share_of_the_width():
    assert terminal.lines(TREE, width=40, boxes=True)[1:] == [
        "all                                    │",
        "slow                           │quick  │",
        "libc.so.6+0x1234       │",
    ]


def test_a_sandwich_is_both_halves():
    said = terminal.lines(SandwichAnswer(callers=TREE, callees=TREE), width=80)

    assert [line for line in said if line in ("callers", "callees")] == ["callers", "callees"]


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("answer", [TREE, DIFF, TOP, TOP_DIFF])
def test_colours_are_there_only_when_wanted_and_change_no_text(answer, boxes):
    without = terminal.lines(answer, width=100, boxes=boxes)
    coloured = terminal.lines(answer, width=100, boxes=boxes, colour=True)

    assert not any("\x1b" in line for line in without)
    assert any("\x1b[" in line for line in coloured)
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured]
    assert [line.replace("│", " ").rstrip() for line in bare] == [line.replace("│", " ").rstrip() for line in without]


def test_what_can_be_asked_and_when_there_was_how_much():
    labels = LabelsAnswer(labels={"app": ["blog", "shop"]}, types=[("cpu", "nanoseconds")])
    series = SeriesAnswer(type="cpu", unit="nanoseconds", start=0, step_s=10, values=[0, 2 * S, 4 * S])

    assert terminal.lines(labels) == ["types: cpu (nanoseconds)", "app: blog, shop"]
    assert terminal.lines(series) == [" ▄█  max 4.00 s in 10 s"]


def test_names_cannot_speak_to_the_terminal():
    evil = Function("x\x1b]0;owned\x07\n\u202ey", kind="native")
    answer = TopAnswer(
        type="cpu", unit="", by="function", side=Side(total=1), rows_total=1, rows=[Row(function=evil, self=1, total=1)]
    )

    text = "".join(terminal.lines(answer, width=100))

    assert "x�]0;owned��" in text
    assert not set(text) & set("\x1b\x07\n\u202e")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (1.5e9, "nanoseconds", "1.50 s"),
        (250, "nanoseconds", "250 ns"),
        (3 << 20, "bytes", "3.0 MiB"),
        (12345, "count", "12,345"),
    ],
)
def test_quantities_have_units(value, unit, said):
    assert terminal.quantity(value, unit) == said


def test_a_command_that_draws_loads_nothing_heavy():
    code = (
        "import sys, trimtab.components.profiling.queries.terminal as t;"
        "assert not {'numpy', 'polars', 'symbolic', 're2'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
