"""Programs of others that speak to the API: where they are, a server of their own to speak to, and how to end them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_process import ApiProcess
from kubernetes_process import KubernetesProcess

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "build/clients/bin"
SCRIPTS = ROOT / "tests/conformance/clients"
DEADLINE_S = 90.0
LOOK_S = 0.1

OWN_SERVER = pytest.mark.skipif(
    "TRIMTAB_CONFORMANCE_KUBECONFIG" in os.environ, reason="kills the server, so it needs one of its own"
)


@contextmanager
def own_server(folder: Path) -> Iterator[ApiProcess | KubernetesProcess]:
    """A server that the test may kill: ours, or the real one whose programs `TRIMTAB_KUBERNETES` holds."""
    place = folder / "server"
    place.mkdir()
    programs = os.environ.get("TRIMTAB_KUBERNETES")
    server = KubernetesProcess(place, Path(programs)) if programs else ApiProcess(place, tls=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def watched_over(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends the process whatever happens."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(holds: Callable[[], object], wanted: str | Callable[[], str], deadline_s: float = DEADLINE_S) -> None:
    """Waits until something is true. `wanted`: what, for the message of a failure."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not after {deadline_s:.0f} s: {wanted if isinstance(wanted, str) else wanted()}")
        time.sleep(LOOK_S)
