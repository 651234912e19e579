"""What recordings keep on a machine goes with its last engine, and not while a recording is under way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine_at_rest import engine_at_rest
from eventually import PATIENCE_S
from trimtab.components.profiling import lock
from trimtab.engine import datadir, uninstall

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_what_recordings_keep_goes_with_the_last_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, other = tmp_path / "cache" / "trimtab" / "profile", tmp_path / "run" / "other"
    monkeypatch.setattr(lock, "RECORDED", recorded)
    monkeypatch.setattr(lock, "AGENT", tmp_path / "agent.lock")
    monkeypatch.setattr(datadir, "RUN_ROOT", other.parent)
    (recorded / "unwind").mkdir(parents=True)
    other.mkdir(parents=True)
    said: list[str] = []

    agent = lock.take()
    assert agent is not None
    engine_at_rest(tmp_path / "one")
    uninstall.uninstall(tmp_path / "one", delete_data=True, say=said.append)
    assert recorded.is_dir(), "another engine is there"
    assert lock.AGENT.exists()

    other.rmdir()
    engine_at_rest(tmp_path / "two")
    under_way = lock.take_recorded(recorded)
    assert under_way is not None
    with under_way:
        assert lock.take_recorded(recorded) is None
        assert lock.take() is None
        uninstall.uninstall(tmp_path / "two", delete_data=True, say=said.append)
        assert (recorded / "unwind").is_dir(), "a recording is under way"
        assert lock.AGENT.exists(), "an agent measures"
    agent.close()

    engine_at_rest(tmp_path / "three")
    uninstall.uninstall(tmp_path / "three", delete_data=True, say=said.append)
    assert not recorded.parent.exists()
    assert not lock.AGENT.exists()
    assert said.count(f"removed {recorded}, what recordings of profiles kept") == 1


def test_the_lock_of_the_agent_is_roots_alone_and_ends_with_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    tmp_path.chmod(0o755)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert lock.take(path) is None
        lock.forget(path)
        assert path.exists(), "whose it is stays"
    finally:
        holder.kill()
        holder.communicate()
    asyncio.run(asyncio.wait_for(lock.until_free(path), PATIENCE_S))
    held = lock.take(path)
    assert held is not None
    held.close()


HOLD = """
import sys
from pathlib import Path
from trimtab.components.profiling import lock
held = lock.take(Path(sys.argv[1]))
print("held" if held else "not", flush=True)
sys.stdin.read()
"""
