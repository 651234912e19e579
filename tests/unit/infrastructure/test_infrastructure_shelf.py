"""Directories that a provider may read: those that its user cannot come to are found before it is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trimtab.components.infrastructure.commands.commanding import _refuse_closed
from trimtab.components.infrastructure.programs.shelf import closed
from trimtab.runtime.commands import Refused

USER = "nobody"


@pytest.fixture
def open_to_all(tmp_path: Path) -> Path:
    """A directory that everybody may come to, as far as this test can make it so."""
    above = [one for one in tmp_path.parents if one.stat().st_mode & 0o001 == 0]
    for one in (*(one for one in above if one.stat().st_uid == os.geteuid() and one.is_relative_to("/tmp")), tmp_path):
        one.chmod(0o755)
    if any(one.stat().st_mode & 0o001 == 0 for one in tmp_path.parents):
        pytest.skip(f"{tmp_path} lies where only we may come to: give --basetemp another place")
    return tmp_path


def test_what_everybody_may_read_is_open(open_to_all: Path) -> None:
    assert closed(open_to_all, USER) is None


@pytest.mark.parametrize(
    ("shut", "mode", "said"),
    [
        ("home", 0o700, "what is below {} (mode 0700 of {}): put it where everybody may read, such as below /opt, or chmod o+x {}"),
        ("home/tools", 0o711, "this directory (mode 0711): put it where everybody may read, such as below /opt, or chmod o+rx {}"),
    ],
)  # fmt: skip
def test_a_directory_that_the_user_cannot_come_to_is_named_with_the_fix(
    open_to_all: Path, shut: str, mode: int, said: str
) -> None:
    wanted = open_to_all / "home" / "tools"
    wanted.mkdir(parents=True)
    (open_to_all / "home").chmod(0o755)
    (open_to_all / shut).chmod(mode)

    with pytest.raises(Refused) as refused:
        _refuse_closed([wanted], USER)

    line = said.replace("{}", str(open_to_all / shut))
    assert refused.value.message == (f"--read {wanted}: the user {USER}, as whom providers run, may not read {line}")


def test_the_programs_own_directories_are_in_view_wherever_they_lie() -> None:
    assert closed(Path(sys.prefix), USER) is None
