"""`trimtab ci why`: what is said of a step that ran, did not run, or was never there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steps_in_process import Project
from trimtab.ci.cache.why import ago
from trimtab.cli.ci import main

SHIP = """
@step
def build():
    return base.env(MODE="a").add(src("app/**")).run("make").output("/w/out")

@step
def unit():
    return base.add(build(), to="/w/out").run("make test")

@pipeline
def ci():
    return unit() & build()
"""
FILES = {"app__a_py": "a", "app__b_py": "b", "app__c_py": "c"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    made.write(SHIP, **FILES)
    monkeypatch.chdir(made.directory)
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(made.state))
    return made


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["why", *arguments]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    return [first.partition(" in run ")[0], *rest]


def test_a_first_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run()
    assert said(capsys, "build") == ["build ran", "  never run before"]
    project.run()
    lines = said(capsys, "unit")
    assert lines[0] == "unit did not run"
    assert lines[1].startswith("  made by unit on 20")


def test_every_component_and_every_file_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    first = project.run()
    project.write(SHIP.replace('MODE="a"', 'MODE="b", MORE="c"'), **{**FILES, "app__a_py": "A", "app__d_py": "d"})
    (project.directory / "app" / "c.py").unlink()
    project.run()
    assert said(capsys, "build") == [
        "build ran",
        "  env MODE: a -> b",
        "  env MORE added: c",
        "  input /w: app/a.py changed (+2 files)",
        "    app/a.py changed",
        "    app/c.py removed",
        "    app/d.py added",
    ]
    assert said(capsys, "unit") == ["unit ran", "  input /w/out: made.json changed"]
    assert said(capsys, "build", first["id"]) == ["build ran", "  never run before"]


def test_as_json(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run()
    project.write(SHIP, app__a_py="A")
    project.run()
    assert main(["why", "build", "-o", "json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["reason"] == "input /w: app/a.py changed"
    [change] = doc["changes"]
    assert (change["component"], change["what"], change["files"]) == ("input /w", "changed", {"app/a.py": "~"})
    assert change["before"] != change["after"]


def test_what_was_evicted(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run()
    assert main(["cache", "prune", "--size", "0"]) == 0
    project.run()
    capsys.readouterr()
    lines = said(capsys, "build")
    assert lines[0] == "build ran"
    assert re.fullmatch(r"  evicted \d+ s ago by the size limit", lines[1])


def test_what_there_is_not(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "build"]) == 2
    assert capsys.readouterr().err == "trimtab: there is no run last; `trimtab ci history` lists them\n"
    project.run()
    assert main(["why", "biuld"]) == 2
    assert "has no step biuld; it has build, unit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (3, "3 s"), (125, "2 min"), (3 * 3600 + 5, "3 h"), (3 * 86400, "3 days")],
)
def test_spans_of_time(seconds: float, expected: str) -> None:
    assert ago(seconds) == expected
