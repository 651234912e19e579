"""`trimtab ci` as a command: what it prints, its exit status, and that a run without changes loads the standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steps_in_process import Project
from trimtab.ci.definition.check import check
from trimtab.cli.ci import main

SHIP = """
@step(matrix={"part": ["one", "two"]})
def unit(part):
    return base.add(src("app/**")).run(f"test {part}")

@pipeline
def ci(level: int = 1):
    return unit()
"""
LOCK = json.dumps({"version": 1, "images": {"base": "sha256:" + "0" * 64}})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    made.write(SHIP, app__a_py="a", trimtab_lock=LOCK)
    monkeypatch.chdir(made.directory)
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(made.state))
    return made


def test_a_run_without_changes_loads_the_standard_library_only(project: Project) -> None:
    project.run()
    code = (
        "import sys; before = set(sys.modules); from trimtab.cli.ci import main; status = main([])\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "foreign = names - set(sys.stdlib_module_names) - {'trimtab', '__mp_main__'}\n"
        "print('foreign', sorted(foreign), 'heavy', sorted(names & {'asyncio', 'concurrent', 'subprocess', 'ssl'}))\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "foreign [] heavy []"
    assert done.stdout.startswith("ci: 2 steps, 2 unchanged; run ")
    assert "green after " in done.stdout


def test_plan_says_what_would_run_and_why(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "run       unit[part=one]  never run before  about 1.00 s"
    project.run()
    assert main(["plan", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"unchanged"}
    project.write(SHIP, app__a_py="b")
    assert main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run       unit[part=one]  input /w: app/a.py changed  about 2.00 s"


def test_history_and_log_show_what_was_recorded(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 0
    assert capsys.readouterr().out == "no run yet: trimtab ci run\n"
    record = project.run()
    assert main(["history"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(record["id"])
    for name in (f"{record['id']}/unit[part=one]", "last/unit[part=one]", "unit[part=one]"):
        assert main(["log", name]) == 0
        assert capsys.readouterr().out == "this is unit[part=one]\n"
    assert main(["log", "last/unit"]) == 2
    assert capsys.readouterr().err.endswith("has no step unit; it has unit[part=one], unit[part=two]\n")
    assert main(["log", "1999/unit"]) == 2
    assert capsys.readouterr().err == "trimtab: there is no run 1999; `trimtab ci history` lists them\n"


def test_what_is_wrong_has_its_exit_status(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 2
    assert capsys.readouterr().err == "trimtab: there is no command 'rum': did you mean `trimtab ci run`?\n"
    assert main(["plan", "--level=high"]) == 2
    assert "ship.py:8: ci(): level is 'high', which is no integer" in capsys.readouterr().err
    (project.directory / "trimtab.lock").unlink()
    assert main(["run", "--locked"]) == 2
    assert capsys.readouterr().err.endswith("ship.py:1: base is not in trimtab.lock; run `trimtab ci lock`\n")
    (project.directory / "trimtab.lock").write_text("{")
    assert main(["plan"]) == 2
    assert "trimtab.lock:1: is no JSON; take it back from version control" in capsys.readouterr().err


def test_the_schema_of_the_parameters_is_printed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "parameters of ci in ship.py",
        "type": "object",
        "properties": {"level": {"type": "integer", "default": 1}},
        "required": [],
        "additionalProperties": False,
    }


WRONG = """
@step(timeout="soon")
def slow():
    return base.run("a")

@step
def empty():
    return base.add(src("nothing/**", "app/**"))

@step
def typo():
    return base.rum("b")

@step
def above(count: int = 1):
    return base.add(typo()["x"]).add(typo()).run("c")

@step
def safe():
    return image("other").secret_env("TOKEN", secret("ci/secrets.enc.yaml#token")).run("d")

@pipeline
def ci(level: int = 1):
    return slow() & empty() & above(count="many") & safe() & above(wrong=1)

@pipeline
def nightly(depth):
    return slow()
"""


def test_check_finds_all_at_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write(WRONG)
    found = [str(one).replace(f"{project.directory}/", "") for one in check(project.directory)]
    assert found == [
        'ship.py:4: the timeout of slow() is \'soon\'; write a number of seconds, or "90s", "5m", "1h"',
        f"ship.py:10: src('nothing/**'): there is no such file below {project.directory}",
        "ship.py:14: AttributeError: 'Container' object has no attribute 'rum'",
        "ship.py:22: image other is not pinned in trimtab.lock; run `trimtab ci lock`",
        "ship.py:22: secret file ci/secrets.enc.yaml: No such file or directory",
        "ship.py:26: above(): count is 'many', which is no integer",
        "ship.py:26: above(): got an unexpected keyword argument 'wrong'",
        "ship.py:28: nightly(depth) has no type; write depth: str, int, float or bool",
    ]
    assert main(["check"]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "8 problems"


def test_check_is_quiet_when_nothing_is_wrong(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"


def test_a_definition_that_comes_out_differently_is_found(project: Project) -> None:
    project.write(
        SHIP.replace('f"test {part}"', 'f"test {id(object())} {next(count)}"')
        + "\nimport itertools\ncount = itertools.count()\n"
    )
    said = [one.message for one in check(project.directory)]
    assert said == [
        "ci() comes out differently each time: runs of unit[part=one]; a clock or a random number may be the reason"
    ]


def test_the_program_prints_all_and_ends_with_the_status(project: Project) -> None:
    project.run()
    program = [sys.executable, "-m", "trimtab.cli", "ci"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("green after ")
    wrong = subprocess.run([*program, "rum"], capture_output=True, text=True, timeout=120)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "trimtab: there is no command 'rum': did you mean `trimtab ci run`?\n"
