"""Packages of compositions: installed shut in, from files alone, with their hashes; then run where nothing else is."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trimtab
from trimtab.components.infrastructure.composition.installing import InstallFailed, install
from trimtab.components.infrastructure.composition.output import checked
from trimtab.components.infrastructure.composition.packages import LOCK, NotInstalled, Shelf
from trimtab.components.infrastructure.composition.sandbox import Functions
from trimtab.components.infrastructure.composition.terms import Failed, Function
from wheels import wheel

EXAMPLE = Path(trimtab.__file__).parents[2] / "examples" / "lab"
XR: dict[str, Any] = {"name": "one", "namespace": "default", "uid": "", "labels": {}, "annotations": {}}
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed: make setup")


@needs_bwrap
async def test_a_package_and_what_it_needs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    wheels, shelf = tmp_path / "wheels", Shelf(tmp_path / "compositions")
    wheels.mkdir()
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in (EXAMPLE / "acme_lab").glob("*.py")}
    init = (
        files["acme_lab/__init__.py"]
        .replace('"small": 20', '"small": acme_sizes.SMALL')
        .replace("from acme_lab.cloud", "import acme_sizes\nfrom acme_lab.cloud", 1)
    )
    made = wheel(wheels, "acme_lab", "1.0.0", files | {"acme_lab/__init__.py": init}, needs="acme-sizes>=2")
    wheel(wheels, "acme_sizes", "2.1", {"acme_sizes.py": "SMALL = 42\n"})

    assert install(shelf, "", path=made) == ("acme-lab==1.0.0", 2)
    lock = (Path(shelf.place("acme-lab==1.0.0")) / LOCK).read_text()
    assert f"acme-lab==1.0.0 --hash=sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}\n" in lock
    assert shelf.installed() == ["acme-lab==1.0.0"]
    functions = Functions()
    try:
        function = Function("acme-lab==1.0.0", package=shelf.place("acme-lab==1.0.0"), entry="acme_lab:compose")
        said = await functions.compose(function, XR | {"spec": {"region": "eu"}}, {})
        (net, host) = checked(said, "one", "default").parts
        assert net.object["spec"]["forProvider"] == {"name": "one-net", "range": "10.0.0.0/16"}
        assert host.object["spec"]["forProvider"]["disk"] == [{"label": "root", "size": 42}]
        described = await functions.describe(function)
        assert described["fields"]["region"] == {
            "type": "string",
            "immutable": True,
            "description": "Where; it stays.",
            "required": True,
        }
        for entry, text in (
            (
                "acme_lab:other",
                "acme-lab==1.0.0 has no function other; it has Lab, LabStatus, compose: write def other(xr, observed)",
            ),
            ("acme_other:compose", "the package has no module acme_other"),
        ):
            with pytest.raises(Failed) as failed:
                await functions.load(Function("acme-lab==1.0.0", package=function.package, entry=entry))
            assert str(failed.value) == text
    finally:
        await functions.close()


@pytest.mark.long
@needs_bwrap
def test_what_was_locked_is_what_is_installed(tmp_path: Path) -> None:
    wheels, shelf, kept = tmp_path / "wheels", Shelf(tmp_path / "compositions"), tmp_path / "lock"
    wheels.mkdir()
    wheel(wheels, "acme_lab", "1.0.0", {"acme_lab.py": ""}, needs="acme-sizes>=2")
    wheel(wheels, "acme_sizes", "2.1", {"acme_sizes.py": "SMALL = 42\n"})
    assert install(shelf, "acme-lab==1.0.0", path=wheels) == ("acme-lab==1.0.0", 2)
    kept.write_text((Path(shelf.place("acme-lab==1.0.0")) / LOCK).read_text())
    assert install(shelf, "acme-lab==1.0.0", path=wheels, lock=kept) == ("acme-lab==1.0.0", 2)
    wheel(wheels, "acme_sizes", "2.1", {"acme_sizes.py": "SMALL = 43\n"})
    with pytest.raises(InstallFailed, match="DO NOT MATCH THE HASHES"):
        install(shelf, "acme-lab==1.0.0", path=wheels, lock=kept)
    assert "42" in (Path(shelf.place("acme-lab==1.0.0")) / "acme_sizes.py").read_text(), "the old one stays"
    shelf.remove("acme-lab==1.0.0")
    assert shelf.installed() == []
    assert sorted(path.name for path in (tmp_path / "compositions").iterdir()) == []


@pytest.mark.long
@needs_bwrap
def test_what_cannot_be_installed_is_one_line(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "compositions")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "wheels").mkdir()
    needy = wheel(tmp_path / "wheels", "needy", "1.0", {"needy.py": ""}, needs="acme-nowhere==9")
    for requirement, path, text in (
        ("acme", None, "'acme' names no version: write NAME==VERSION, as acme-platform==1.2.0"),
        ("acme==1", tmp_path / "empty", f"{tmp_path / 'empty'}: there is neither a pyproject.toml nor a wheel in it"),
        ("acme==1", tmp_path / "a.txt", "a.txt: give a wheel (.whl), a directory of wheels, or a project's directory"),
        ("", needy, "pip: Could not find a version that satisfies the requirement acme-nowhere==9 (from needy) (from versions: none)"),
        ("needy==2.0", needy, None),
    ):  # fmt: skip
        with pytest.raises(InstallFailed) as failed:
            install(shelf, requirement, path=path)
        if text is not None:
            assert str(failed.value) == text
    assert shelf.installed() == []
    with pytest.raises(NotInstalled, match=r"^'\.\./x==1' names no package: write NAME==VERSION"):
        shelf.place("../x==1")


@pytest.mark.long
def test_the_example_is_clean(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "-p", "acme_lab"],
        cwd=EXAMPLE, env={"MYPYPATH": str(Path(trimtab.__file__).parents[1])}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
