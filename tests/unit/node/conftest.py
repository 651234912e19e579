"""Fixtures for the node's unit tests."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator

import pytest

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def in_own_network() -> Iterator[None]:
    """The test's thread, and the programs it starts, in an empty network namespace."""
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET):
            pytest.skip("no network namespace can be made here")
        yield
    finally:
        _libc.setns(home, CLONE_NEWNET)
        os.close(home)
