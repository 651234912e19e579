"""Tree digests and selections: what they see, what they do not, and what is remembered of a file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.ci.cache.index import Index
from trimtab.ci.cache.selection import Selection
from trimtab.ci.cache.tree import Node, Scanner, TreeError, decode, encode

OLD_NS = time.time_ns() - 3600 * 1_000_000_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(str(tmp_path / "state"))
    yield index
    index.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for path in (
        "app/a.py",
        "app/sub/b.py",
        "app/sub/deep/c.txt",
        "tests/test_a.py",
        "docs/x.md",
        "app.py",
        "README.md",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"content of {path}\n")
    return root


def selected(root: Path, *patterns: str, exclude: tuple[str, ...] = ()) -> list[str]:
    selection = Selection(patterns, exclude)
    return sorted(path for path, _ in Scanner(str(root)).trees([selection])[selection].files())


def digest(root: Path, index: Index | None = None, *patterns: str) -> str:
    selection = Selection(patterns or ("**",))
    return Scanner(str(root), index).trees([selection])[selection].digest


def settled(index: Index, root: Path) -> None:
    """Waits until the files' times are out of the clock's grain, and has them remembered."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        scanner = Scanner(str(root), index)
        scanner.trees([Selection(("**",))])
        if scanner.times.hashed == 0:
            return
    raise AssertionError("files are hashed again and again")


