"""Making room: what goes first, what never goes, what is left to say of it; and cache volumes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.evict import HALF_LIFE_S, Pruned, prune, tidy
from trimtab.ci.cache.index import Index
from trimtab.ci.cache.local import LocalCache, Record
from trimtab.ci.cache.volumes import Volumes
from trimtab.ci.runs.ports import Result
from trimtab.cli.ci import main

BIG = 64 << 10


class Store:
    """A cache with results of a given size and cost, at a time that stands still."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = Index(str(directory / "state"))
        self.cache = LocalCache(self.index, Blobs(self.index.directory), lambda: self.time)
        self.time = 1_000_000_000.0
        self.volumes = Volumes(self.index, self.cache.blobs)

    def tree(self, name: str, size: int, seed: int) -> str:
        place = self.directory / "made" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "file").write_bytes(bytes([seed]) * size)
        return self.cache.blobs.capture(str(place))[0]

    def result(self, step: str, *, size: int = BIG, seconds: float = 1.0, seed: int | None = None) -> str:
        """Keeps a result; gives its key."""
        number = len(self.index.rows("select key from results")) + len(self.index.rows("select key from tombstones"))
        tree = self.tree(step, size, number if seed is None else seed)
        key = f"{number:064x}"
        self.cache.put(Record(key, "/p", step, {"engine": "1"}, 0.0), Result({"out": tree}, seconds=seconds), key, size)
        return key

    def steps(self) -> set[str]:
        return {step for (step,) in self.index.rows("select step from results")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.index.close()


def pruned(store: Store, size: int) -> Pruned:
    return prune(store.cache, size, grace_s=0.0)


def test_nothing_goes_while_all_fits(store: Store) -> None:
    store.result("a")
    assert pruned(store, 10 * BIG).records == 0
    assert store.steps() == {"a"}


def test_what_is_quickly_made_again_goes_first(store: Store) -> None:
    store.result("slow", seconds=100.0)
    store.result("quick", seconds=0.5)
    store.result("middling", seconds=10.0)
    out = pruned(store, int(2.6 * BIG))
    assert store.steps() == {"slow", "middling"}
    assert (out.records, out.busy) == (1, False)


def test_what_is_large_goes_before_what_is_small(store: Store) -> None:
    store.result("large", size=8 * BIG)
    store.result("small")
    pruned(store, 2 * BIG)
    assert store.steps() == {"small"}


def test_what_was_used_lately_and_often_stays(store: Store) -> None:
    once = store.result("once")
    often = store.result("often")
    lately = store.result("lately")
    assert once
    for _ in range(5):
        store.time += 2 * 3600
        store.cache.find([often])
    store.time += 3 * HALF_LIFE_S
    store.cache.find([lately])
    pruned(store, int(2.6 * BIG))
    assert store.steps() == {"often", "lately"}


def test_what_two_results_have_in_common_stays_for_the_one_that_stays(store: Store) -> None:
    store.result("quick", seconds=0.1, seed=7)
    slow = store.result("slow", seconds=100.0, seed=7)
    store.result("other", seconds=50.0, seed=8)
    pruned(store, int(1.6 * BIG))
    assert "slow" in store.steps()
    [hit] = store.cache.find([slow]).values()
    store.cache.blobs.whole(hit.result.outputs["out"])


def test_a_tombstone_says_when_and_why(store: Store) -> None:
    key = store.result("a")
    pruned(store, 0)
    record = store.cache.record(key)
    assert record is not None
    assert (record.gone, record.at) == ("by the size limit", store.time)
    assert store.cache.find([key]) == {}
    store.result("b")
    store.time += 61 * 86400
    pruned(store, 10 * BIG)
    [(reason,)] = store.index.rows("select reason from tombstones where step = 'b'")
    assert reason == "unused for 60 days"


def test_what_a_retained_run_pins_is_never_removed(store: Store) -> None:
    log = store.cache.blobs.put(b"the log of a failure")
    taken = store.tree("taken", BIG, 99)
    key = store.result("last")
    [hit] = store.cache.find([key]).values()
    source = store.tree("source", BIG, 98)
    [(_, source_file)] = store.cache.blobs.files(source)
    steps = {
        "unit": {"log": log, "job": {"inputs": [{"to": "/w", "tree": taken}]}},
        "last": {"outputs": dict(hit.result.outputs), "components": {"input /w": source}},
    }
    record = store.cache.blobs.put(gzip.compress(json.dumps({"steps": steps}).encode()))
    connection = sqlite3.connect(store.directory / "state" / "history.sqlite")
    connection.execute("create table runs (id text, project text, started real, record text)")
    connection.execute("insert into runs values ('1', '/p', 1, ?)", (record,))
    connection.commit()
    connection.close()

    pruned(store, 0)

    blobs = store.cache.blobs
    assert blobs.has(log)
    assert blobs.has(record)
    blobs.whole(taken)
    assert store.steps() == {"last"}
    blobs.whole(hit.result.outputs["out"])
    assert not blobs.has(f"sha256:{source_file[2]}")


def test_images_belong_to_their_tags(store: Store) -> None:
    from trimtab.content import ContentStore

    images = ContentStore(store.directory / "state")
    layer = images.put(b"layer" * 1000)
    manifest = images.put(json.dumps({"layers": [{"digest": layer}]}).encode())
    images.tag("debian:12", manifest)
    stray = images.put(b"stray")
    pruned(store, 0)
    assert images.has(layer)
    assert images.has(manifest)
    assert not images.has(stray)


def test_nothing_is_removed_while_a_run_is_under_way(store: Store) -> None:
    store.result("a")
    running = Blobs(str(store.directory / "state"))
    running.hold()
    try:
        assert pruned(store, 0).busy
        assert store.steps() == {"a"}
    finally:
        running.release()
    assert pruned(store, 0).records == 1


def test_what_is_young_stays_until_its_record_is_written(store: Store) -> None:
    digest = store.cache.blobs.put(b"no record names it yet")
    prune(store.cache, 0)
    assert store.cache.blobs.has(digest)
    pruned(store, 0)
    assert not store.cache.blobs.has(digest)


def test_after_a_run_room_is_made_once_an_hour(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CI_CACHE_BYTES", "1000")
    store.result("a")
    first = tidy(store.cache)
    assert first is not None
    assert first.records == 1
    store.result("b")
    assert tidy(store.cache) is None
    stamp = store.directory / "state" / "tidied"
    os.utime(stamp, (0, 0))
    assert tidy(store.cache) is not None


def volume(store: Store, name: str, text: str) -> None:
    place = store.directory / "volume"
    (place / "sub").mkdir(parents=True, exist_ok=True)
    (place / "sub" / "x").write_text(text)
    (place / "tool").write_text("#!/bin/sh\n")
    (place / "tool").chmod(0o755)
    store.volumes.keep(name, str(place))
    shutil.rmtree(place)


def restored(store: Store, name: str, to: str) -> tuple[str, str]:
    place = store.directory / to
    known = store.volumes.restore(name, str(place))
    return known, (place / "sub" / "x").read_text() if known else ""


def test_a_volume_comes_back_as_a_copy_of_ones_own(store: Store) -> None:
    assert restored(store, "uv", "first") == ("", "")
    volume(store, "uv", "one")
    assert restored(store, "uv", "second") == ("uv", "one")
    (store.directory / "second" / "sub" / "x").write_text("written to by a step that failed")
    assert restored(store, "uv", "third") == ("uv", "one")
    assert os.access(store.directory / "third" / "tool", os.X_OK)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("uv-3.11-aaa", "uv-3.11-aaa"),
        ("uv-3.11-new", "uv-3.11-bbb"),
        ("uv-3.12-new", "uv-3.11-bbb"),
        ("uv", "uv-3.11-bbb"),
        ("pip-3.11", ""),
        ("u%", ""),
    ],
)
def test_a_volume_begins_with_the_newest_of_its_prefix(store: Store, asked: str, expected: str) -> None:
    for name in ("uv-3.11-aaa", "npm-1", "uv-3.11-bbb"):
        volume(store, name, name)
    assert restored(store, asked, "place")[0] == expected


