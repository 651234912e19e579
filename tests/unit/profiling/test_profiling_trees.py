"""Trees of stacks, against what is said of them one stack at a time."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.queries.diff import diff, top_diff
from trimtab.components.profiling.queries.shapes import Side
from trimtab.components.profiling.queries.top import sandwich, top
from trimtab.components.profiling.queries.tree import Filter, Tree, merge

NAMES = ["a", "b", "c", "dd", "ee"]


class Line(Struct):
    name: str
    file: str = ""
    line: int = 0


class Named(Struct):
    lines: list[Line]
    reason: str = ""


class Selected(Struct):
    frames: list[Frame]
    stacks: list[tuple[int, ...]]
    values: np.ndarray
    counts: np.ndarray


def select(stacks: list[tuple[list[int], int]], frames: list[Frame]) -> Selected:
    values = np.array([value for _, value in stacks], np.int64)
    return Selected(frames, [tuple(stack) for stack, _ in stacks], values, values // 10)


PYTHON = [Frame("python", name, f"{name}.py", 7) for name in NAMES]
PLAIN = [Named([Line(name, f"{name}.py", 7)]) for name in NAMES]
# The second frame is two functions of which one is inlined, the third has the same function inlined.
INLINED = [
    Named([Line(name, f"{name}.py", 7) for name in names]) for names in (["a"], ["b", "c"], ["a", "dd"], ["ee"], ["b"])
]

STACKS = st.lists(
    st.tuples(st.lists(st.integers(0, len(NAMES) - 1), max_size=8), st.integers(1, 1_000)), max_size=30
)  # fmt: skip


def paths(stacks: list[tuple[list[int], int]], names: list[Named]) -> list[tuple[list[str], int]]:
    """Of each stack the functions, outermost first."""
    return [([line.name for i in reversed(s) for line in reversed(names[i].lines)], value) for s, value in stacks]


def oracle(walked: list[tuple[list[str], int]]) -> dict[tuple[str, ...], list[int]]:
    """Self and total by path."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    found[()]
    for path, value in walked:
        found[tuple(path)][0] += value
        for depth in range(len(path) + 1):
            found[tuple(path[:depth])][1] += value
    return dict(found)


def told(
    tree: Tree, own: np.ndarray | None = None, total: np.ndarray | None = None
) -> dict[tuple[str, ...], list[int]]:
    own, total = tree.own if own is None else own, tree.total if total is None else total
    place: list[tuple[str, ...]] = []
    for parent, function in zip(tree.parent.tolist(), tree.function.tolist(), strict=True):
        place.append((*place[parent], tree.functions[function].name) if parent >= 0 else ())
    assert len(set(place)) == len(place), "a path is there twice"
    return {path: [int(own[i]), int(total[i])] for i, path in enumerate(place)}


@settings(deadline=None)
@given(STACKS, st.sampled_from([PLAIN, INLINED]))
def test_a_merge_is_what_adding_up_one_stack_after_the_other_gives(stacks, names):
    tree = merge(select(stacks, PYTHON), names)

    assert told(tree) == oracle(paths(stacks, names))
    assert (np.diff(tree.depth) >= 0).all(), "parents come first"


@settings(deadline=None)
@given(
    STACKS, st.sampled_from(["", "a", "b|dd", "e+"]), st.sampled_from(["", "c", "dd"]), st.sampled_from(["", "b", "."])
)
def test_focus_ignore_and_hide_take_stacks_and_functions_out(stacks, focus, ignore, hide):
    tree = merge(select(stacks, PYTHON), INLINED, filter=Filter(focus, ignore, hide))

    kept = [
        ([name for name in path if not (hide and re.search(hide, name))], value)
        for path, value in paths(stacks, INLINED)
        if (not focus or any(re.search(focus, name) for name in path))
        and not (ignore and any(re.search(ignore, name) for name in path))
    ]
    assert told(tree) == oracle(kept)


@settings(deadline=None)
@given(STACKS)
def test_a_table_counts_a_sample_once_however_deep_its_recursion(stacks):
    table = top(merge(select(stacks, PYTHON), INLINED), "cpu", "nanoseconds", sort="total")

    own, total = Counter(), Counter()
    for path, value in paths(stacks, INLINED):
        own.update({path[-1]: value} if path else {})
        total.update(dict.fromkeys(path, value))
    assert {row.function.name: (row.self, row.total) for row in table.rows} == {n: (own[n], total[n]) for n in total}
    assert [row.total for row in table.rows] == sorted(total.values(), reverse=True)


@settings(deadline=None)
@given(STACKS, st.sampled_from(NAMES))
def test_a_function_stands_between_its_callers_and_its_callees(stacks, name):
    tree = merge(select(stacks, PYTHON), PLAIN)
    walked = [(path, value) for path, value in paths(stacks, PLAIN) if name in path]
    if not walked:
        with pytest.raises(ValueError, match=f"^no function has '{name}' in its name"):
            sandwich(tree, name, "cpu", "nanoseconds")
        return

    both = sandwich(tree, name, "cpu", "nanoseconds")

    def answered(answer) -> dict[tuple[str, ...], int]:
        place: list[tuple[str, ...]] = []
        for parent, function in zip(answer.parent, answer.function, strict=True):
            place.append((*(place[parent] if parent >= 0 else ()), answer.functions[function].name))
        return dict(zip(place, answer.total, strict=True))

    callees, callers = Counter(), Counter()
    for path, value in walked:
        at = path.index(name)
        for end in range(at + 1, len(path) + 1):
            callees[tuple(path[at:end])] += value
        for start in range(at, -1, -1):
            callers[tuple(reversed(path[start : at + 1]))] += value
    assert answered(both.callees) == callees
    assert answered(both.callers) == callers


