"""The directories of the layers below: what a new layer must respect and not repeat.

A tar entry for a directory replaces the owner and mode that it had; an entry below a path that is a link to a directory
(`/bin`, `/var/run`) replaces the link, and all that it led to is gone. So a layer is written knowing the tree that it
goes on top of.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import msgspec

_LINK_DEPTH_MAX = 10


class Tree(msgspec.Struct, frozen=True):
    """Paths without a leading slash. `links`: {link: the directory that it leads to}."""

    directories: list[str] = []
    links: dict[str, str] = {}


class GrowingTree:
    """A tree to which a layer adds."""

    def __init__(self, below: Tree | None = None) -> None:
        self._directories = set(below.directories) if below is not None else set()
        self._links = dict(below.links) if below is not None else {}

    def resolve(self, path: str, *, last: bool = False) -> str:
        """Where this path really is. `last`: follow the last component as well, if it is a link to a directory."""
        resolved = ""
        parts = path.split("/")
        for position, part in enumerate(parts):
            resolved = f"{resolved}/{part}" if resolved else part
            if position < len(parts) - 1 or last:
                resolved = self._links.get(resolved, resolved)
        return resolved

    def has(self, path: str) -> bool:
        return path in self._directories

    def add_directory(self, path: str) -> None:
        self._directories.add(path)
        self._links.pop(path, None)

    def add_link(self, path: str, target: str) -> None:
        """Notes a symbolic link, if it leads to a directory that is known."""
        found = lead_to(path, target)
        if found is None:
            return
        found = self.resolve(found, last=True)
        if found in self._directories and found != path:
            self._links[path] = found

    def remove(self, path: str, *, only_children: bool = False) -> None:
        """Forgets a path and all below it: a layer's whiteout."""
        for known in [one for one in self._directories if one.startswith(path + "/")]:
            self._directories.discard(known)
        for link in [one for one in self._links if one.startswith(path + "/")]:
            del self._links[link]
        if not only_children:
            self._directories.discard(path)
            self._links.pop(path, None)

    def add_links(self, links: Mapping[str, str]) -> None:
        """Several links, some of which may lead through others."""
        for _ in range(_LINK_DEPTH_MAX):
            before = len(self._links)
            for path, target in links.items():
                if path not in self._links:
                    self.add_link(path, target)
            if len(self._links) == before:
                return

    def add_parents(self, path: str) -> None:
        """The directories above a path exist."""
        parent = posixpath.dirname(path)
        while parent and parent not in self._directories:
            self._directories.add(parent)
            parent = posixpath.dirname(parent)

    def frozen(self) -> Tree:
        return Tree(sorted(self._directories), dict(sorted(self._links.items())))


def lead_to(path: str, target: str) -> str | None:
    """Where a link at `path` with this target points, lexically; None if out of the tree."""
    joined = target.lstrip("/") if target.startswith("/") else posixpath.join(posixpath.dirname(path), target)
    found = posixpath.normpath(joined)
    return None if found.startswith("..") or found == "." else found
