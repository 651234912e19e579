"""Functions of a package that stands elsewhere, called in the process that can do nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.confinement.sandbox import ParseError, Sandbox

STRANGER = """
def double(number, fds):
    return 2 * number

def look(path, fds):
    return open(path).read()
"""


class Strangers(Sandbox):
    package = "strangers"
    who = "the function"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the package stands, behind a directory that only its owner may enter."""
    place = tmp_path / "place"
    (place / "strangers").mkdir(parents=True)
    (place / "strangers" / "__init__.py").touch()
    (place / "strangers" / "numbers.py").write_text(STRANGER)
    (tmp_path / "beside").write_text("private")
    return place


def test_a_package_of_another_place_is_called(place: Path) -> None:
    with Strangers(paths=[str(place)]) as sandbox:
        assert sandbox.run("numbers:double", 21) == 42


def test_what_stands_beside_the_package_is_not_there(place: Path) -> None:
    with Strangers(paths=[str(place)]) as sandbox, pytest.raises(ParseError, match=r"^(FileNotFound|Permission)Error"):
        sandbox.run("numbers:look", str(place.parent / "beside"))


def test_a_package_that_nobody_named_cannot_be_called(place: Path) -> None:
    with Strangers() as sandbox, pytest.raises(ParseError, match=r"^ModuleNotFoundError: No module named 'strangers'$"):
        sandbox.run("numbers:double", 21)


def test_who_comes_to_be_after_its_parent_ended_ends() -> None:
    script = (
        "import os, select\n"
        "from trimtab.confinement import confine\n"
        "parent = os.pidfd_open(os.getpid())\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "select.select([parent], [], [])\n"
        "print('the parent has ended', flush=True)\n"
        "confine.die_with(parent)\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("the parent has ended\n", "")