@pytest.mark.parametrize(
    ("patterns", "exclude", "expected"),
    [
        (("app/**",), (), ["app/a.py", "app/sub/b.py", "app/sub/deep/c.txt"]),
        (("app",), (), ["app/a.py", "app/sub/b.py", "app/sub/deep/c.txt"]),
        (("app/",), (), ["app/a.py", "app/sub/b.py", "app/sub/deep/c.txt"]),
        (("app/*",), ("app/sub",), ["app/a.py"]),
        (("*.py",), (), ["app.py"]),
        (("**/*.py",), (), ["app.py", "app/a.py", "app/sub/b.py", "tests/test_a.py"]),
        (("app/**/*.py",), (), ["app/a.py", "app/sub/b.py"]),
        (("**/deep/**",), (), ["app/sub/deep/c.txt"]),
        (("**",), ("app/**", "*.md"), ["app.py", "docs/x.md", "tests/test_a.py"]),
        (("**",), ("**/*.py", "**/*.txt"), ["README.md", "docs/x.md"]),
        (("app/?.py", "[dR]*"), (), ["README.md", "app/a.py", "docs/x.md"]),
        (("[!at]*",), (), ["README.md", "docs/x.md"]),
        (("app.p[yz]", "./docs/x.md"), (), ["app.py", "docs/x.md"]),
        (("nothing/**", "app.py/**"), (), []),
    ],
)
def test_patterns(project: Path, patterns: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    assert selected(project, *patterns, exclude=exclude) == expected


def test_what_version_control_and_python_keep_is_never_selected(project: Path) -> None:
    before = digest(project)
    for name in (".git/HEAD", "app/.hg/x", "app/__pycache__/a.pyc"):
        (project / name).parent.mkdir(parents=True)
        (project / name).write_text("x")
    assert digest(project) == before


def test_a_directory_in_which_nothing_can_match_is_not_read(project: Path) -> None:
    scanner = Scanner(str(project))
    scanner.trees([Selection(("app/*.py",))])
    assert set(scanner._listings) == {"", "app/"}


def test_times_and_owners_do_not_count_but_all_else_does(project: Path, tmp_path: Path) -> None:
    before = digest(project)
    file = project / "app" / "a.py"
    os.utime(file, ns=(OLD_NS, OLD_NS))
    file.chmod(0o600)
    assert digest(project) == before
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    assert digest(copy) == before

    seen = {before}

    def differs() -> None:
        now = digest(project)
        assert now not in seen
        seen.add(now)

    file.chmod(0o755)
    differs()
    file.write_text("other")
    differs()
    file.rename(file.with_name("z.py"))
    differs()
    file.symlink_to("z.py")
    differs()
    file.unlink()
    file.symlink_to("elsewhere")
    differs()
    (project / "docs" / "x.md").unlink()
    differs()


def test_empty_directories_and_sockets_are_no_content(project: Path) -> None:
    before = digest(project)
    (project / "empty" / "more").mkdir(parents=True)
    os.mkfifo(project / "pipe")
    assert digest(project) == before


def test_links_are_not_followed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    (project / "app" / "out").symlink_to(tmp_path / "outside")
    assert "app/out/secret" not in selected(project, "app/**")
    assert "app/out" in selected(project, "app/**")


def test_what_did_not_change_is_not_read_again(project: Path, index: Index) -> None:
    before = digest(project, index)
    settled(index, project)
    (project / "app" / "a.py").write_text("content of APP/a.py\n")
    scanner = Scanner(str(project), index)
    selection = Selection(("**",))
    after = scanner.trees([selection])[selection].digest
    assert after != before
    assert scanner.times.hashed == 1
    assert after == digest(project)


def test_an_edit_of_the_same_size_with_the_time_set_back_is_seen(project: Path, index: Index) -> None:
    file = project / "app" / "a.py"
    os.utime(file, ns=(OLD_NS, OLD_NS))
    before = digest(project, index)
    settled(index, project)
    file.write_text("CONTENT OF app/a.py\n")
    os.utime(file, ns=(OLD_NS, OLD_NS))
    assert digest(project, index) != before


def test_a_file_written_within_the_grain_of_the_clock_is_read_again(project: Path, index: Index) -> None:
    file = project / "app" / "a.py"
    for number in range(50):
        file.write_text(f"{number:08d}")
        assert digest(project, index) == digest(project)


def test_files_of_the_future_are_read_each_time(project: Path, index: Index) -> None:
    file = project / "app.py"
    ahead = time.time_ns() + 3600 * 1_000_000_000
    os.utime(file, ns=(ahead, ahead))
    for _ in range(2):
        scanner = Scanner(str(project), index)
        scanner.trees([Selection(("app.py",))])
        assert scanner.times.hashed == 1


def test_a_damaged_memory_is_read_as_none(project: Path, index: Index) -> None:
    before = digest(project, index)
    settled(index, project)
    index.write(("update stat set entries = x'00112233445566'", ()))
    assert digest(project, index) == before


def test_what_cannot_be_read_is_named(project: Path) -> None:
    with pytest.raises(TreeError, match=r"/nowhere does not exist"):
        Scanner(str(project / "nowhere")).trees([Selection(("**",))])
    with pytest.raises(TreeError, match=r"cannot read .*/app\.py: Not a directory; make it readable or exclude it"):
        Scanner(str(project / "app.py")).trees([Selection(("**",))])


def test_names_of_any_bytes(project: Path) -> None:
    name = os.fsdecode(b"\xff\xfe\n name")
    (project / "app" / name).write_text("x")
    assert f"app/{name}" in selected(project, "app/**")
    node = Scanner(str(project)).trees([Selection(("**",))])[Selection(("**",))]
    app = node.entries["app"]
    assert isinstance(app, Node)
    assert name in [entry[0] for entry in decode(app.blob)]
    assert encode(decode(app.blob)) == app.blob


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"trimtab tree 1",
        b"trimtab tree 1\nf\0name\0",
        b"trimtab tree 1\nf\0../x\0" + b"0" * 64 + b"\x001\0",
        b"trimtab tree 1\nd\0..\0" + b"0" * 64 + b"\x000\0",
        b"trimtab tree 1\nf\0x\0../../etc/passwd\x001\0",
        b"trimtab tree 1\ns\0x\0" + b"0" * 64 + b"\x001\0",
        b"trimtab tree 1\nf\0x\0" + b"0" * 64 + b"\0many\0",
    ],
)
def test_what_is_no_tree_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError):
        decode(blob)


def test_two_selections_share_what_they_have_in_common(project: Path) -> None:
    one, other = Selection(("app/**",)), Selection(("app/**", "tests/**"))
    scanner = Scanner(str(project))
    trees = scanner.trees([one, other])
    assert trees[one].entries["app"] is trees[other].entries["app"]
