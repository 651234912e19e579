"""What recordings keep on a machine goes with its last engine, and not while a recording is under way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine_at_rest import engine_at_rest
from trimtab.components.profiling import lock
from trimtab.engine import datadir, uninstall

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_what_recordings_keep_goes_with_the_last_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, other = tmp_path / "cache" / "trimtab" / "profile", tmp_path / "run" / "other"
    monkeypatch.setattr(lock, "RECORDED", recorded)
    monkeypatch.setattr(datadir, "RUN_ROOT", other.parent)
    (recorded / "unwind").mkdir(parents=True)
    other.mkdir(parents=True)
    said: list[str] = []

    engine_at_rest(tmp_path / "one")
    uninstall.uninstall(tmp_path / "one", delete_data=True, say=said.append)
    assert recorded.is_dir(), "another engine is there"

    other.rmdir()
    engine_at_rest(tmp_path / "two")
    under_way = lock.take_recorded(recorded)
    assert under_way is not None
    with under_way:
        assert lock.take_recorded(recorded) is None
        uninstall.uninstall(tmp_path / "two", delete_data=True, say=said.append)
        assert (recorded / "unwind").is_dir(), "a recording is under way"

    engine_at_rest(tmp_path / "three")
    uninstall.uninstall(tmp_path / "three", delete_data=True, say=said.append)
    assert not recorded.parent.exists()
    assert said.count(f"removed {recorded}, what recordings of profiles kept") == 1
