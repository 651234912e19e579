"""One at a time opens a database of this machine's state: SQLite does not wait for its lock when it turns the log on. The ledger, which
the steps of one run open and close at the same time, is closed so as well."""

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
