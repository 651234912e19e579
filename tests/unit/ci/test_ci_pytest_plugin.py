"""The plugin in a pytest of its own, laid out as in a step: shards, tries, quarantine, and what its reports say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trimtab.ci import tests
from trimtab.ci.results import junit
from trimtab.ci.results.junit import TestResult

FLAKY = """
from pathlib import Path
import pytest

@pytest.fixture
def fresh():
    return []

def test_steady(fresh):
    pass

def test_flaky(fresh):
    assert fresh == []
    fresh.append(1)
    mark = Path("seen")
    mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
    assert len(mark.read_text()) > 2, "not yet"

@pytest.mark.parametrize("n", [1, 2])
def test_broken(n):
    assert n == 1

def test_next(fresh):
    assert fresh == []
"""


class Suite:
    """A directory of tests, and the plugin beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "suite").mkdir()

    def run(
        self,
        table: tests.Table | None = None,
        *,
        shard: tuple[int, int] | None = None,
        retries: int = 0,
        burn_in: int = 0,
        known: Mapping[str, str] | None = None,
    ) -> tuple[int, list[TestResult]]:
        laid = self.path / "laid"
        laid.mkdir(exist_ok=True)
        for name, data in (table or tests.Table()).files().items():
            (laid / name).write_bytes(data)
        command = tests.pytest(python=sys.executable)
        (laid / "known.json").write_text(json.dumps(known or {}))
        places = {"TRIMTAB_TESTS": str(laid), "TRIMTAB_KNOWN": str(laid)}
        env = {**os.environ, **tests.environment(shard, retries, burn_in), **places}
        done = subprocess.run(
            [
                *(part.replace(tests.DIRECTORY, str(laid)) for part in command.argv),
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={self.path}/report.xml",
                ".",
            ],
            cwd=self.path / "suite",
            env=env,
            capture_output=True,
            timeout=120,
        )
        return done.returncode, junit.read((self.path / "report.xml").read_bytes())

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / "suite" / f"{name}.py").write_text(text)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_failed_tests_alone_are_tried_again(suite: Suite) -> None:
    suite.write(test_a=FLAKY)

    status, results = suite.run(retries=2)

    by_id = {one.id: one for one in results}
    assert status == 1
    assert [(one.id, one.outcome, one.tries) for one in results] == [
        ("test_a.py::test_steady", "passed", ()),
        ("test_a.py::test_flaky", "passed", ("failed", "failed", "passed")),
        ("test_a.py::test_broken[1]", "passed", ()),
        ("test_a.py::test_broken[2]", "failed", ("failed", "failed", "failed")),
        ("test_a.py::test_next", "passed", ()),
    ]
    assert by_id["test_a.py::test_flaky"].flaked
    assert not by_id["test_a.py::test_broken[2]"].flaked
    assert by_id["test_a.py::test_broken[2]"].message.startswith("assert 2 == 1")


def test_without_retries_nothing_is_tried_again(suite: Suite) -> None:
    suite.write(test_a=FLAKY)

    status, results = suite.run()

    assert status == 1
    assert [one.outcome for one in results] == ["passed", "failed", "passed", "failed", "passed"]
    assert (suite.path / "suite/seen").read_text() == "x"


def test_a_step_is_green_when_all_that_failed_passes_in_the_end(suite: Suite) -> None:
    suite.write(test_a=FLAKY.replace("[1, 2]", "[1]"))

    status, results = suite.run(retries=2)

    assert status == 0
    assert junit.counts(results) == {"passed": 3, "failed": 0, "skipped": 0, "flaked": 1}


def test_quarantined_tests_run_and_may_fail(suite: Suite) -> None:
    suite.write(test_a=FLAKY)
    held = {
        "test_a.py::test_broken[2]": "until 2026-12-31 by anna: later",
        "test_a.py::test_flaky": "until 2026-12-31 by anna",
    }

    status, results = suite.run(tests.Table(quarantined=held))

    assert status == 0
    broken = next(one for one in results if one.id == "test_a.py::test_broken[2]")
    assert broken.outcome == "skipped"
    assert "quarantined until 2026-12-31 by anna: later" in broken.message


