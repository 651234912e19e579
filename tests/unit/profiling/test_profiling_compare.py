"""An App's new image beside the one before, on batches as an agent writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from trimtab.components.profiling.batch import TIME_S, Batch, Frame, Sample, SampleType
from trimtab.components.profiling.queries import compare, shapes, terminal
from trimtab.components.profiling.storage.store import Profiles

T = 1_800_000_000
"""When the new image took over."""
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NAMES = ["main", "serve", "render", "query", "digest"]
FRAMES = [Frame("python", name, "/app/main.py", 1) for name in NAMES]
STACKS = [[2, 1, 0], [3, 1, 0], [4, 1, 0]]


class Line(msgspec.Struct):
    name: str
    file: str = ""
    line: int = 0


class Named(msgspec.Struct):
    lines: list[Line]
    reason: str = ""


class Names:
    def names(self, frames: Sequence[Frame]) -> list[Named]:
        return [Named([Line(f.name, f.file, f.line)]) for f in frames]


Run = Callable[..., None]


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(tmp_path)


@pytest.fixture
def run(profiles: Profiles) -> Run:
    """Lets an image run: so many samples of each stack in ten seconds."""

    def ran(image: str, start: int, seconds: int, *counts: int, app: str = "shop") -> None:
        labels = [{"namespace": "default", "app": app, "image": image}]
        for at in range(start, start + seconds, TIME_S):
            samples = [Sample(0, 0, stack, count * 52_631_578, count) for stack, count in enumerate(counts) if count]
            profiles.append(
                Batch(
                    start=at, source="agent", types=[SampleType("cpu", "nanoseconds")], labels=labels, frames=FRAMES,
                    stacks=STACKS, samples=samples,
                )
            )  # fmt: skip

    return ran


def asked(profiles: Profiles, now: int, **more: str) -> shapes.CompareAnswer:
    told = {"view": "compare", "namespace": "default", "app": "shop", "since": str(T), **more}
    answer = compare.compare(compare.comparison(told), profiles, Names(), now)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=shapes.Answer) == answer
    return answer


def test_a_function_that_became_slower_is_named_with_its_share_before_and_after(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 40, 50, 30)

    answer = asked(profiles, T + 240)

    assert (answer.state, answer.before_image, answer.after_image, answer.per) == ("compared", OLD, NEW, "total")
    assert [(g.function.name, g.function.file) for g in answer.grown] == [("digest", "/app/main.py")]
    assert answer.grown[0].before == pytest.approx(0.1)
    assert answer.grown[0].after == pytest.approx(0.25)
    assert round(answer.before.samples) == 1_800
    assert round(answer.after.samples) == 120 * 18, "without the minute of its start"
    assert "   10.0%    25.0%   +15.0 pts  digest  /app/main.py:1" in terminal.lines(answer, width=100)


def test_the_same_program_again_has_nothing_that_grew(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 40, 51, 9)

    answer = asked(profiles, T + 240)

    assert (answer.state, answer.functions, answer.grown) == ("compared", 5, [])


def test_other_apps_and_the_start_of_the_program_do_not_count(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T - 180, 420, 0, 0, 100, app="other")
    run(NEW, T - 30, 60, 0, 0, 400)
    run(NEW, T + 30, 240, 40, 50, 10)

    answer = asked(profiles, T + 270)

    assert (answer.state, answer.grown) == ("compared", [])
    assert answer.before.end == T - 30, "what the old one did while the new one came up is left out"


def test_with_few_samples_it_waits_and_in_the_end_says_so(profiles, run):
    run(OLD, T - 180, 180, 14, 15, 1)
    run(NEW, T, 240, 3, 3, 0)

    assert asked(profiles, T + 600).state == "waiting"
    assert asked(profiles, T + 3_700).state == "waiting"
    assert asked(profiles, T + 3_700, min_samples="100").state == "compared"
    assert asked(profiles, T + 90_000).state == "too-few"


def test_for_more_samples_of_the_image_before_it_does_not_wait(profiles, run):
    run(OLD, T - 180, 180, 14, 15, 1)
    run(NEW, T, 240, 40, 50, 10)

    assert asked(profiles, T + 150).state == "waiting"
    assert asked(profiles, T + 240).state == "compared"
    assert asked(profiles, T + 240, min_samples="600").state == "waiting"


def test_before_there_is_anything_of_the_new_image_it_waits(profiles, run):
    assert asked(profiles, T + 60).state == "waiting"
    run(OLD, T - 180, 360, 40, 50, 10)
    assert asked(profiles, T + 600).state == "waiting"
    assert asked(profiles, T + 4_000).state == "same-image"


def test_of_several_images_before_the_one_that_was_replaced_is_meant(profiles, run):
    run("sha256:older", T - 7_200, 30, 40_000, 50_000, 30_000)
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 40, 50, 30)

    assert asked(profiles, T + 240).before_image == "sha256:older", "most samples"
    assert asked(profiles, T + 240, before_image=OLD).before_image == OLD


def test_requests_that_cost_more_are_seen_although_all_shares_are_the_same(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 80, 100, 20)
    served = ",".join(["1000"] * 15)

    shares = asked(profiles, T + 240)
    requests = asked(profiles, T + 240, requests_start=str(T - 600), requests=served)

    assert shares.grown == []
    assert requests.per == "request"
    assert requests.cost_after == pytest.approx(2 * requests.cost_before)
    assert {g.function.name for g in requests.grown} == {"main", "serve", "render", "query", "digest"}


def test_callers_of_what_became_slower_are_not_named_and_what_grew_besides_is(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 52, 50, 40)

    answer = asked(profiles, T + 240, requests_start=str(T - 180), requests=",".join(["1000"] * 7))

    assert answer.per == "request"
    assert [g.function.name for g in answer.grown] == ["digest", "render"], "not main and serve, which grew by both"


def test_a_caller_that_grew_by_the_same_factor_is_named_with_what_it_calls(profiles, run):
    """`query` alone calls `digest`, now three times as often."""
    STACKS.append([4, 3, 1, 0])
    try:
        run(OLD, T - 180, 180, 70, 1, 0, 20)
        run(NEW, T, 240, 70, 1, 0, 60)
    finally:
        STACKS.pop()

    assert {g.function.name for g in asked(profiles, T + 240).grown} == {"query", "digest"}


def test_what_the_interpreter_does_for_a_function_is_the_functions(profiles, run):
    """More is allocated in `digest`: what grew by the greatest factor is the interpreter's `PyObject_Free`."""
    FRAMES.append(Frame("native", "PyObject_Free", "/usr/bin/python3.11", build_id="ab" * 20, address=64))
    STACKS.append([5, 4, 1, 0])
    try:
        run(OLD, T - 180, 180, 40, 50, 9, 1)
        run(NEW, T, 240, 40, 50, 19, 11)
    finally:
        STACKS.pop()
        FRAMES.pop()

    answer = asked(profiles, T + 240)

    assert [(g.function.name, round(100 * g.before)) for g in answer.grown] == [("digest", 10)]


