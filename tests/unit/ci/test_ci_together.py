"""Several processes on one cache, one of them killed, another making room all the time: every run is right, nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ci_hammer
from ci_project import write_project
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.evict import prune
from trimtab.ci.cache.index import Index
from trimtab.ci.cache.local import LocalCache

RUNNERS = 4
ROUNDS = 12


def start(directory: Path, number: int, rounds: int = ROUNDS) -> subprocess.Popen[str]:
    project = write_project(directory / f"project{number}")
    program = [sys.executable, ci_hammer.__file__, str(project), str(directory / "state"), str(number), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(ci_hammer.__file__).parent)}
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_several_processes_share_a_cache_that_is_emptied_meanwhile(tmp_path: Path) -> None:
    runners = [start(tmp_path, number) for number in range(RUNNERS)]
    killed = start(tmp_path, RUNNERS, rounds=10_000)
    emptied = 0
    try:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
        index = Index(str(tmp_path / "state"))
        try:
            while any(one.poll() is None for one in runners):
                emptied += not prune(LocalCache(index, Blobs(index.directory)), 0, grace_s=0.0).busy
        finally:
            index.close()
        for one in runners:
            said, _ = one.communicate(timeout=120)
            assert one.returncode == 0, said
            assert said.splitlines() == [str(number) for number in range(ROUNDS)]
    finally:
        for one in (*runners, killed):
            one.kill()
            one.wait()
            assert one.stdout is not None
            one.stdout.close()
    assert emptied > 0
    project = tmp_path / "project0"
    ci_hammer.run(project, tmp_path / "state")
    assert os.listdir(tmp_path / "state" / "ingest") == []
