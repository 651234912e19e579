"""Packages of compositions on disk: each with what it needs in a directory of its own, installed once and then only read.

DATA/compositions/NAME-VERSION/          what pip put there: the package and its dependencies (installing.py)
DATA/compositions/NAME-VERSION/LOCK      requirements with their hashes: what was installed is what is there
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

LOCK = "requirements.lock"
REQUIREMENT = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_]*)$")


class NotInstalled(LookupError):
    """A package that is not on this machine: one line with the command."""


class Packages(Protocol):
    """Where packages are."""

    def place(self, requirement: str) -> str:
        """The directory of an installed package. Raises `NotInstalled`."""


class Shelf:
    """The packages of one engine. root: DATA/compositions. Implements `Packages`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, requirement: str) -> str:
        found = self.directory(requirement)
        if not found.is_dir():
            raise NotInstalled(
                f"the package {requirement} is not on this machine: trimtab composition install {requirement}"
            )
        return str(found)

    def directory(self, requirement: str) -> Path:
        """Where it is, or would be. Raises `NotInstalled`: it is no `NAME==VERSION`."""
        match = REQUIREMENT.match(requirement)
        if match is None:
            raise NotInstalled(f"{requirement!r:.100} names no package: write NAME==VERSION, as acme-platform==1.2.0")
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        return self._root / f"{name}-{match[3]}"

    def put(self, requirement: str, fresh: Path, lock: str) -> None:
        """Keeps what is in a directory `fresh` of this file system: whole, or not at all. Raises `OSError`, `NotInstalled`."""
        target = self.directory(requirement)
        (fresh / LOCK).write_text(lock)
        for path in (fresh, *fresh.rglob("*")):  # whoever runs the function reads it as nobody
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        old = self._root / f".old-{target.name}"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def remove(self, requirement: str) -> None:
        """Raises `NotInstalled`."""
        self.place(requirement)
        shutil.rmtree(self.directory(requirement))

    def fresh(self) -> Path:
        """An empty directory beside the others."""
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))

    def installed(self) -> list[str]:
        """`NAME==VERSION` of all that is there."""
        found = self._root.iterdir() if self._root.is_dir() else ()
        return sorted("==".join(p.name.rsplit("-", 1)) for p in found if p.is_dir() and not p.name.startswith("."))
