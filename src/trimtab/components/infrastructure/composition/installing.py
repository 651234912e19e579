"""Installing a composition's package: what pip resolves is locked by its hashes, and only that is unpacked.

    NAME==VERSION --pip, dry run--> name, version, sha256 of each --pip, --require-hashes--> a directory of its own --> packages.py

pip runs shut in (bubblewrap), with the network for that time alone and no file but Python's and the new directory. Wheels only, so that
nothing of a package runs while it is installed; a project's directory (`--path`) is built, shut in like that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.components.infrastructure.composition.packages import REQUIREMENT, Shelf
from trimtab.confinement.outside import WAY_OUT, libraries

WITHIN_S = 600.0
ENVIRONMENT = (*WAY_OUT, "PIP_", "REQUESTS_CA_BUNDLE")
"""What pip gets of it: what begins so."""
ROOM = "/install"
"""The new directory, as pip sees it."""
SAID_MAX = 300


class InstallFailed(Exception):
    """A package that was not installed: one line."""


def install(shelf: Shelf, requirement: str, *, path: Path | None = None, lock: Path | None = None) -> tuple[str, int]:
    """Installs `NAME==VERSION`, from the index or from `path`: a wheel, a directory of wheels, or a project's directory.

    lock: requirements with hashes, instead of those that pip finds. Returns NAME==VERSION and how many packages came with it.

    Raises:
        InstallFailed: one line, in pip's words where it has some. OSError: the disk.
    """
    if shutil.which("bwrap") is None:
        raise InstallFailed("bwrap is missing, which shuts pip in: apt-get install bubblewrap")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        raise InstallFailed(f"{sys.executable} has no pip: {sys.executable} -m ensurepip")
    fresh = shelf.fresh()
    try:
        (fresh / "packages").mkdir()
        wanted, more, reads = _source(requirement, path)
        if lock is not None:
            (fresh / "lock").write_text(lock.read_text())
            name = requirement
        else:
            name = _resolved(fresh, wanted, more, reads, requirement)
        locked = (fresh / "lock").read_text()
        if path is None or lock is not None:
            _pip(fresh, ["--require-hashes", "--no-deps", *more, "-r", f"{ROOM}/lock"], reads)
        else:
            _pip(fresh, [*more, wanted], reads)
        count = sum(1 for _ in (fresh / "packages").glob("*.dist-info"))
        shelf.put(name, fresh / "packages", locked)
        return name, count
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _source(requirement: str, path: Path | None) -> tuple[str, list[str], list[Path]]:
    """What pip is asked for, with which options, and what it has to read."""
    if path is None:
        if not REQUIREMENT.match(requirement):
            raise InstallFailed(f"{requirement!r:.100} names no version: write NAME==VERSION, as acme-platform==1.2.0")
        return requirement, ["--only-binary=:all:"], []
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".whl":
            raise InstallFailed(f"{path.name}: give a wheel (.whl), a directory of wheels, or a project's directory")
        return str(path), ["--no-index", "--find-links", str(path.parent)], [path.parent]
    if (path / "pyproject.toml").exists():
        return str(path), [], [path]
    if not any(path.glob("*.whl")):
        raise InstallFailed(f"{path}: there is neither a pyproject.toml nor a wheel in it")
    return requirement, ["--no-index", "--find-links", str(path)], [path]


def _resolved(fresh: Path, wanted: str, more: Sequence[str], reads: Sequence[Path], requirement: str) -> str:
    """Writes the lock; returns NAME==VERSION of what was asked for."""
    _pip(fresh, ["--dry-run", "--ignore-installed", "--report", f"{ROOM}/report", *more, wanted], reads)
    report: dict[str, Any] = json.loads((fresh / "report").read_text())
    lines, asked = [], requirement
    for one in report["install"]:
        named = f"{one['metadata']['name']}=={one['metadata']['version']}"
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
        lines.append(f"{named} --hash=sha256:{digest}" if digest else named)
        if one.get("requested"):
            asked = named
    (fresh / "lock").write_text("\n".join(sorted(lines)) + "\n")
    if (
        REQUIREMENT.match(requirement)
        and REQUIREMENT.match(asked)
        and asked.partition("==")[2] != requirement.partition("==")[2]
    ):
        raise InstallFailed(f"{requirement}: {wanted} is {asked}")
    return asked


def _pip(fresh: Path, arguments: Sequence[str], reads: Sequence[Path]) -> None:
    """Raises `InstallFailed`."""
    own = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet", "install", "--target", f"{ROOM}/packages", "--no-compile"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
    named = [Path(value) for value in environment.values() if value.startswith("/") and Path(value).exists()]
    # -I would have pip ignore its own variables, too; they are allowed here.
    alone = ["--unshare-net"] if "--no-index" in arguments else []
    command = [*_shut_in(fresh, [*reads, *named], alone), *(part for part in own if part != "-I"), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WITHIN_S,
            env=environment | {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"pip took longer than {WITHIN_S:.0f} s") from None
    if done.returncode != 0:
        said = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            or done.stderr.splitlines()
            or ["it said nothing"]
        )
        raise InstallFailed(f"pip: {said[0].removeprefix('ERROR: ')}"[:SAID_MAX])


def _shut_in(fresh: Path, reads: Sequence[Path], more: Sequence[str]) -> list[str]:
    command = [
        "bwrap",
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        "--new-session",
    ]
    command += ["--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    python = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}
    command += libraries("/etc/pip.conf", "/etc/ld.so.cache")
    for place in sorted({*python, *map(str, reads)}):
        if not place.startswith("/usr/"):
            command += ["--ro-bind", place, place]
    return [*command, *more, "--bind", str(fresh), ROOM, "--chdir", ROOM]
