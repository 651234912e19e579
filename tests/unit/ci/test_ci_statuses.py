"""What a run tells elsewhere: a commit's status at a real server, and a workflow's notes and table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from http_posts import Posts, listening
from steps_in_process import Project
from trimtab.ci.runs import actions
from trimtab.ci.runs.screen import summary
from trimtab.ci.runs.statuses import NoStatus, Statuses, wanted
from trimtab.cli.ci import main
from trimtab.secrets import sops
from trimtab.secrets.recipients import Rules, new_key

TOKEN = "a-token-that-nobody-sees"
SHA = "1234567890" * 4
SHIP = """
@step
def build():
    return base.run("make").output("/w/out")

@step
def unit():
    return base.add(build()).run("test")

@pipeline
def ci():
    return unit()
"""


class Forge(Posts):
    """Takes statuses as GitHub and Forgejo do: only of who may, only what they know. answers: the next ones instead."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[int] = []

    @property
    def repository(self) -> str:
        return f"{self.url}/api/v1/repos/shop/app"

    def answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        status = self.answers.pop(0) if self.answers else self._judged(headers, json.loads(body))
        return status, f"no: {headers['authorization']}".encode()

    def _judged(self, headers: Mapping[str, str], body: dict[str, Any]) -> int:
        if headers["authorization"] != f"token {TOKEN}":
            return 401
        known = body["state"] in ("pending", "success", "failure", "error") and len(body["description"]) <= 140
        return 201 if known and headers["content-type"] == "application/json" and headers["user-agent"] else 422


@pytest.fixture
def forge() -> Iterator[Forge]:
    made = Forge()
    with listening(made):
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.write(SHIP)
    return made


def env_of(forge: Forge, **more: str) -> dict[str, str]:
    return {
        "TRIMTAB_CI_STATUS": forge.repository,
        "TRIMTAB_CI_STATUS_TOKEN": TOKEN,
        "TRIMTAB_CI_STATUS_COMMIT": SHA,
    } | more


def found(project: Path, env: dict[str, str]) -> Statuses:
    statuses = wanted(project, "ci", "run-1", env)
    assert statuses is not None
    return statuses


def test_a_commit_has_the_runs_status(forge: Forge, project: Project) -> None:
    statuses = found(project.directory, env_of(forge, TRIMTAB_CI_STATUS_TARGET="https://ci.example/{run}"))
    green = project.run()
    project.does = {"unit": lambda job, write, stop: ("exit", 3)}
    red = project.run("unit", fresh=True)

    assert statuses.pending() == ""
    assert statuses.done(green, "green " * 40) == ""
    assert statuses.done(red, summary(red)[-1]) == ""
    assert statuses.done(red | {"state": "fault"}, "no room") == ""

    told = [json.loads(body) for _, _, body in forge.taken]
    assert {path for path, _, _ in forge.taken} == {f"/api/v1/repos/shop/app/statuses/{SHA}"}
    assert [body["state"] for body in told] == ["pending", "success", "failure", "error"]
    assert {(body["context"], body["target_url"]) for body in told} == {("trimtab/ci", "https://ci.example/run-1")}
    assert told[1]["description"] == ("green " * 40)[:137] + "..."
    assert told[2]["description"].startswith("red after")


def test_a_server_that_stumbles_is_asked_again_and_one_that_refuses_is_told(forge: Forge, project: Project) -> None:
    statuses = found(project.directory, env_of(forge))
    forge.answers = [502]
    assert statuses.pending() == ""
    assert len(forge.taken) == 2

    forge.answers = [403]
    assert statuses.pending() == (
        f"commit status: {forge.repository} answers 403 no: token ***; the token may not write statuses"
    )
    assert len(forge.taken) == 3

    gone = found(project.directory, env_of(forge, TRIMTAB_CI_STATUS="http://127.0.0.1:1/repos/a/b"))
    assert (
        gone.pending() == "commit status: http://127.0.0.1:1/repos/a/b does not take it: [Errno 111] Connection refused"
    )
    assert TOKEN not in repr(statuses)


