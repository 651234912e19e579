"""Blobs, results and lookups: what comes back, what is a miss, and what is said of it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci_project import IMAGES, graph_of, missed, run, same, write_project
from trimtab.ci.cache.blobs import TIME_NS, Blobs, Lost
from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.runs.ports import EngineFault, Found, Result


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "store"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return write_project(tmp_path / "project")


Open = Callable[[], LocalLookups]


@pytest.fixture
def opened(project: Path, tmp_path: Path) -> Iterator[Open]:
    made: list[LocalLookups] = []

    def open_() -> LocalLookups:
        made.append(LocalLookups(project, tmp_path / "state"))
        return made[-1]

    yield open_
    for one in made:
        one.close()


def test_a_blob_comes_back_and_a_damaged_one_is_lost(blobs: Blobs) -> None:
    digest = blobs.put(b"hello")
    assert blobs.read(digest) == b"hello"
    blobs.check(digest, 5)
    Path(blobs.path(digest)).write_bytes(b"hallo")
    with pytest.raises(Lost, match=r"blob 2cf24dba5fb0 is damaged"):
        blobs.check(digest, 5)
    with pytest.raises(Lost, match=r"is missing"):
        blobs.read(digest)


def test_a_blob_that_was_only_touched_is_whole(blobs: Blobs) -> None:
    digest = blobs.put(b"hello")
    os.utime(blobs.path(digest))
    blobs.check(digest, 5)
    assert os.stat(blobs.path(digest)).st_mtime_ns == TIME_NS


@pytest.mark.parametrize("take", [False, True])
def test_a_tree_comes_back_as_it_was(blobs: Blobs, tmp_path: Path, take: bool) -> None:
    made = tmp_path / "made"
    (made / "bin").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "bin" / "tool").write_text("#!/bin/sh\n")
    (made / "bin" / "tool").chmod(0o755)
    (made / "bin" / "same-but-not-executable").write_text("#!/bin/sh\n")
    (made / "bin" / "link").symlink_to("../nowhere")
    (made / "large").write_bytes(os.urandom(3 << 20))
    (made / "unreadable").write_text("x")
    (made / "unreadable").chmod(0)
    content = (made / "large").read_bytes()

    digest, size = blobs.capture(str(made), take=take)
    place = Path(blobs.materialise(digest))

    assert size == 2 * 10 + (3 << 20) + 1
    assert sorted(str(p.relative_to(place)) for p in place.rglob("*")) == [
        "bin", "bin/link", "bin/same-but-not-executable", "bin/tool", "empty", "large", "unreadable",
    ]  # fmt: skip
    assert os.access(place / "bin" / "tool", os.X_OK)
    assert (place / "bin" / "same-but-not-executable").stat().st_mode & 0o777 == 0o644
    assert (place / "large").read_bytes() == content
    assert {p.lstat().st_mtime_ns for p in place.rglob("*")} == {TIME_NS}
    assert blobs.capture(str(place))[0] == digest
    assert blobs.materialise(digest) == str(place)


def test_one_file_is_a_tree_of_it(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text("<x/>")
    digest, _ = blobs.capture(str(tmp_path / "report.xml"))
    assert [path for path, _ in blobs.files(digest)] == ["report.xml"]


def test_a_tree_of_which_a_blob_is_gone_is_lost(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("a")
    digest, _ = blobs.capture(str(tmp_path / "made"))
    [(_, entry)] = blobs.files(digest)
    blobs.forget(f"sha256:{entry[2]}")
    with pytest.raises(Lost, match="missing"):
        blobs.whole(digest)
    with pytest.raises(Lost, match="missing"):
        blobs.materialise(digest)
    assert os.listdir(Path(blobs.directory) / "trees") == []


def test_threads_put_the_same_together(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for number in range(50):
        (tmp_path / "made" / str(number)).write_text(f"content {number % 7}")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(blobs.materialise(blobs.capture(str(tmp_path / "made"))[0])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_nothing_runs_twice(project: Path, opened: Open) -> None:
    first = run(opened(), graph_of(project), same)
    assert missed(first) == dict.fromkeys(("deps", "build", "unit"), "never run before")
    assert missed(run(opened(), graph_of(project), same)) == {}


def test_a_comment_or_a_touch_runs_nothing(project: Path, opened: Open) -> None:
    run(opened(), graph_of(project), same)
    ship = project / "ship.py"
    ship.write_text("# a comment\n\n" + ship.read_text().replace("@step\ndef unit", '@step(timeout="9m")\ndef unit'))
    os.utime(project / "app" / "models.py")
    assert missed(run(opened(), graph_of(project), same)) == {}


def test_a_change_runs_what_depends_on_it_and_says_why(project: Path, opened: Open) -> None:
    run(opened(), graph_of(project), lambda id: {"made": os.urandom(4)})
    (project / "app" / "models.py").write_text("new")
    (project / "app" / "more.py").write_text("new")
    (project / "app" / "views.py").unlink()
    found = run(opened(), graph_of(project), lambda id: {"made": os.urandom(4)})
    assert missed(found) == {
        "build": "input /w: app/models.py changed (+2 files)",
        "unit": "input /w/out: made changed",
    }


def test_early_cutoff(project: Path, opened: Open) -> None:
    run(opened(), graph_of(project), same)
    (project / "app" / "models.py").write_text("new, but what is made of it is the same")
    again = run(opened(), graph_of(project), same)
    assert missed(again) == {"build": "input /w: app/models.py changed"}
    assert again["unit"].reason.startswith("what it takes is as before; made by unit on ")
    assert missed(run(opened(), graph_of(project), same)) == {}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('MODE="a"', 'MODE="b"', "env MODE: a -> b"),
        ('MODE="a"', "", "env MODE removed"),
        ('MODE="a"', 'MODE="a", MORE="c d"', "env MORE added: c d"),
        ('.run("make deps")', '.run("make more-deps")', "run 1: make deps -> make more-deps"),
        ('.run("make deps")', '.run("make", "deps")', "run 1: make deps -> make deps"),
        ('.run("make deps")', '.run("make deps").run("x")', "run 2 added: x"),
        ('.workdir("/w").env', '.workdir("/v").env', "directory: /w -> /v"),
        ('.run("make deps")', '.network().run("make deps")', "network: none -> allow"),
    ],
)
def test_what_changed_in_the_definition(project: Path, opened: Open, before: str, after: str, expected: str) -> None:
    run(opened(), graph_of(project), same)
    ship = project / "ship.py"
    assert before in ship.read_text()
    ship.write_text(ship.read_text().replace(before, after))
    assert expected in missed(run(opened(), graph_of(project), same))["deps"].split("; ")


def test_another_image(project: Path, opened: Open) -> None:
    run(opened(), graph_of(project), same)
    found = run(opened(), graph_of(project), same, {"debian:12": "sha256:" + "2" * 64})
    assert missed(found) == dict.fromkeys(("deps", "build", "unit"), "image: sha256:11111111 -> sha256:22222222")


def test_an_image_that_was_never_resolved(project: Path, opened: Open) -> None:
    with pytest.raises(EngineFault, match=r"debian:12 has no digest yet; `trimtab ci lock` resolves it"):
        opened().define(graph_of(project), {}, {})


def test_another_version_of_keys(project: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    run(opened(), graph_of(project), same)
    monkeypatch.setattr("trimtab.ci.cache.keys.KEY_VERSION", 2)
    found = run(opened(), graph_of(project), same)
    assert missed(found) == dict.fromkeys(("deps", "build", "unit"), "engine's key version 1 -> 2")


def test_a_secret_that_changed(project: Path, opened: Open, tmp_path: Path) -> None:
    ship = project / "ship.py"
    ship.write_text(
        ship.read_text().replace('.run("make deps")', '.secret_env("DB", secret("s.yaml#db")).run("make deps")')
    )

    def first(value: str) -> Found:
        lookups = opened()
        found = lookups.define(graph_of(project), IMAGES, {"s.yaml#db": value})["deps"]
        if found.result is None:
            lookups.keep(found, graph_of(project).steps["deps"], Result({}))
        return found

    assert first("hunter2-and-more").reason == "never run before"
    assert first("hunter2-and-more").result is not None
    changed = first("another")
    assert changed.reason == "secret DB changed"
    assert changed.result is None
    everything = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert b"hunter2" not in everything
    assert (tmp_path / "config" / "trimtab" / "ci-salt").stat().st_mode & 0o777 == 0o600


def test_an_output_that_is_lost_is_made_again(project: Path, opened: Open, tmp_path: Path) -> None:
    lookups = opened()
    first = run(lookups, graph_of(project), same)
    assert first["deps"].result is None
    digest = lookups.cache.find([first["deps"].def_key])[first["deps"].def_key].result.outputs["deps"]
    [(_, entry)] = lookups.blobs.files(digest)
    Path(lookups.blobs.path(f"sha256:{entry[2]}")).write_bytes(b"??")
    (project / "app" / "models.py").write_text("new")

    found = run(opened(), graph_of(project), same)

    assert missed(found) == {
        "deps": f"blob {entry[2][:12]} is damaged, of its output deps",
        "build": "input /w: app/models.py changed",
    }


def test_an_output_of_which_the_root_is_gone_is_a_miss(project: Path, opened: Open) -> None:
    lookups = opened()
    first = run(lookups, graph_of(project), same)
    tree = lookups.cache.find([first["deps"].def_key])[first["deps"].def_key].result.outputs["deps"]
    lookups.blobs.forget(tree)
    found = run(opened(), graph_of(project), same)
    assert missed(found) == {"deps": f"blob {tree[7:19]} is missing, it is the output deps"}


def test_what_was_buried_is_missed_with_its_reason(project: Path, opened: Open) -> None:
    lookups = opened()
    first = run(lookups, graph_of(project), same)
    lookups.cache.now = lambda: time.time() - 3 * 3600
    lookups.cache.bury(first["deps"].content_key, "by the size limit")
    assert missed(run(opened(), graph_of(project), same)) == {"deps": "evicted 3 h ago by the size limit"}


def test_an_index_that_is_none_is_begun_anew(project: Path, opened: Open, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "index.sqlite").write_bytes(b"this is no database" * 100)
    lookups = opened()
    assert lookups.notice == "the cache's index is begun anew (file is not a database): every step runs once"
    run(lookups, graph_of(project), same)
    assert missed(run(opened(), graph_of(project), same)) == {}


def test_an_index_of_a_later_version_is_put_aside(project: Path, opened: Open, tmp_path: Path) -> None:
    run(opened(), graph_of(project), same)
    connection = sqlite3.connect(tmp_path / "state" / "index.sqlite")
    connection.execute("pragma user_version = 99")
    connection.close()
    lookups = opened()
    assert lookups.notice.startswith("the cache's index is begun anew (it is of version 99, this engine's is 1)")


def test_a_directory_that_cannot_be_used_is_named(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        EngineFault, match=r"cannot use .*/file/x: .*; make it writable, or name another by TRIMTAB_CI_DIR"
    ):
        LocalLookups(project, tmp_path / "file" / "x")


def test_files_edited_while_a_run_is_under_way_are_taken_as_they_were(project: Path, opened: Open) -> None:
    lookups = opened()
    graph = graph_of(project)
    lookups.define(graph, IMAGES, {})
    (project / "tests" / "test_a.py").write_text("edited meanwhile")
    tree = lookups.source(graph.steps["unit"], 1)
    assert (Path(lookups.blobs.materialise(tree)) / "tests" / "test_a.py").read_text() == "tests/test_a.py"


def test_only_success_is_kept_so_a_failure_runs_again(project: Path, opened: Open) -> None:
    graph = graph_of(project)
    opened().define(graph, IMAGES, {})
    found = opened().define(graph, IMAGES, {})
    assert found["deps"].result is None
    assert found["build"].reason == "waits for deps"


def test_a_result_is_found_by_another_graph_that_comes_to_the_same(project: Path, opened: Open) -> None:
    run(opened(), graph_of(project), same)
    ship = project / "ship.py"
    ship.write_text(ship.read_text().replace("def deps", "def things").replace("deps(),", "things(),"))
    assert missed(run(opened(), graph_of(project), same)) == {}


def test_a_found_step_is_plain_data(project: Path, opened: Open) -> None:
    found = opened().define(graph_of(project), IMAGES, {})["deps"]
    assert replace(found, reason="") != found
    assert list(found.components)[:3] == ["engine", "platform", "image"]
