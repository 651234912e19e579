"""One at a time opens or closes a database of this machine's state: SQLite does not wait for its lock when it turns the log on,
nor for the last to close, who takes the log away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def alone(path: str) -> Iterator[None]:
    """Whoever opens or closes the database at `path`, in this process or another, waits for this. Raises `OSError`."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
