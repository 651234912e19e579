"""Stores that earlier releases wrote (`tests/contract/store_release.py`) are opened, migrated, and go on."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from store_release import EARLIER
from trimtab.store import FORMAT, Compacted, Put, Store

RELEASES = sorted(path.parent.name for path in EARLIER.glob("*/store.sqlite"))


def test_the_release_before_this_one_left_a_store() -> None:
    assert "0.1.0" in RELEASES


@pytest.mark.parametrize("release", RELEASES)
async def test_a_store_of_an_earlier_release_goes_on(release: str, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    shutil.copyfile(EARLIER / release / "store.sqlite", path)

    store = await Store.open(path)

    assert len(store) == 19
    changed = store.get("/core/configmaps/default/map-3")
    assert changed is not None
    assert (changed.value, changed.revision) == (b'{"number":33}', 21)
    assert (store.revision, store.compacted) == (22, 10)
    assert [change.record.revision for change in store.history("", 20)] == [21, 22]
    with pytest.raises(Compacted):
        store.watch("", 9)
    (written,) = await store.write([Put("/core/configmaps/default/map-3", b"{}", expect=21)])
    assert written.revision == 23
    await store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    db.close()
