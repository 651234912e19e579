"""Digests recorded in git: one commit with trailers on what the remote has, whoever else pushes; and what keeps it from being made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trimtab.ci.images import recorded
from trimtab.ci.runs.ports import EngineFault

NAME = "registry.example/shop/app"
OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MANIFEST = f"image: {NAME}:1@{OLD}\nother: {NAME}-db:1\n"


class Clone:
    """A work tree of the shared remote."""

    def __init__(self, path: Path, remote: Path) -> None:
        self.path, self.remote = path, remote
        self.told: list[str] = []
        subprocess.run(["git", "clone", "-q", str(remote), str(path)], check=True, capture_output=True)
        self.git("config", "user.name", "ada")
        self.git("config", "user.email", "ada@example.org")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.path), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, file: str, text: str) -> None:
        (self.path / file).parent.mkdir(parents=True, exist_ok=True)
        (self.path / file).write_text(text)
        self.git("add", file)
        self.git("commit", "-qm", f"change {file}")
        self.git("push", "-q", "origin", "HEAD:main")

    def record(self, digest: str = NEW, file: str = "deploy/app.yaml", name: str = NAME) -> str:
        place = recorded.check(self.path, {file: [name]})
        return recorded.record(self.path, place, {file: [f"{name}@{digest}"]}, "20260101-000000-aaaa", self.told.append)

    def upstream(self, file: str = "deploy/app.yaml") -> str:
        done = subprocess.run(
            ["git", "-C", str(self.remote), "show", f"main:{file}"], check=True, capture_output=True, text=True
        )
        return done.stdout


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Clone]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GITHUB_REF_TYPE", "GITHUB_REF_NAME"):
        monkeypatch.delenv(name, raising=False)
    remote = tmp_path / "remote"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], check=True)
    first = Clone(tmp_path / "first", remote)
    first.commit("deploy/app.yaml", MANIFEST)
    return lambda name: Clone(tmp_path / name, remote)


def test_one_commit_says_what_was_built(clones: Callable[[str], Clone]) -> None:
    clone = clones("clone")
    built = clone.git("rev-parse", "HEAD")

    commit = clone.record()

    assert clone.upstream() == f"image: {NAME}:1@{NEW}\nother: {NAME}-db:1\n"
    assert clone.git("rev-parse", "HEAD") == commit
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("log", "-1", "--format=%B").splitlines() == [
        "Deploy app 222222222222",
        "",
        "Trimtab-Run: 20260101-000000-aaaa",
        f"Trimtab-Built-From: {built}",
        f"Trimtab-Image: {NAME}@{NEW}",
    ]
    assert clone.told == [f"recorded in deploy/app.yaml by {commit[:12]} on origin/main"]
    assert recorded.is_own(clone.path)
    assert not recorded.is_own(clone.path, built)


def test_no_difference_makes_no_commit(clones: Callable[[str], Clone]) -> None:
    clone = clones("clone")
    before = clone.git("rev-parse", "HEAD")

    assert clone.record(OLD) == ""

    assert clone.git("ls-remote", "origin", "main").split()[0] == before
    assert clone.told == ["origin/main has the digests already"]


def test_a_checkout_below_the_top_and_files_of_others_stay(clones: Callable[[str], Clone]) -> None:
    clone = clones("clone")
    (clone.path / "mine.txt").write_text("not committed")
    place = recorded.check(clone.path / "deploy", {"app.yaml": [NAME]})

    recorded.record(clone.path / "deploy", place, {"app.yaml": [f"{NAME}@{NEW}"]}, "run", clone.told.append)

    assert NEW in clone.upstream()
    assert clone.git("status", "--porcelain") == "?? mine.txt"


def test_who_was_faster_is_built_upon(clones: Callable[[str], Clone]) -> None:
    clone, other = clones("clone"), clones("other")
    place = recorded.check(clone.path, {"deploy/app.yaml": [NAME]})
    other.commit("README", "faster")

    recorded.record(clone.path, place, {"deploy/app.yaml": [f"{NAME}@{NEW}"]}, "run", clone.told.append)

    assert NEW in clone.upstream()
    assert clone.upstream("README") == "faster"
    assert clone.told[-1] == "git pull to have it here"


def test_pushes_at_the_same_time_all_arrive(clones: Callable[[str], Clone]) -> None:
    names = ["a", "b", "c", "d"]
    first = clones("zero")
    for name in names:
        first.commit(f"deploy/{name}.yaml", f"image: registry.example/{name}\n")
    everybody = [clones(name) for name in names]

    with ThreadPoolExecutor(len(names)) as pool:
        made = [
            pool.submit(clone.record, NEW, f"deploy/{name}.yaml", f"registry.example/{name}")
            for name, clone in zip(names, everybody, strict=True)
        ]
        assert all(one.result() for one in made)

    for name in names:
        assert first.upstream(f"deploy/{name}.yaml") == f"image: registry.example/{name}@{NEW}\n"


def test_a_remote_that_refuses_is_told_once(clones: Callable[[str], Clone]) -> None:
    clone = clones("clone")
    hook = clone.remote / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(EngineFault, match=r"the commit with the digests cannot be pushed to origin: .*declined"):
        clone.record()


def _dirty(clone: Clone) -> None:
    (clone.path / "deploy/app.yaml").write_text("changed")


def _unpushed(clone: Clone) -> None:
    clone.git("commit", "-q", "--allow-empty", "-m", "mine")


def _unknown(clone: Clone) -> None:
    clone.git("config", "--unset", "user.email")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (_dirty, "record='deploy/app.yaml': it has changes that are not committed; commit or stash them"),
        (_unknown, "git knows nobody to commit as; set user.name and user.email by git config"),
        (
            lambda clone: clone.git("remote", "remove", "origin"),
            "the branch main has no remote to push to; git push --set-upstream REMOTE main",
        ),
        (
            lambda clone: clone.git("checkout", "-q", "--detach"),
            "no branch is checked out, so a digest cannot be recorded on one; git switch BRANCH",
        ),
        (
            lambda clone: clone.git("rm", "-q", "--cached", "deploy/app.yaml"),
            "record='deploy/app.yaml': it is not in git; commit it first",
        ),
        (
            lambda clone: clone.commit("deploy/app.yaml", "image: something/else\n"),
            f"record='deploy/app.yaml': it names no image {NAME}; write `image: {NAME}` where the digest belongs",
        ),
        (
            _unpushed,
            "origin does not have the commit that was built, HEAD, on its branch main; push it, then run again",
        ),
    ],
)
def test_what_is_in_the_way_is_told_in_a_line(
    clones: Callable[[str], Clone], prepare: Callable[[Clone], object], said: str
) -> None:
    clone = clones("clone")
    prepare(clone)

    with pytest.raises(EngineFault) as fault:
        clone.record()

    assert str(fault.value) == said.replace("HEAD", clone.git("rev-parse", "--short=12", "HEAD"))


def test_a_checkout_of_a_workflow_knows_its_branch(
    clones: Callable[[str], Clone], monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = clones("clone")
    clone.git("checkout", "-q", "--detach")
    monkeypatch.setenv("GITHUB_REF_TYPE", "branch")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")

    clone.record()

    assert NEW in clone.upstream()


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"image: {NAME}", f"image: {NAME}@{NEW}"),
        (f'"image": "{NAME}:1"', f'"image": "{NAME}:1@{NEW}"'),
        (f"FROM {NAME}@{OLD} AS x", f"FROM {NAME}@{NEW} AS x"),
        (f"- {NAME}/more:1\n- {NAME}", f"- {NAME}/more:1\n- {NAME}@{NEW}"),
        (f"- a.{NAME}\n- {NAME}:1", f"- a.{NAME}\n- {NAME}:1@{NEW}"),
        (f"- name: {NAME}\n- image: {NAME}", f"- name: {NAME}\n- image: {NAME}@{NEW}"),
    ],
)
def test_only_references_to_the_image_are_rewritten(text: str, after: str) -> None:
    assert recorded.rewritten(text, NAME, NEW, "x") == after