def test_a_volume_that_is_damaged_is_begun_anew(store: Store) -> None:
    volume(store, "uv", "one")
    [(tree,)] = store.index.rows("select tree from volumes")
    store.cache.blobs.forget(tree)
    assert restored(store, "uv", "place") == ("", "")
    assert store.index.rows("select name from volumes") == []


def test_the_command_says_what_is_held_and_makes_room(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(store.directory / "state"))
    monkeypatch.setenv("TRIMTAB_CI_CACHE_BYTES", str(1 << 20))
    store.time = time.time()
    store.result("a")
    volume(store, "uv", "one")
    assert main(["cache"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{store.directory / 'state'}: ")
    assert said[0].endswith(" KiB of 1.0 MiB")
    assert said[1] == "1 results, 6 blobs (images included)"
    assert said[2].startswith("volume uv: ")
    assert main(["cache", "prune", "--size", "0", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 1
    assert main(["cache", "-o", "json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["records"] == 0
    assert doc["gone"][0]["reason"] == "by the size limit"
    with pytest.raises(SystemExit) as ended:
        main(["cache", "prune", "--size", "many"])
    assert ended.value.code == 2
    assert 'write a number of bytes, or "512Mi", "2Gi"' in capsys.readouterr().err
    running = Blobs(str(store.directory / "state"))
    running.hold()
    assert main(["cache", "prune"]) == 1
    running.release()
    assert capsys.readouterr().out == "nothing was removed: a run is under way; try again after it\n"
