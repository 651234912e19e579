"""Profiles come back from a backup as they were: batches, an hour that is not over, and hours in Parquet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_at_rest import backup, engine_at_rest, restore
from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, incoming
from trimtab.components.profiling.storage.segment import HOUR_S, hours
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.engine.backup.objects import Directory

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOUR = 1_800_000_000 - 1_800_000_000 % HOUR_S


def batch(start: int) -> Batch:
    return Batch(
        start=start,
        source="agent",
        types=[SampleType("cpu", "nanoseconds")],
        labels=[{"app": "shipnotes"}],
        frames=[Frame("native", file="/bin/x", build_id="ab", address=start)],
        stacks=[[0]],
        samples=[Sample(0, 0, 0, 7)],
    )


def total(root: Path) -> int:
    return Profiles(root).select(Query(start=HOUR, end=HOUR + 3 * HOUR_S, selector='app="shipnotes"')).total


def test_profiles_come_back_from_a_backup(tmp_path: Path) -> None:
    settings = engine_at_rest(tmp_path / "data")
    root = settings.data_path("profiles")
    store = Profiles(root)
    for start in (HOUR, HOUR + 10, HOUR + HOUR_S):
        store.append(batch(start))
    store.roll_up(HOUR + HOUR_S + 60)
    store.append(batch(HOUR + HOUR_S + 10))
    (root / "unwind").mkdir()
    (root / "unwind" / "table").write_bytes(b"made again")
    shutil.chown(root, settings.user, settings.user)
    subprocess.run(["chown", "-R", "--reference", str(root), str(root)], check=True)
    place = Directory(tmp_path / "place")
    backup(settings, place)
    other = restore(settings, place, tmp_path / "restored").data_path("profiles")
    try:
        assert total(other) == total(root) == 4 * 7
        assert len(list(hours(other).glob("[0-9]*"))) == 2
        assert list(incoming(other).glob("*.batch"))
        assert not (other / "unwind" / "table").exists()
        assert other.stat().st_uid == root.stat().st_uid
        store = Profiles(other)
        for _ in range(2):
            store.roll_up(HOUR + 3 * HOUR_S)
        assert total(other) == 4 * 7
        assert not list(incoming(other).glob("*.batch"))
    finally:
        shutil.rmtree(settings.run, ignore_errors=True)
