"""Questions as the endpoint gets them, asked of batches as an agent writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType
from trimtab.components.profiling.queries import ask, shapes
from trimtab.components.profiling.storage.store import Profiles

MS = 1_000_000
NOW = 1_800_000_000
MAIN, WORK, SLOW = (
    Frame("python", name, "/app/main.py", line) for name, line in (("main", 3), ("work", 10), ("slow", 20))
)


class Line(msgspec.Struct):
    name: str
    file: str = ""
    line: int = 0


class Named(msgspec.Struct):
    lines: list[Line]
    reason: str = ""


class Names:
    """All these frames come with names."""

    def names(self, frames: Sequence[Frame]) -> list[Named]:
        return [Named([Line(frame.name, frame.file, frame.line)]) for frame in frames]


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    """An hour ago the image `old`, now `new`, in which half of the time is in a function that was not there."""
    kept = Profiles(tmp_path)
    for start, image, stacks in (
        (NOW - 3600, "old", [([1, 0], 100)]),
        (NOW - 20, "new", [([1, 0], 100), ([2, 1, 0], 100)]),
    ):
        kept.append(
            Batch(
                start=start, source="agent", types=[SampleType("cpu", "nanoseconds")],
                labels=[{"app": "shop", "image": image, "process": "python"}], frames=[MAIN, WORK, SLOW],
                stacks=[stack for stack, _ in stacks], lost={"no-room": 2},
                samples=[Sample(0, 0, number, count * MS, count) for number, (_, count) in enumerate(stacks)],
            )
        )  # fmt: skip
    return kept


def answered(profiles: Profiles, **parameters: str) -> shapes.Answer:
    answer = ask.answer(ask.question(parameters), profiles, Names(), NOW)
    # What goes over the wire comes back as the same.
    assert msgspec.json.decode(msgspec.json.encode(answer), type=shapes.Answer) == answer
    return answer


def test_a_table_of_the_last_minute(profiles):
    table = answered(profiles, view="top", start="-60")

    assert [(row.function.name, row.self, row.total) for row in table.rows] == [
        ("work", 100 * MS, 200 * MS), ("slow", 100 * MS, 100 * MS), ("main", 0, 200 * MS),
    ]  # fmt: skip
    assert (table.side.total, table.side.samples, table.side.lost) == (200 * MS, 200, {"no-room": 2})


def test_a_tree_of_some_labels(profiles):
    tree = answered(profiles, view="tree", start="-7200", selector='image="old"')

    assert [tree.functions[i].name for i in tree.function] == ["all", "main", "work"]
    assert tree.side.selector == 'image="old"'


def test_a_diff_of_two_images(profiles):
    tree = answered(profiles, view="diff", start="-7200", selector='image="new"', before_selector='image="old"')

    names = [tree.functions[i].name for i in tree.function]
    assert names == ["all", "main", "work", "slow"]
    assert tree.before_total == [100 * MS, 100 * MS, 100 * MS, 0]
    assert tree.after_total == [200 * MS, 200 * MS, 200 * MS, 100 * MS]
    assert (tree.before.units, tree.after.units) == (100 * MS, 200 * MS)


def test_a_diff_of_two_times_is_by_default_with_the_time_just_before(profiles):
    table = answered(profiles, view="top-diff", start="-1800")

    assert {row.function.name: row.change for row in table.rows}["slow"] == "new"
    assert (table.before.start, table.before.end) == (NOW - 3600, NOW - 1800)
    assert table.before.total == 100 * MS


def test_a_diff_per_second_knows_the_seconds(profiles):
    tree = answered(profiles, view="diff", start="-60", before_start="-7200", before_end="-1800", per="second")

    assert (tree.before.units, tree.after.units) == (5400, 60)


def test_a_sandwich(profiles):
    both = answered(profiles, view="sandwich", start="-60", function="slow")

    assert [both.callers.functions[i].name for i in both.callers.function] == ["slow", "work", "main"]


def test_lines_and_labels_have_tables_too(profiles):
    lines = answered(profiles, by="line", start="-60")
    processes = answered(profiles, by="process", start="-60")

    assert [(row.function.name, row.function.line) for row in lines.rows] == [("work", 10), ("slow", 20), ("main", 3)]
    assert [(row.function.name, row.total) for row in processes.rows] == [("python", 200 * MS)]


def test_labels_and_types_and_series(profiles):
    labels = answered(profiles, view="labels", start="-7200")
    series = answered(profiles, view="series", start="-40", end="-1", step="10")

    assert labels.labels["image"] == ["new", "old"]
    assert labels.types == [("cpu", "nanoseconds")]
    assert [value for value in series.values if value] == [200 * MS]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"view": "pie"}, "the query is not understood: Invalid enum value 'pie' - at `$.view`"),
        ({"limt": "3"}, "the query is not understood: Object contains unknown field `limt`"),
        ({"by": "colour"}, "there is no label 'colour' in that time; there are app, image, process"),
        ({"by": "app", "view": "tree"}, "only a table can be by a label (app); a tree is by function, line, file, binary"),
        ({"focus": "("}, "the pattern '(' is not one that re2 knows: missing ): ("),
        ({"view": "diff", "per": "request"}, "a diff per request needs how many requests each side covers"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line(profiles, parameters, said):
    with pytest.raises(ValueError) as refused:
        answered(profiles, **parameters)

    assert str(refused.value) == said
