"""What test runners are told is a part of the key; what they say is kept without secrets; and the command that shows it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from trimtab.ci import tests
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.results import junit, quarantine
from trimtab.ci.results.ledger import Ledger
from trimtab.ci.results.suites import Suites, told, with_tables
from trimtab.ci.runs.ports import Found
from trimtab.ci.runs.prepare import Defined, define
from trimtab.cli.ci import main
from trimtab.secrets.scrub import Scrubber

SHIP = """
from trimtab.ci import image, pipeline, src, step, tests

py = image(debian=["python3-pytest"]).workdir("/w").env(A="1")

@step(shard=2, retry_failed_tests=2)
def unit(shard):
    return py.add(src("tests/**")).run("true").run(tests.pytest(shard, "-q", "tests"), junit="report.xml")

@step
def lint():
    return py.run("true")

@pipeline
def ci():
    return unit() & lint()
"""
TODAY = date(2026, 11, 21)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(tmp_path / "state"))
    (tmp_path / "project/tests").mkdir(parents=True)
    (tmp_path / "project/ship.py").write_text(SHIP)
    return tmp_path / "project"


@pytest.fixture
def state(project: Path) -> str:
    return str(project.parent / "state")


def defined(project: Path) -> Defined:
    return define(project, None, {})


def report(**tests: str) -> bytes:
    cases = "".join(
        f'<testcase classname="t" name="{name}" time="2">{"" if said == "" else f"<failure>{said}</failure>"}</testcase>'
        for name, said in tests.items()
    )
    return f"<testsuite>{cases}</testsuite>".encode()


def found(step: str, key: str = "k") -> Found:
    return Found(step, key, key, {}, None, "")


def test_the_command_and_what_it_is_told(project: Path, state: str) -> None:
    graph = with_tables(defined(project), state, TODAY)[0].graph
    step = graph.steps["unit[2/2]"]

    run = told(step.action(), step)["runs"][1]

    assert run["argv"][:2] == ["python3", "-c"]
    assert run["argv"][3:] == ["-p", "trimtab_tests", "-q", "tests", "--junitxml=/w/report.xml"]
    assert run["junit"] == "/w/report.xml"
    assert run["env"] == {"TRIMTAB_TESTS": "/.trimtab/tests", "TRIMTAB_SHARD": "2/2", "TRIMTAB_RETRIES": "2"}
    lint = graph.steps["lint"]
    assert told(lint.action(), lint) == lint.action()
    assert "test table" not in lint.action()


def test_the_table_is_in_the_key_and_in_the_sandbox(project: Path, state: str) -> None:
    before = with_tables(defined(project), state, TODAY)
    (project / quarantine.FILE).write_text("tests/t.py::a  until 2026-11-21  anna\n")

    held = with_tables(defined(project), state, TODAY)
    over = with_tables(defined(project), state, date(2026, 11, 22))

    keys = [one[0].graph.steps["unit[1/2]"].action()["test table"] for one in (before, held, over)]
    assert keys[0] == keys[2] != keys[1]
    blobs = Blobs(str(project.parent))
    assert held[1]["unit[1/2]"].tree(blobs.put) == keys[1]
    assert sorted(path for path, _ in blobs.files(keys[1])) == ["table.json", "trimtab_split.py", "trimtab_tests.py"]
    (project / quarantine.FILE).write_text("nonsense\n")
    with pytest.raises(DefinitionError, match="no entry"):
        with_tables(defined(project), state, TODAY)


def test_a_definition_without_test_runners_needs_no_ledger(project: Path, state: str) -> None:
    (project / "ship.py").write_text(SHIP.replace("unit() & lint()", "lint()"))

    assert with_tables(defined(project), state, TODAY)[1] == {}
    assert not Path(state, "ledger.sqlite").exists()


def suites(project: Path, state: str, run: str = "r1", secret: str = "hunter22") -> Suites:
    return Suites(state, str(project), run, Scrubber([secret]))


def test_results_are_kept_without_secrets(project: Path, state: str) -> None:
    step = with_tables(defined(project), state, TODAY)[0].graph.steps["unit[1/2]"]

    taken = suites(project, state).take(
        step, found(step.id), {"/w/report.xml": report(a="", b="it is hunter22", hunter22="")}
    )

    assert taken.counts == {"passed": 2, "failed": 1, "skipped": 0, "flaked": 0}
    assert taken.failed == ({"test": "t.b", "said": "it is ***"},)
    assert [one.id for one in junit.load(taken.blob)] == ["t.a", "t.b", "t.***"]
    assert b"hunter22" not in Path(state, "ledger.sqlite").read_bytes() + taken.blob


def test_a_report_that_is_none_is_said(project: Path, state: str) -> None:
    step = with_tables(defined(project), state, TODAY)[0].graph.steps["lint"]

    taken = suites(project, state).take(step, found("lint"), {"/w/r.xml": b"<html/>"})

    assert taken.counts == {}
    assert taken.problems == (
        "the report /w/r.xml cannot be read: it begins with <html>, a JUnit report with <testsuites> or <testsuite>",
    )


def test_uneven_shards_are_split_anew_once(project: Path, state: str) -> None:
    """Twenty tests of 2 s each, all in the first shard: the next run has ten in each, and then nothing changes."""
    tables = []
    for run in ("r1", "r2", "r3"):
        made, by_step = with_tables(defined(project), state, TODAY)
        tables.append(by_step["unit[1/2]"].tree(lambda data: "sha256:" + hashlib.sha256(data).hexdigest()))
        one = suites(project, state, run)
        names: Mapping[str, str] = {f"a{i}" if i < 19 else "b": "" for i in range(20)}
        one.take(made.graph.steps["unit[1/2]"], found("unit[1/2]"), {"/w/report.xml": report(**names)})
        one.settle()

    assert len(by_step["unit[1/2]"].seconds) in (0, 20)
    assert tables[1] == tables[2]


def test_the_ledger_on_the_terminal(project: Path, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    step = with_tables(defined(project), state, TODAY)[0].graph.steps["lint"]
    assert main(["tests", "-C", str(project)]) == 0
    assert capsys.readouterr().out.startswith("no results yet: .run(tests.pytest())")
    suites(project, state, "r1").take(step, found("lint"), {"r": report(a="", b="boom")})
    suites(project, state, "r2").take(step, found("lint"), {"r": report(a="", b="")})

    assert main(["tests", "-C", str(project)]) == 0
    assert capsys.readouterr().out.splitlines() == ["F.     2.00s  lint  t.b", "..     2.00s  lint  t.a"]
    assert main(["tests", "-C", str(project), "--flaky"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "lint  t.b  1 of 2 runs, 10% to 90%",
        "    r1: boom",
    ]
    assert main(["tests", "-C", str(project), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["outcomes"] == {"r1": "f", "r2": "p"}


def test_quarantine_by_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tests", "-C", str(project), "--quarantine", "t.py::a", "--owner", "anna", "--why", "it hops"]) == 0
    assert "t.py::a may fail until " in capsys.readouterr().out
    (entry,) = quarantine.read(project)
    assert (entry.test, entry.owner, entry.why) == ("t.py::a", "anna", "it hops")

    assert main(["tests", "-C", str(project), "--lift", "t.py::a"]) == 0
    assert quarantine.read(project) == []
    capsys.readouterr()
    assert main(["tests", "-C", str(project), "--lift", "t.py::a"]) == 2
    assert "t.py::a is not quarantined" in capsys.readouterr().err


def test_the_ledger_that_cannot_be_read(project: Path, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(state).close()
    Path(state, "ledger.sqlite").write_bytes(b"nonsense" * 1000)

    assert main(["tests", "-C", str(project)]) == 3
    assert "move it away to begin a new one" in capsys.readouterr().err


def test_arguments_of_the_runner() -> None:
    assert tests.pytest("-q").split is False
    with pytest.raises(DefinitionError, match=r"tests\.pytest\(\) takes the step's shard first"):
        tests.pytest(3)  # type: ignore[arg-type]


def burnt(test: str, source: str, *tries: str) -> bytes:
    properties = {"trimtab.node": test, "trimtab.source": source, "trimtab.tries": ",".join(tries)}
    said = "".join(f'<property name="{name}" value="{value}"/>' for name, value in properties.items() if value)
    ending = "<failure>boom</failure>" if tries[-1:] == ("failed",) else ""
    return f'<testsuite><testcase name="t"><properties>{said}</properties>{ending}</testcase></testsuite>'.encode()


def test_what_has_passed_burns_in_no_more_and_is_no_part_of_the_key(project: Path, state: str) -> None:
    ship = project / "ship.py"
    plain = with_tables(defined(project), state, TODAY)[0].graph.steps["unit[1/2]"]
    ship.write_text(SHIP.replace("retry_failed_tests=2", "burn_in=10"))
    step = with_tables(defined(project), state, TODAY)[0].graph.steps["unit[1/2]"]
    suites = Suites(state, str(project), "r1", None)
    assert suites.known(plain) is None
    assert suites.known(step) == {}
    runs = told(step.action(), step)["runs"]
    assert runs[1]["env"] == {
        "TRIMTAB_TESTS": tests.DIRECTORY,
        "TRIMTAB_SHARD": "1/2",
        "TRIMTAB_BURN_IN": "10",
        "TRIMTAB_KNOWN": tests.KNOWN,
    }

    good = suites.take(step, found(step.id), {"a": burnt("good", "s1", "passed", "passed")})
    bad = suites.take(step, found(step.id), {"b": burnt("bad", "s2", "passed", "failed")})

    assert good.counts["passed"] == 1
    assert (bad.counts["failed"], [one["test"] for one in bad.flaked]) == (1, ["bad"])
    assert suites.known(step) == {"good": "s1"}
    after = with_tables(defined(project), state, TODAY)[0].graph.steps["unit[1/2]"]
    assert after.action() == plain.action() == step.action()
    ledger = Ledger(state)
    assert [one.test for one in ledger.flakes(str(project))] == ["bad"]
    ledger.close()


def test_a_ledger_of_the_release_before_is_taken_over(project: Path, state: str) -> None:
    ledger = Ledger(state)
    ledger.record("p", "unit", "r1", "k", junit.read(report(a="")))
    ledger.close()
    old = sqlite3.connect(f"{state}/ledger.sqlite")
    old.executescript("drop table sources; pragma user_version = 1;")
    old.close()

    ledger = Ledger(state)

    assert ledger.sources("p", "unit") == {}
    assert ledger.seconds("p", "unit") == {"t.a": 2.0}
    ledger.close()
