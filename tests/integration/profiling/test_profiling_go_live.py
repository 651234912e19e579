"""A live Go program is asked for its own profiles, and `go tool pprof` opens what comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.profiling.formats import pprof, scrape
from trimtab.components.profiling.storage.store import Profiles, Query, Selection
from trimtab.components.profiling.symbols.sandbox import Sandbox
from trimtab.components.profiling.symbols.symbolizer import Symbolizer

SOURCE = Path(__file__).parents[2] / "support" / "profiling_programs" / "served.go"
DEADLINE_S = 280.0

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("go") is None, reason="no Go here to build a program")]


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """The program at work; where it serves its profiles."""
    program = directory / "served"
    subprocess.run(
        ["go", "build", "-o", program, SOURCE],
        check=True,
        timeout=DEADLINE_S,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"},
    )
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield f"http://{process.stdout.readline().strip()}/debug/pprof"
        finally:
            process.stdin.close()


async def kept(root: Path, url: str) -> None:
    """Scrapes until both profiles have samples."""
    sandbox, done, failed = Sandbox(), asyncio.Event(), list[str]()

    def told(states: list[scrape.State]) -> None:
        failed[:] = [state.error for state in states if state.error]
        if all(state.samples for state in states):
            done.set()

    targets = [
        {"url": f"{url}/{path}", "interval_s": 2, "labels": {"app": "live"}} for path in ("profile?seconds=1", "heap")
    ]
    task = asyncio.create_task(scrape.scrape(root, targets, sandbox, told))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await done.wait()
    except TimeoutError:
        pytest.fail(f"not scraped: {failed}")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        sandbox.close()


async def test_a_live_go_program_is_scraped_and_go_opens_the_export(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        await kept(tmp_path / "profiles", url)
    now = int(time.time())

    def selected(kind: str) -> Selection:
        query = Query(type=kind, start=now - 3600, end=now + 3600, selector='app="live"')
        return Profiles(tmp_path / "profiles").select(query)

    busy, used = selected("cpu"), selected("inuse_space")
    assert "main.spins" in {frame.name for frame in busy.frames}
    assert "main.keeps" in {frame.name for frame in used.frames}
    assert used.total >= 4 << 20  # of the four, those of which the collector knew at its last turn

    exported = tmp_path / "out.pb.gz"
    exported.write_bytes(pprof.encode(busy, Symbolizer(tmp_path / "profiles")))
    command = ["go", "tool", "pprof", "-top", str(exported)]
    shown = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert shown.returncode == 0, shown.stderr
    assert "main.spins" in shown.stdout
