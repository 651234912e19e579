"""elfutils' debuginfod on loopback, for what is named by it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.profiling.symbols.sources import Patience

DEADLINE_S = 120.0
AT_ONCE = Patience(
    found_s=0, not_found_s=0, unreachable_s=0, local_s=0, first_wait_s=DEADLINE_S, again_wait_s=DEADLINE_S
)

needs_debuginfod = pytest.mark.skipif(
    not shutil.which("debuginfod"), reason="there is no debuginfod here: apt install debuginfod"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served_by_debuginfod(directory: Path, build_id: str) -> Iterator[str]:
    """elfutils' server, once it knows that build."""
    port = free_port()
    command = ["debuginfod", "-p", str(port), "-d", ":memory:", "-F", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + DEADLINE_S
            while True:
                assert time.monotonic() < deadline, "debuginfod does not know the file"
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/buildid/{build_id}/debuginfo"):
                    break
            yield url
        finally:
            server.terminate()
