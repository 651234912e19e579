"""Fixtures for the engine's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_at_rest import engine_at_rest
from trimtab.engine.backup.objects import Directory
from trimtab.runtime.settings import Settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(point)], check=True)
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Settings]:
    """An engine at rest."""
    made = engine_at_rest(tmp_path / "data")
    yield made
    shutil.rmtree(made.run, ignore_errors=True)


@pytest.fixture
def volume(engine: Settings) -> Path:
    """The directory of a volume of it."""
    path = engine.data_path("node/volumes/pvc-1")
    path.mkdir(parents=True)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Directory:
    """Where its backups go."""
    return Directory(tmp_path / "backups")