def test_the_token_is_a_secret_of_the_project(
    forge: Forge, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient = new_key(tmp_path / "keys")
    sops.save(project.directory / "s.yaml", sops.encrypt(f"forge: {TOKEN}\n", "yaml", Rules([recipient])))
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "keys"))
    env = env_of(forge, TRIMTAB_CI_STATUS_SECRET="s.yaml#forge")
    del env["TRIMTAB_CI_STATUS_TOKEN"]

    assert found(project.directory, env).pending() == ""

    with pytest.raises(NoStatus, match=r"pull request 7 gets no secrets, and s.yaml#forge is one"):
        wanted(project.directory, "ci", "run", env | {"GITHUB_REF": "refs/pull/7/merge"})


def test_in_a_workflow_all_is_known(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"sha": SHA}}}))
    env = {
        "TRIMTAB_CI_STATUS": "github",
        "GITHUB_API_URL": "https://api.github.com",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "shop/app",
        "GITHUB_RUN_ID": "42",
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_SHA": "0" * 40,
    }

    assert found(tmp_path, env) == Statuses(
        "https://api.github.com/repos/shop/app",
        TOKEN,
        "0" * 40,
        "trimtab/ci",
        "https://github.com/shop/app/actions/runs/42",
    )
    assert found(tmp_path, env | {"GITHUB_EVENT_PATH": str(event)}).commit == SHA


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"TRIMTAB_CI_STATUS": "ftp://x"},
            "TRIMTAB_CI_STATUS is no address; write https://api.github.com/repos/OWNER/NAME",
        ),
        (
            {"TRIMTAB_CI_STATUS": "http://forge.example/api"},
            "http://forge.example/api would be sent the token without TLS; write https://",
        ),
        (
            {"TRIMTAB_CI_STATUS": "https://forge.example", "TRIMTAB_CI_STATUS_COMMIT": SHA},
            "there is no token; set TRIMTAB_CI_STATUS_TOKEN, or TRIMTAB_CI_STATUS_SECRET=FILE#KEY",
        ),
        (
            {"TRIMTAB_CI_STATUS": "https://forge.example"},
            "HERE is no git checkout; say the commit by TRIMTAB_CI_STATUS_COMMIT",
        ),
        (
            {"TRIMTAB_CI_STATUS": "github"},
            "TRIMTAB_CI_STATUS=github goes with a workflow of GitHub, and GITHUB_API_URL is not set",
        ),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, env: dict[str, str], said: str) -> None:
    with pytest.raises(NoStatus) as problem:
        wanted(tmp_path, "ci", "run", env)
    assert str(problem.value) == f"commit status: {said.replace('HERE', str(tmp_path))}"


def test_nothing_is_told_unasked(tmp_path: Path) -> None:
    assert wanted(tmp_path, "ci", "run", {"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": TOKEN}) is None


# A workflow of GitHub Actions


def test_a_failure_is_noted_at_its_line(project: Project, tmp_path: Path) -> None:
    def fails(job: Any, write: Any, stop: Any) -> tuple[str, int]:
        write(b"100% wrong\n::set-output name=x::y\n")
        return "exit", 3

    project.does = {"unit": fails}
    record = project.run()
    record["steps"]["unit"]["failedTests"] = [{"test": "tests/test_a.py::test_b", "said": "1, not 2"}]
    summary_file = tmp_path / "summary.md"
    env = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(project.directory),
        "GITHUB_STEP_SUMMARY": str(summary_file),
    }

    first, second = actions.notes(record, env)

    line = record["steps"]["unit"]["site"].rpartition(":")[2]
    assert first.startswith(f"::error file=ship.py,line={line},title=unit failed::")
    assert "%0A100%25 wrong%0A::set-output" in first
    assert "\n" not in first
    assert second == "::error file=tests/test_a.py,title=unit%3A a test failed::tests/test_a.py::test_b: 1, not 2"
    assert actions.summarise(record, "red", env) == ""
    table = summary_file.read_text()
    assert "### ci: red" in table
    assert "| unit | FAILED | 1.00 s |" in table
    assert "| build | ok | 2.00 s |" in table
    assert "* tests/test_a.py::test_b: 1, not 2" in table
    assert actions.summarise(record, "red", env | {"GITHUB_STEP_SUMMARY": "/nowhere/x"}) == (
        "the workflow's summary /nowhere/x cannot be written: No such file or directory"
    )


def test_a_mistake_in_the_definition_is_noted(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("\n@pipeline\ndef ci():\n    return src('/x')\n")
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(project.state))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.directory))

    assert main(["run", "-C", str(project.directory)]) == 2

    assert capsys.readouterr().err.startswith(
        "::error file=ship.py,line=6::src('/x'): patterns are relative to the directory"
    )
