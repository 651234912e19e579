"""Packages of compositions on disk: each with what it needs in a directory of its own, installed once and then only read.

    DATA/compositions/NAME-VERSION/          what pip put there: the package and its dependencies
    DATA/compositions/NAME-VERSION.lock      requirements with their hashes: what was installed is what is there

pip runs shut in, with the network for that time alone; wheels only, so that nothing of a package runs while it is installed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

REQUIREMENT = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)$")


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
