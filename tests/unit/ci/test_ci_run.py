"""A run: what has not changed is not done, what needs it is, what fails is told, and all of it is in the record."""

from __future__ import annotations

import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steps_in_process import Project
from trimtab.ci import DefinitionError
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.runs.ports import EngineFault, job_of
from trimtab.ci.runs.record import History, commit_of, packed, unpacked
from trimtab.ci.runs.report import html
from trimtab.ci.runs.screen import summary

SHIP = """
@step
def deps():
    return base.add(src("lock.txt")).run("fetch").output("/w/deps")

@step
def build():
    return base.add(src("app/**")).add(deps(), to="/w/deps").run("make").output("/w/out")

@step
def unit():
    return base.add(build()).run("test one").run("test two")

@step
def lint():
    return base.add(src("app/**")).run("lint")

@pipeline
def ci(level: int = 1):
    return unit() & lint()
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.write(SHIP, lock_txt="one", app__a_py="a", app__b_py="b")
    return made


def states(record: dict[str, Any]) -> dict[str, str]:
    return {id: step["state"] for id, step in record["steps"].items()}


ALL = ["build", "deps", "lint", "unit"]


def ran(record: dict[str, Any]) -> list[str]:
    return sorted(id for id, state in states(record).items() if state == "succeeded")


def test_the_first_run_does_all_and_the_second_nothing(project: Project) -> None:
    first, second = project.run(), project.run()
    assert (first["state"], ran(first)) == ("succeeded", ALL)
    assert (second["state"], ran(second)) == ("succeeded", [])
    assert set(states(second).values()) == {"hit"}
    assert second["savedSeconds"] == 8.0
    assert project.jobs == []
    assert first["criticalPath"] == ["deps", "build", "unit"]
    assert first["criticalSeconds"] == 6.0


def test_what_changes_runs_with_all_that_needs_it(project: Project) -> None:
    project.run()
    project.write(SHIP, app__a_py="changed")
    record = project.run()
    assert ran(record) == ["build", "lint", "unit"]
    assert record["steps"]["build"]["reason"] == "input /w: app/a.py changed"


def test_what_comes_out_the_same_ends_it_there(project: Project) -> None:
    project.run()
    project.write(SHIP.replace('run("make")', 'run("make").env(A="1")').replace('src("lock.txt")', 'src("*.txt")'))
    project.does = {}
    record = project.run()
    # deps takes the same file by another pattern: a hit by definition; build runs with what it got before.
    assert states(record) == {"deps": "hit", "build": "succeeded", "unit": "succeeded", "lint": "hit"}


def test_a_comment_a_limit_and_a_touched_file_change_nothing(project: Project) -> None:
    project.run()
    project.write("# why\n" + SHIP.replace("@step\ndef unit", "@step(timeout='9m', cpus=2)\ndef unit"), app__a_py="a")
    assert ran(project.run()) == []


def test_only_some_steps_and_what_they_need(project: Project) -> None:
    record = project.run("build")
    assert ran(record) == ["build", "deps"]
    assert states(record)["lint"] == "unneeded"
    with pytest.raises(DefinitionError, match=r"ci\(\) has no step nothing; it has deps, build, unit, lint$"):
        project.run("nothing")


def test_fresh_runs_all_whatever_is_known(project: Project) -> None:
    project.run()
    record = project.run(fresh=True)
    assert ran(record) == ALL
    assert record["steps"]["unit"]["reason"] == "asked for"
    assert ran(project.run()) == []


def test_a_failure_ends_what_needs_it_and_no_more(project: Project) -> None:
    def fail(job: Any, write: Any, stop: Any) -> tuple[str, int]:
        write(b"".join(b"line %d\n" % n for n in range(30)) + b"\x1b[31mit broke\x1b[0m")
        return "exit", 3

    project.does = {"build": fail}
    record = project.run()
    assert (record["state"], record["said"]) == ("failed", "build failed")
    assert states(record) == {"deps": "succeeded", "build": "failed", "unit": "skipped", "lint": "succeeded"}
    build = record["steps"]["build"]
    assert (build["exit"], build["ended"], len(build["tail"])) == (3, "exit", 20)
    assert job_of(build["job"]).as_json() == build["job"]
    lines = summary(record)
    assert f"build failed: exit status 3 after 1.00 s  ({project.directory}/ship.py:8)" in lines
    assert "  in: make" in lines
    assert "  | it broke" in lines
    assert "  what is new: never run before" in lines
    assert f"  enter it:    trimtab ci shell {record['id']}/build" in lines
    assert f"  whole log:   trimtab ci log {record['id']}/build" in lines
    assert lines[-1].startswith("red after ")
    project.does = {}
    again = project.run()
    assert ran(again) == ["build", "unit"]


def test_what_has_changed_since_the_last_green_is_told(project: Project) -> None:
    project.run()
    project.does = {"lint": lambda job, write, stop: ("exit", 1)}
    project.write(SHIP, app__b_py="worse")
    project.does["build"] = project.does["lint"]
    record = project.run()
    assert "  what is new: input /w: app/b.py changed" in summary(record)


def test_a_step_that_is_too_slow_is_ended(project: Project) -> None:
    def hang(job: Any, write: Any, stop: Any) -> tuple[str, int]:
        ended = threading.Event()
        stop.then(ended.set)
        assert ended.wait(60)
        return stop.reason, -9

    project.write(SHIP.replace("@step\ndef lint", "@step(timeout='50ms')\ndef lint"))
    project.does = {"lint": hang}
    record = project.run()
    assert states(record)["lint"] == "failed"
    assert "lint failed: ran out of time after 1.00 s" in summary(record)[1]


def test_a_fault_of_the_engine_is_recorded_and_is_no_failure_of_the_step(project: Project) -> None:
    def full(job: Any, write: Any, stop: Any) -> None:
        raise EngineFault("no space left in /state; free some")

    project.does = {"deps": full}
    record = project.run()
    assert (record["state"], record["said"]) == ("fault", "no space left in /state; free some")
    assert states(record)["deps"] == "fault"
    assert states(record)["unit"] == "skipped"
    assert summary(record)[-1].endswith("; no space left in /state; free some")


def test_logs_are_kept_for_hits_too(project: Project) -> None:
    first, second = project.run(), project.run()
    blobs = Blobs(str(project.state))
    assert blobs.read(first["steps"]["unit"]["log"]) == b"this is unit\n"
    assert second["steps"]["unit"]["log"] == first["steps"]["unit"]["log"]


def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.ci.runs.run.LOG_BYTES_MAX", 1000)
    monkeypatch.setattr("trimtab.ci.runs.run.TAIL_BYTES", 200)

    def chatty(job: Any, write: Any, stop: Any) -> None:
        for number in range(1000):
            write(b"line %03d\n" % number)

    project.does = {"lint": chatty}
    log = Blobs(str(project.state)).read(project.run("lint")["steps"]["lint"]["log"])
    assert log.startswith(b"this is lint\nline 000\n")
    assert log.endswith(b"line 999\n")
    assert b" bytes are left out ...\n" in log
    assert len(log) < 1300


def test_steps_get_what_they_declare_and_several_parts_lie_below(project: Project) -> None:
    project.write(
        """