@settings(deadline=None)
@given(STACKS, STACKS)
def test_a_diff_has_both_sides_on_one_tree(before, after):
    tree = diff(merge(select(before, PYTHON), PLAIN), merge(select(after, PYTHON), INLINED))

    ours, theirs = oracle(paths(before, PLAIN)), oracle(paths(after, INLINED))
    both = set(ours) | set(theirs)
    assert told(tree.before) == {path: ours.get(path, [0, 0]) for path in both}
    assert told(tree.after) == {path: theirs.get(path, [0, 0]) for path in both}


@settings(deadline=None)
@given(STACKS, st.integers(1, 12))
def test_a_pruned_answer_keeps_the_greatest_and_every_total(stacks, nodes_max):
    tree = merge(select(stacks, PYTHON), PLAIN)
    answer = tree.answer("cpu", "nanoseconds", nodes_max=nodes_max)

    assert len(answer.parent) == min(nodes_max, len(tree))
    assert answer.pruned == len(tree) - len(answer.parent)
    assert sorted(answer.total, reverse=True) == sorted(tree.total.tolist(), reverse=True)[:nodes_max]
    assert all(parent < node for node, parent in enumerate(answer.parent))
    assert all(answer.total[node] <= answer.total[parent] for node, parent in enumerate(answer.parent) if node)


def test_new_and_vanished_functions_are_told_as_such():
    before = merge(select([([0], 90), ([1, 0], 10)], PYTHON), PLAIN)
    after = merge(select([([0], 45), ([2, 0], 5)], PYTHON), PLAIN)

    rows = top_diff(diff(before, after), "cpu", "nanoseconds", Side(total=0), Side(total=0), sort="self").rows

    assert {row.function.name: row.change for row in rows} == {"a": "", "b": "vanished", "c": "new"}


def test_a_diff_per_request_needs_the_requests_of_both_sides():
    tree = merge(select([([0], 90)], PYTHON), PLAIN)

    with pytest.raises(ValueError, match=r"^a diff per request needs how many requests each side covers$"):
        diff(tree, tree, per="request", before_units=10)
    assert diff(tree, tree, per="request", before_units=10, after_units=20).after_units == 20


def test_a_pattern_that_is_none_is_one_line():
    with pytest.raises(ValueError, match=r"^the pattern '\(' is not one that re2 knows: missing \)"):
        merge(select([([0], 1)], PYTHON), PLAIN, filter=Filter(focus="("))


def test_by_file_and_binary_what_stays_within_is_one():
    frames = [Frame("native", file="/usr/lib/libc.so.6", address=1), Frame("native", file="/usr/bin/app", address=2)]
    names = [Named([Line("read", "read.c", 3)]), Named([Line("inner", "app.c", 4), Line("main", "app.c", 9)])]
    selection = Selected(frames, [(0, 1, 1)], np.array([5]), np.array([1]))

    assert told(merge(selection, names, by="binary")) == {
        (): [0, 5], ("app",): [0, 5], ("app", "libc.so.6"): [5, 5],
    }  # fmt: skip
    assert told(merge(selection, names, by="file")) == {(): [0, 5], ("app.c",): [0, 5], ("app.c", "read.c"): [5, 5]}


def test_unnamed_functions_are_one_of_their_binary_when_two_builds_are_compared():
    frames = [
        Frame("native", file="/app", build_id="00", address=1),
        Frame("native", file="/app", build_id="00", address=2),
    ]
    names = [Named([Line("app+0x1")], "stripped"), Named([Line("app+0x2")], "stripped")]
    selection = Selected(frames, [(0,), (1,)], np.array([5, 6]), np.array([1, 1]))

    assert set(told(merge(selection, names))) == {(), ("app+0x1",), ("app+0x2",)}
    assert told(merge(selection, names, anonymous=True)) == {(): [0, 11], ("[unnamed in app]",): [11, 11]}


def test_what_a_stack_lacks_is_told_with_its_reason():
    selection = Selected([Frame("mark", "truncated")], [(0,)], np.array([5]), np.array([1]))

    (row,) = top(merge(selection, [Named([])]), "cpu", "nanoseconds").rows

    assert (row.function.name, row.function.reason) == ("[truncated]", "the stack is deeper than is kept")


def test_samples_of_different_weight_tell_less_than_their_number():
    selection = Selected(PYTHON, [(0,), (1,)], np.array([100, 100]), np.array([10, 1]))

    assert merge(selection, PLAIN).samples == pytest.approx(200**2 / (100**2 / 10 + 100**2))
