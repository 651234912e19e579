"""A run at the far end: what is sent, what it runs, and far ends that are none. Its `ssh` is a shell on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import pytest

from http_posts import Posts, listening
from steps_in_process import Project
from trimtab.ci.runs.far import _passed_on, command, keep
from trimtab.ci.runs.ports import EngineFault
from trimtab.cli.ci import main

SHIP = """
@step
def unit():
    return base.add(src("app/**", exclude=["app/skip"])).run("test")

@pipeline
def ci():
    return unit()
"""
LOCK = json.dumps({"version": 1, "images": {"base": "sha256:" + "0" * 64}})
SSH = """#!/bin/sh
# ssh -- HOST COMMAND
[ "$1" = -- ] || exit 99
echo "$3" >> "{state}/calls"
export TRIMTAB_CI_DIR="{state}"
PATH="{bin}:$PATH" exec /bin/sh -c "$3"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose step has a result at the far end."""
    made = Project(tmp_path)
    made.write(SHIP, app__a_py="a", app__b_py="b", trimtab_lock=LOCK, unrelated_txt="x" * 1000)
    made.run()
    program = tmp_path / "ssh"
    program.write_text(SSH.format(state=made.state, bin=Path(sys.executable).parent))
    program.chmod(0o755)
    monkeypatch.setenv("TRIMTAB_SSH", str(program))
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(tmp_path / "here"))
    return made


def on(project: Project, *arguments: str, address: str = "ssh://builder") -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "trimtab.cli", "ci", "run", "--on", address, *arguments]
    return subprocess.run(program, cwd=project.directory, capture_output=True, text=True, timeout=200)


def test_a_run_there_finds_what_is_known_there_and_is_sent_what_is_missing(project: Project) -> None:
    first = on(project)
    assert (first.returncode, first.stdout.splitlines()[-1][:12]) == (0, "green after "), first.stderr
    assert "1 step, 1 unchanged" in first.stdout
    again = on(project)
    assert again.stderr.startswith("sent 0 of ")
    (project.directory / "ship.py").write_text("# a comment\n" + (project.directory / "ship.py").read_text())
    third = on(project, "unit", "-o", "json")
    assert third.stderr.splitlines()[0].startswith("sent 2 of "), "ship.py, and the list that names it"
    assert json.loads(third.stdout)["state"] == "succeeded"


def test_the_copy_there_is_what_is_here(project: Project) -> None:
    (project.directory / "app" / "a.py").chmod(0o755)
    (project.directory / "app" / "link").symlink_to("a.py")
    on(project, "--fresh")
    [there] = (project.state / "projects").glob("*/project")
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*") if not p.is_dir()) == [
        "app/a.py", "app/b.py", "app/link", "ship.py", "trimtab.lock",
    ]  # fmt: skip
    assert (there / "app" / "a.py").stat().st_mode & 0o777 == 0o755
    (project.directory / "app" / "b.py").unlink()
    on(project, "--fresh")
    assert not (there / "app" / "b.py").exists()


def test_the_status_of_the_far_end_is_that_of_the_command(project: Project) -> None:
    assert on(project, "--level", "3").returncode == 2
    (project.directory / "trimtab.lock").unlink()
    done = on(project)
    assert done.returncode == 2
    assert "trimtab.lock" in done.stderr


def test_both_ends_have_the_record_and_this_one_tells_the_status(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forge = Posts()
    with listening(forge):
        monkeypatch.setenv("TRIMTAB_CI_STATUS", f"{forge.url}/repos/shop/app")
        monkeypatch.setenv("TRIMTAB_CI_STATUS_TOKEN", "token")
        monkeypatch.setenv("TRIMTAB_CI_STATUS_COMMIT", "1" * 40)
        green = on(project)
        lost = on(project, address="ssh://builder/no/such/trimtab")

    assert (green.returncode, lost.returncode) == (0, 3), green.stderr
    assert "\x1e" not in green.stdout
    told = [json.loads(body) for _, _, body in forge.taken]
    assert [one["state"] for one in told] == ["pending", "success", "pending", "error"]
    assert told[1]["description"] == green.stdout.splitlines()[-1]
    assert told[3]["description"].startswith("ssh://builder/no/such/trimtab does not answer as trimtab does")
    monkeypatch.chdir(project.directory)
    [here] = listed(capsys)
    assert (here["state"], here["project"]) == ("succeeded", str(project.directory))
    assert here["id"] in green.stdout
    [there] = (project.state / "projects").glob("*/project")
    monkeypatch.chdir(there)
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(project.state))
    assert [one["id"] for one in listed(capsys)] == [here["id"]]


def test_what_stays_there_is_asked_for_there(project: Project) -> None:
    on(project)
    assert ci(project, "log", "last/unit").stdout == "this is unit\n"
    assert "unit" in ci(project, "report", "--to", "-").stdout

    project.does = {"unit": lambda job, write, stop: ("exit", 3)}
    failed = project.run(fresh=True)
    keep(failed, "ssh://builder", str(project.directory))
    ci(project, "shell", "last/unit", "--", "ls", "-l")

    calls = (project.state / "calls").read_text().splitlines()
    assert calls[-1] == f"trimtab ci shell -C {project.directory} {failed['id']}/unit -- ls -l"


def ci(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trimtab.cli", "ci", *arguments]
    return subprocess.run(command, cwd=project.directory, capture_output=True, text=True, timeout=200)


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["history", "-o", "json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_is_printed_there_passes_as_it_comes(size: int) -> None:
    mark = b"\x1emark "
    said = b"one\n\x1emar\x1e\x1emark no\x1e"[:12] + b" two \x1emax\n"
    come = BufferedReader(Trickle(said + mark + b"record", size))
    out = BytesIO()
    assert (_passed_on(come, mark, out), out.getvalue()) == (b"record", said)
    out = BytesIO()
    assert (_passed_on(BufferedReader(Trickle(said + b"\x1ema", size)), mark, out), out.getvalue()) == (
        b"",
        said + b"\x1ema",
    )


class Trickle(RawIOBase):
    """Gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        some, self._data = self._data[: self._size], self._data[self._size :]
        into[: len(some)] = some
        return len(some)


def test_a_far_end_that_is_none(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = on(project, address="ssh://builder/no/such/trimtab")
    assert done.returncode == 3
    assert "ssh://builder/no/such/trimtab does not answer as trimtab does" in done.stderr
    monkeypatch.setenv("TRIMTAB_SSH", str(tmp_path / "none"))
    done = on(project)
    assert (done.returncode, done.stderr) == (
        3,
        f"trimtab: cannot start {tmp_path / 'none'}: No such file or directory; install an ssh client\n",
    )


def test_the_call_of_ssh() -> None:
    assert command("ssh://me@host:2222", "receive", ["-p", "a=b c"], {}) == [
        "ssh", "-p", "2222", "--", "me@host", "trimtab ci receive -p 'a=b c'",
    ]  # fmt: skip
    assert command("ssh://host/opt/bin/trimtab", "receive", [], {})[-1] == "/opt/bin/trimtab ci receive"
    assert command("ssh://host", "shell", ["r/s"], {}, terminal=True) == [
        "ssh",
        "-t",
        "--",
        "host",
        "trimtab ci shell r/s",
    ]
    for wrong in ("host", "ssh://", "http://host", "ssh://-oProxyCommand=x", "ssh://host:port"):
        with pytest.raises(EngineFault, match=r"write ssh://\[USER@\]HOST\[:PORT\]\[/PATH/TO/trimtab\]"):
            command(wrong, "receive", [], {})