@step(matrix={"arch": ["amd64", "arm64"]})
def build(arch):
    return base.run(f"make {arch}").output("/out")

@step
def pack():
    db = service(image("base").add(src("lock.txt"), to="/seed"), ready=":5432")
    return base.add(build(), to="/in").with_service("db", db).run("pack")

@pipeline
def ci():
    return pack()
"""
    )
    record = project.run()
    pack = next(job for job in project.jobs if job.step == "pack")
    assert [one.to for one in pack.inputs] == ["/in/arch=amd64", "/in/arch=arm64"]
    outputs = [record["steps"][f"build[arch={arch}]"]["outputs"]["out"] for arch in ("amd64", "arm64")]
    assert [one.tree for one in pack.inputs] == outputs
    assert [one.to for one in pack.services["db"].inputs] == ["/seed"]
    assert pack.image == "sha256:" + "0" * 64


def test_history_finds_runs_and_knows_how_long_steps_take(project: Project) -> None:
    first, second = project.run(), project.run()
    history = History(project.state)
    try:
        name = str(project.directory)
        assert [one.id for one in history.runs(name, 10)] == [second["id"], first["id"]]
        assert [(one.ran, one.hits) for one in history.runs(name, 10)] == [(0, 4), (4, 0)]
        last = history.find(name, "last")
        assert last is not None
        assert last.id == second["id"]
        found = history.find(name, first["id"])
        assert found is not None
        assert unpacked(Blobs(str(project.state)).read(found.record)) == first
        assert history.find(name, "2") is None  # of two runs
        assert history.seconds(name, {"unit": "unit", "unit[x]": "unit", "new": "new"}) == {
            "unit": 2.0,
            "unit[x]": 2.0,
            "new": 2.0,
        }
    finally:
        history.close()


def test_equal_records_are_equal_bytes() -> None:
    assert packed({"a": 1, "b": [2]}) == packed({"b": [2], "a": 1})


def test_the_commit_is_read_as_git_writes_it(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "project") == ""
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs with: peeled\n" + "a" * 40 + " refs/heads/main\n")
    assert commit_of(tmp_path / "project") == "a" * 40
    (git / "refs" / "heads" / "main").write_text("b" * 40 + "\n")
    assert commit_of(tmp_path / "project") == "b" * 40
    (git / "HEAD").write_text("c" * 40 + "\n")
    assert commit_of(tmp_path) == "c" * 40


class _Page(HTMLParser):
    """What a page holds: its tags, attributes and text. Raises for one that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.classes: list[str] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.classes += [value or "" for name, value in attrs if name == "class"]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_with_the_longest_way_and_no_markup_of_others(project: Project) -> None:
    def fail(job: Any, write: Any, stop: Any) -> tuple[str, int]:
        write(b"<script>alert(1)</script> \x1b[31mred\x1b[0m\n" * 300)
        return "exit", 1

    project.does = {"lint": fail}
    record = project.run()
    blobs = Blobs(str(project.state))
    text = html(record, {id: blobs.read(one["log"]).decode() for id, one in record["steps"].items() if "log" in one})
    page = _Page(text)
    assert page.classes.count("row on-path") == 3
    assert page.classes.count("row") == 1
    assert "script" not in page.tags
    assert not page.attributes & {"src", "href", "onclick"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt; red" in text
    assert "... 101 lines before" in text
    assert 'lint</b> <span class="dim">exit status 1 after 1.00 s never run before' in text
    assert "Nothing had to run." in html(project.run("deps"), {})
