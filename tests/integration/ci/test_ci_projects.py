"""Whole projects through `trimtab ci`, as an ordinary user without capabilities: our example on PostgreSQL, and somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_world import NOBODY, own
from trimtab.ci.sandbox.space import remove_tree

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
]

REPOSITORY = Path(__file__).parents[3]
CLICK = """
from trimtab.ci import image, pipeline, src, step, tests

python = image(debian=["less", "python3"], python=["pytest==8.4.2"])


@step(shard=2)
def unit(shard):
    return (
        python.workdir("/w")
        .add(src("src/**", "tests/**", "docs/conf.py", "pyproject.toml"))
        .env(PYTHONPATH="/w/src")
        .run(tests.pytest(shard, "-q"), junit="report.xml")
    )


@pipeline
def ci():
    return unit()
"""


class Somebody:
    """An ordinary user with a home, who sees the repository by a path that everybody may go."""

    def __init__(self, home: Path, source: Path) -> None:
        self.home = home
        self._source = source

    def ci(self, project: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        own(self.home)
        done = subprocess.run(
            [
                *("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
                *(str(self._source / ".venv/bin/python"), "-m", "trimtab.cli", "ci", *arguments),
            ],
            cwd=project,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env={
                **{
                    name: value
                    for name, value in os.environ.items()
                    if name.lower().endswith("_proxy") or name.startswith("PIP_")
                },
                "PATH": os.defpath,
                "HOME": str(self.home),
                "PYTHONPATH": str(self._source / "src"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done

    def run(self, project: Path, *, status: int = 0) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.ci(project, "run", "-o", "json", status=status).stdout)
        return record


@pytest.fixture(scope="module")
def somebody() -> Iterator[Somebody]:
    top = Path(tempfile.mkdtemp(prefix="trimtab-ci-"))
    top.chmod(0o755)
    source = top / "source"
    source.mkdir()
    mounted = subprocess.run(["mount", "--bind", REPOSITORY, source], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"the repository cannot be shown to another user: {mounted.stderr.strip()}")
    try:
        home = top / "home"
        home.mkdir()
        yield Somebody(home, source)
    finally:
        subprocess.run(["umount", "--lazy", source], check=True)
        remove_tree(top)


def test_the_examples_tests_run_against_postgresql_and_a_failure_can_be_entered(somebody: Somebody) -> None:
    project = somebody.home / "shipnotes"
    shutil.copytree(REPOSITORY / "examples" / "shipnotes", project, ignore=shutil.ignore_patterns("__pycache__"))

    assert somebody.run(project)["steps"]["unit"]["state"] == "succeeded"
    assert somebody.run(project)["steps"]["unit"]["state"] == "hit"

    tests = project / "tests" / "test_shipnotes.py"
    tests.write_text(tests.read_text().replace("status_code == 201", "status_code == 222", 1))
    record = somebody.run(project, status=1)
    assert record["steps"]["unit"]["state"] == "failed"
    assert "E        +  where 201 = " in "\n".join(record["steps"]["unit"]["tail"])

    query = "import os, psycopg; print(psycopg.connect(os.environ['DATABASE_URL']).execute('select count(*) from notes').fetchone()[0])"
    said = somebody.ci(project, "shell", "last/unit", "--", "python3", "-c", query).stdout
    assert int(said) > 0, "the database that the tests wrote to"


def test_the_tests_of_a_project_that_nobody_here_wrote(somebody: Somebody) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run(
        [*command, "--no-binary", ":all:", "-d", str(somebody.home), "click==8.2.1"], check=True, timeout=300
    )
    archive = somebody.home / "click-8.2.1.tar.gz"
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", archive, "-C", somebody.home], check=True)
    project = somebody.home / "click-8.2.1"
    (project / "ship.py").write_text(CLICK)

    record = somebody.run(project)

    assert {step: one["state"] for step, one in record["steps"].items()} == {
        "unit[1/2]": "succeeded",
        "unit[2/2]": "succeeded",
    }
    assert {one["state"] for one in somebody.run(project)["steps"].values()} == {"hit"}
