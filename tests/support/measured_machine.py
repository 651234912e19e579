"""The machine for tests whose engine measures it: one at a time, since there is one agent on a machine."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trimtab.components.profiling import lock, needs

WAIT_S = 300.0
LOOK_S = 0.2


def skip_unless_measurable() -> None:
    """Skips, and says why, where the kernel or its libraries give no BPF."""
    for problem in (needs.perf_event(), needs.bpf(), needs.btf(), needs.libbpf()):
        if problem is not None:
            pytest.skip(problem)


@contextmanager
def machine_to_measure() -> Iterator[None]:
    """Waits for other such tests. Skips, and says why, where the kernel gives no BPF, or when somebody else measures this machine."""
    skip_unless_measurable()
    with Path(tempfile.gettempdir(), "trimtab-test-measured-machine.lock").open("w") as turn:
        deadline = time.monotonic() + WAIT_S
        _until(deadline, lambda: _taken(turn.fileno()))
        _until(deadline, _is_free)
        yield


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free() -> bool:
    if (held := lock.take()) is None:
        return False
    held.close()
    return True


def _until(deadline: float, condition: Callable[[], bool]) -> None:
    while not condition():
        if time.monotonic() > deadline:
            pytest.skip("another engine's agent measures this machine")
        time.sleep(LOOK_S)
