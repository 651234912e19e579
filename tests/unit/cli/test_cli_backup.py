"""What `trimtab backup` takes its arguments for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NO_ENGINE = "there is no engine at /nonexistent"


def called(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "--data", "/nonexistent", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "arguments", [("/vault",), ("create", "/vault"), ("--keep", "3", "/vault"), ("/vault", "-o", "json")]
)
def test_a_target_alone_means_a_backup(arguments: tuple[str, ...]) -> None:
    done = called("backup", *arguments)

    assert (done.returncode, done.stdout) == (3, "")
    assert NO_ENGINE in done.stderr


def test_the_environment_may_name_the_target(tmp_path: Path) -> None:
    assert NO_ENGINE in called("backup", TRIMTAB_BACKUP=str(tmp_path)).stderr
    assert NO_ENGINE in called("backup", "--keep", "3", TRIMTAB_BACKUP=str(tmp_path)).stderr
    assert f"{tmp_path} holds no backup" in called("backup", "list", TRIMTAB_BACKUP=str(tmp_path)).stderr
    assert "schedule " in called("backup").stderr


def test_a_place_without_backups_is_not_an_empty_list(tmp_path: Path) -> None:
    done = called("backup", "list", str(tmp_path / "misspelt"))

    assert done.returncode == 4
    assert done.stderr == (
        f"trimtab: {tmp_path}/misspelt holds no backup, and never did: is it the right place, and mounted?\n"
    )


def test_a_restore_wants_a_key() -> None:
    done = called("restore", "/vault")

    assert done.returncode == 2
    assert "give --key FILE, the age identity that opens the backup" in done.stderr
