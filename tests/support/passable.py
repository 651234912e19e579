"""A temporary directory that other users can pass through: what pytest gives is closed to them, again by each pytest that begins."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def passable_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trimtab-test-") as made:
        os.chmod(made, 0o755)
        yield Path(made)