def test_shards_are_a_partition(suite: Suite) -> None:
    one = "import pytest\n@pytest.mark.parametrize('n', range(12))\ndef test_it(n): pass\n"
    suite.write(test_a=one, test_b=one, test_c="def test_one(): pass\n")
    table = tests.Table(
        {"test_a.py::test_it[0]": 5.0, "test_a.py::test_it[1]": 5.0}
        | {f"test_b.py::test_it[{i}]": 0.01 for i in range(9)}
    )

    parts = [suite.run(table, shard=(index, 3)) for index in (1, 2, 3)]

    assert [status for status, _ in parts] == [0, 0, 0]
    ids = [result.id for _, results in parts for result in results]
    assert len(ids) == len(set(ids)) == 25
    slow = [
        index
        for index, (_, results) in enumerate(parts)
        for one in results
        if one.id.endswith(("a.py::test_it[0]", "a.py::test_it[1]"))
    ]
    assert len(set(slow)) == 2


def test_a_shard_without_tests_is_no_failure(suite: Suite) -> None:
    suite.write(test_a="def test_one(): pass\n")

    assert sorted(suite.run(shard=(index, 2))[0] for index in (1, 2)) == [0, 0]


def test_a_file_that_cannot_be_imported_fails_every_shard(suite: Suite) -> None:
    suite.write(test_a="import nothing_of_the_kind\n", test_b="def test_one(): pass\n")

    assert [suite.run(shard=(index, 2))[0] for index in (1, 2)] == [2, 2]


def test_module_fixtures_live_as_they_should(suite: Suite) -> None:
    suite.write(
        test_a="""
import pytest
made, tried = [], []

@pytest.fixture(scope="module")
def once():
    made.append(1)
    yield
    made.append(-1)

def test_one(once): assert made == [1]
def test_two(once):
    assert made == [1]
    tried.append(1)
    assert len(tried) > 1
def test_three(once): assert made == [1]
""",
        test_b="import test_a\ndef test_after(): assert test_a.made == [1, -1]\n",
    )

    status, results = suite.run(retries=1)

    assert status == 0, results
    assert junit.counts(results) == {"passed": 3, "failed": 0, "skipped": 0, "flaked": 1}


BURNS = """
from pathlib import Path

def test_fine():
    with open("fine", "a") as file:
        file.write("x")

def test_now_and_then():
    with open("tries", "a") as file:
        file.write("x")
    assert len(Path("tries").read_text()) % 10 != 5, "the tenth time or so"
"""


def test_a_new_test_has_to_pass_often(suite: Suite) -> None:
    suite.write(test_a=BURNS)

    status, results = suite.run(burn_in=9)

    fine, flaky = results
    assert status == 1
    assert (fine.outcome, fine.tries, (suite.path / "suite/fine").read_text()) == ("passed", ("passed",) * 10, "x" * 10)
    assert (flaky.outcome, flaky.tries) == ("failed", (*("passed",) * 4, "failed"))
    assert flaky.unsteady
    assert not flaky.flaked


def test_a_known_test_passes_once_until_it_is_changed(suite: Suite) -> None:
    suite.write(test_a=BURNS)
    _, (fine, flaky) = suite.run(burn_in=1)
    known = {fine.id: fine.source, flaky.id: flaky.source}

    _, results = suite.run(burn_in=9, known=known)
    assert [one.tries for one in results] == [(), ()]

    suite.write(test_a=BURNS.replace('file.write("x")\n\ndef', 'file.write("y")\n\ndef'))
    _, (fine, flaky) = suite.run(burn_in=9, known=known)
    assert (len(fine.tries), flaky.tries) == (10, ())


def test_what_burns_in_with_retries_ends_green_and_is_told(suite: Suite) -> None:
    suite.write(test_a=BURNS)

    status, (_, flaky) = suite.run(burn_in=9, retries=1)

    assert status == 0
    assert flaky.flaked
    assert flaky.tries == (*("passed",) * 4, "failed", *("passed",) * 6)