def test_requests_at_times_when_nothing_was_measured_do_not_count(profiles, run):
    """The agent was away for half of the time before."""
    run(OLD, T - 600, 200, 40, 50, 10)
    run(OLD, T - 60, 60, 40, 50, 10)
    run(NEW, T, 240, 40, 50, 10)

    answer = asked(profiles, T + 240, requests_start=str(T - 600), requests=",".join(["1000"] * 15))

    assert (answer.per, answer.grown) == ("request", [])
    assert answer.cost_after == pytest.approx(answer.cost_before)


def test_samples_of_minutes_whose_requests_are_not_known_do_not_make_requests_dearer(profiles, run):
    """Asked in the middle of a minute, of which the proxy's log has a part, and the profiles too; the new image came in one."""
    run(OLD, T - 230, 240, 80, 100, 20)
    run(NEW, T + 10, 280, 80, 100, 20)

    answer = asked(profiles, T + 290, requests_start=str(T - 180), requests=",".join(["1000"] * 7))

    assert (answer.per, answer.grown) == ("request", [])
    assert (answer.before.start, answer.before.end) == (T - 180, T)
    assert (answer.after.start, answer.after.end) == (T + 120, T + 240)
    assert answer.cost_after == pytest.approx(answer.cost_before)


def test_it_waits_for_the_first_whole_minute_of_the_new_image(profiles, run):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 110, 400, 500, 100)

    assert asked(profiles, T + 110, requests_start=str(T - 180), requests=",".join(["1000"] * 4)).state == "waiting"


@pytest.mark.parametrize("requests", [["1000"] * 5, ["0"] * 15])
def test_requests_that_are_not_known_of_all_the_time_are_not_used(profiles, run, requests):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 40, 50, 10)
    start = T - 60 * (len(requests) - 5)

    assert asked(profiles, T + 240, requests_start=str(start), requests=",".join(requests)).per == "total"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"since": "soon"}, "the query is not understood: Expected `int`, got `str` - at `$.since`"),
        ({"requests_start": str(T - 600), "requests": "1,x"}, "requests are whole numbers with commas between"),
    ],
)
def test_what_cannot_be_compared_is_one_line(profiles, run, more, said):
    run(OLD, T - 180, 180, 40, 50, 10)
    run(NEW, T, 240, 40, 50, 10)

    with pytest.raises(ValueError) as refused:
        asked(profiles, T + 240, **more)

    assert str(refused.value) == said
