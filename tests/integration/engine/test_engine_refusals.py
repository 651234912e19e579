"""What is refused at `trimtab start`, each with one line, and nothing left half-made."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from engine_at_rest import engine_at_rest
from engine_under_test import TRIMTAB, EngineUnderTest
from trimtab.engine import datadir
from trimtab.store import FORMAT as STORE_FORMAT

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def refusal(under_test: EngineUnderTest, *arguments: str) -> str:
    done = under_test.run("start", *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    """containerd is covered in a mount namespace of the command's own: for it, the program is not there."""
    command = (
        f"mount --bind /dev/null /usr/bin/containerd && exec {shlex.quote(str(TRIMTAB))} --data {tmp_path}/d start"
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "trimtab: containerd: containerd is not installed: apt-get install containerd\n"


def test_a_full_disk(small_disk: Path) -> None:
    with open(small_disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 1024)
    made = EngineUnderTest(small_disk / "engine")
    assert refusal(made) == (
        f"trimtab: the disk of {small_disk}/engine is full: free some space, or give another --data\n"
    )


def test_a_file_as_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(EngineUnderTest(tmp_path / "file")) == (
        f"trimtab: {tmp_path}/file is a file: give a directory as --data\n"
    )


def test_damaged_and_newer_settings(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "engine")
    datadir.create(made.data, {"api_port": made.api_port})
    good = (made.data / "engine.json").read_text()
    (made.data / "engine.json").write_text(good[: len(good) // 2])
    assert refusal(made).startswith(f"trimtab: {made.data}/engine.json is damaged (")
    (made.data / "engine.json").write_text(good.replace('"format": 1', '"format": 2'))
    assert f"{made.data} was written by a newer Trimtab (data format 2, this program knows 1)" in refusal(made)
    assert not (made.data / "store").exists()


def test_a_store_of_a_newer_program_starts_nothing(tmp_path: Path) -> None:
    settings = engine_at_rest(tmp_path / "engine")
    with sqlite3.connect(settings.data_path("store", "store.sqlite")) as store:
        store.execute(f"PRAGMA user_version = {STORE_FORMAT + 1}")
    store.close()

    assert refusal(EngineUnderTest(tmp_path / "engine")) == (
        f"trimtab: {settings.data} was written by a newer Trimtab (store format {STORE_FORMAT + 1}, this program knows "
        f"{STORE_FORMAT}): upgrade the program, or bring an older backup back with `trimtab restore`\n"
    )
    assert not Path(settings.run, "supervisor", "state.json").exists()
    shutil.rmtree(settings.run)


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    assert refusal(EngineUnderTest(tmp_path / "engine"), "--listen", "198.51.100.9") == (
        "trimtab: 198.51.100.9 is no address of this machine: give another --listen\n"
    )
    assert not (tmp_path / "engine").exists()


def test_a_damaged_ca_starts_nothing(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "engine")
    try:
        made.start()
        made.run("stop")
        (made.data / "pki" / "ca.crt").write_text("damaged")
        (made.data / "pki" / "apiserver.crt").unlink()

        assert f"{made.data}/pki/ca.crt is damaged (" in refusal(made)

        assert made.run("status", check=False).returncode == 3
    finally:
        made.remove()
