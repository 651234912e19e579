"""One engine for all tests of this folder: starting one takes seconds, and they work on apps of their own names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_under_test import EngineUnderTest, engine


@pytest.fixture(scope="session")
def running() -> Iterator[EngineUnderTest]:
    if os.geteuid() != 0:
        pytest.skip("an engine that runs containers needs root")
    with tempfile.TemporaryDirectory(prefix="trimtab-test-") as directory:
        Path(directory).chmod(0o755)
        with engine(Path(directory, "data")) as made:
            yield made
