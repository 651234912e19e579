"""What every test of deaths has: a world whose controllers are a process that can be killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud import Cloud
from mortal_world import MortalWorld


@pytest.fixture
async def world() -> AsyncIterator[MortalWorld]:
    folder = Path(tempfile.mkdtemp(prefix="tt-lost-", dir="/tmp"))  # sockets have short paths
    folder.chmod(0o755)
    with Cloud() as cloud:
        async with MortalWorld(folder, cloud) as one:
            yield one
    shutil.rmtree(folder)
