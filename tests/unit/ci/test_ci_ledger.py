"""What is known of tests: times, splits that stay, flakes that are ones, and nobody called flaky who was broken."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trimtab.ci.results.heat import html
from trimtab.ci.results.junit import Outcome, TestResult
from trimtab.ci.results.ledger import RUNS_KEPT, Ledger, LedgerError, bounds
from trimtab.ci.results.split import loads, split


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(str(tmp_path))
    yield made
    made.close()


def result(id: str, outcome: Outcome = "passed", seconds: float = 1.0, tries: tuple[Outcome, ...] = ()) -> TestResult:
    return TestResult(id, outcome, seconds, "" if outcome == "passed" else "boom", "", tries)


def test_a_flake_is_the_same_content_and_another_outcome(ledger: Ledger) -> None:
    ledger.record("p", "unit", "r1", "content 1", [result("a", "failed"), result("b"), result("c", "failed")], at=1)
    ledger.record("p", "unit", "r2", "content 1", [result("a"), result("b"), result("c", "failed")], at=2)
    ledger.record("p", "unit", "r3", "content 2", [result("a"), result("b"), result("c")], at=3)
    ledger.record("p", "unit", "r4", "content 2", [result("d", tries=("failed", "passed"))], at=4)
    ledger.record("other", "unit", "r5", "content 1", [result("b", "failed")], at=5)

    found = ledger.flakes("p")

    assert {(one.test, one.runs, one.flaked, one.last_run) for one in found} == {("a", 3, 1, "r1"), ("d", 1, 1, "r4")}
    assert [one.test for one in ledger.flakes("p", "lint")] == []
    assert next(one.message for one in found if one.test == "a") == "boom"


def test_a_broken_test_is_no_flake_however_often_it_fails(ledger: Ledger) -> None:
    for run in range(30):
        ledger.record(
            "p", "unit", f"r{run}", f"content {run}", [result("a", "failed" if run % 3 else "passed")], at=run
        )

    assert ledger.flakes("p") == []


@pytest.mark.parametrize("seed", range(2))
def test_who_flakes_is_found_and_nobody_else(ledger: Ledger, seed: int) -> None:
    """200 steady tests, 20 that fail one time in ten; 40 runs with one retry. 1.5 % of the flaky never fail in 40 runs."""
    rng = random.Random(seed)
    for run in range(40):
        results = [result(f"steady {i}") for i in range(200)]
        for i in range(20):
            first, second = (rng.random() >= 0.1 for _ in range(2))
            tries: tuple[Outcome, ...] = () if first else ("failed", "passed" if second else "failed")
            results.append(result(f"flaky {i}", "passed" if first or second else "failed", tries=tries))
        ledger.record("p", "unit", f"r{run}", f"content {run}", results, at=run)

    found = ledger.flakes("p")

    assert not [one for one in found if one.test.startswith("steady")]
    assert len(found) >= 18
    assert sum(one.flaky for one in found) >= 8


def test_the_bounds_are_those_of_the_beta_distribution() -> None:
    """Against the closed form where there is one: with 0 of 1, Beta(1/2, 3/2); and by simulation."""
    rng = random.Random(1)
    for hits, trials in ((0, 1), (1, 20), (5, 10), (20, 20), (3, 400)):
        drawn = sorted(rng.betavariate(hits + 0.5, trials - hits + 0.5) for _ in range(40_000))
        low, high = bounds(hits, trials, 0.95)
        assert low == pytest.approx(drawn[2000], abs=0.012)
        assert high == pytest.approx(drawn[38_000], abs=0.012)


def test_times_are_the_middle_of_the_last(ledger: Ledger) -> None:
    for run, took in enumerate((9.0, 9.0, 9.0, 1.0, 1.1, 50.0)):
        ledger.record("p", "unit", f"r{run}", "c", [result("a", seconds=took)], at=run)

    assert ledger.seconds("p", "unit") == {"a": 9.0}
    ledger.record("p", "unit", "r9", "c", [result("a", seconds=1.2), result("b", "skipped")], at=9)
    ledger.record("p", "unit", "r10", "c", [result("a", seconds=1.3)], at=10)
    assert ledger.seconds("p", "unit") == {"a": 1.2}


def test_a_split_stays_until_shards_are_uneven(ledger: Ledger) -> None:
    """After one run the shards are even, and small changes of times change no key."""
    rng = random.Random(3)
    times = {f"t{i % 7}.py::test_{i}": rng.lognormvariate(0, 1.2) for i in range(120)}
    ledger.record("p", "unit", "r1", "c", [result(id, seconds=took) for id, took in times.items()], at=1)
    assert ledger.split("p", "unit", 4) == {}

    assert ledger.settle("p", "unit", 4) > 1.2
    planned = ledger.split("p", "unit", 4)
    busy = loads(list(times), planned, times, 4)
    assert max(busy) / (sum(busy) / 4) <= 1.10

    ledger.record(
        "p", "unit", "r2", "c", [result(id, seconds=took * rng.uniform(0.9, 1.1)) for id, took in times.items()], at=2
    )
    assert ledger.settle("p", "unit", 4) <= 1.2
    assert ledger.split("p", "unit", 4) == planned


def test_a_split_by_names_alone_gives_way_at_once(ledger: Ledger) -> None:
    """12 % over the mean is what a split by times would be left at."""
    times = {"a.py::test": 14.0, "b.py::test": 13.0, "c.py::test": 14.0, "d.py::test": 9.0}
    assert loads(list(times), ledger.split("p", "unit", 2), times, 2) == [28.0, 22.0]
    ledger.record("p", "unit", "r1", "c", [result(id, seconds=took) for id, took in times.items()], at=1)

    ledger.settle("p", "unit", 2)

    assert loads(list(times), ledger.split("p", "unit", 2), times, 2) == [27.0, 23.0]


@pytest.mark.parametrize("seed", range(20))
def test_shards_are_even(seed: int) -> None:
    rng = random.Random(seed)
    times = {f"t{i % 11}.py::test_{i}": rng.lognormvariate(0, 1) for i in range(rng.randrange(60, 400))}
    count = rng.choice((2, 3, 4, 8))

    busy = loads(list(times), times, times, count)

    longest = max(times.values())
    assert max(busy) <= max(1.10 * sum(busy) / count, longest + 1e-9)
    assert set(split(sorted(times), times, count)) == set(times)


def test_the_heat_map(ledger: Ledger) -> None:
    ledger.record("p", "unit", "r1", "c1", [result("a"), result("b", "failed")], at=1)
    ledger.record("p", "unit", "r2", "c2", [result("a", tries=("failed", "passed")), result("c", "skipped")], at=2)

    heat = ledger.heat("p")

    assert list(heat.runs) == ["r1", "r2"]
    assert dict(zip(heat.rows, map(list, heat.cells), strict=True)) == {
        ("unit", "a"): ["p", "k"],
        ("unit", "b"): ["f", ""],
        ("unit", "c"): ["", "s"],
    }
    assert heat.rows[0] == ("unit", "a")
    assert {(heat.rows[row][1], heat.runs[column]): said for (row, column), said in heat.said.items()} == {
        ("b", "r1"): "boom"
    }
    assert list(heat.at) == [1.0, 2.0]


def test_old_runs_go(ledger: Ledger) -> None:
    for run in range(RUNS_KEPT + 5):
        ledger.record("p", "unit", f"r{run:04}", "c", [result("a")], at=run)

    heat = ledger.heat("p", runs=10_000)

    assert len(heat.runs) == RUNS_KEPT
    assert heat.runs[0] == "r0005"


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"nonsense" * 1000)

    with pytest.raises(LedgerError) as caught:
        Ledger(str(tmp_path))

    assert str(caught.value) == f"{tmp_path}/ledger.sqlite: file is not a database; move it away to begin a new one"


def test_the_page_of_the_heat_map_has_no_markup_of_tests(ledger: Ledger) -> None:
    ledger.record("p", "unit", "r1", "c1", [TestResult("<img src=x>", "failed", 1.0, "</script><b>boom")], at=1)

    page = html(ledger.heat("p"), "<p>")

    assert "<img" not in page
    assert "</script><b>" not in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert (data["rows"], data["cells"], data["said"]) == (["unit  <img src=x>"], ["f"], {"0,0": "</script><b>boom"})


def test_steps_that_end_together_begin_one_ledger(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def opened(directory: Path) -> None:
        together.wait()
        Ledger(str(directory)).close()

    with ThreadPoolExecutor(4) as pool:
        for number in range(20):
            directory = tmp_path / str(number)
            directory.mkdir()
            for one in [pool.submit(opened, directory) for _ in range(4)]:
                one.result()
