"""Cache volumes: directories that live on from run to run, by a name that the user gives; kept in the store as any tree.

A step gets a copy of its own, which it may write to; after it has succeeded that copy is kept as the newest of its name. So what
a failed or killed step has done to it is forgotten, two steps at once never see each other, and it goes where the store goes.
A name that was never kept begins with the newest of which it is a prefix, then with that of the longest prefix of its own that ends
before a `-`: `uv-3.11-9f2c` begins with the newest `uv-3.11-...`, else with the newest `uv-...`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import Index
from trimtab.ci.cache.tree import encode


class Volumes:
    """The cache volumes of a directory of state. Safe for several threads and processes."""

    def __init__(self, index: Index, blobs: Blobs) -> None:
        self._index = index
        self._blobs = blobs

    def restore(self, name: str, directory: str) -> str:
        """Makes `directory` what the volume is; gives the name under which it was kept, "" for an empty one."""
        for known, tree in self._candidates(name):
            try:
                self._copy(tree, directory)
            except Lost:
                shutil.rmtree(directory, ignore_errors=True)
                self._index.write(("delete from volumes where name = ?", (known,)))
                continue
            self._index.write(("update volumes set used = ? where name = ?", (time.time(), known)))
            return known
        os.makedirs(directory, exist_ok=True)
        return ""

    def keep(self, name: str, directory: str) -> str:
        """Keeps what is in `directory` as the newest of that name; the files there become the store's. Gives the tree's digest."""
        tree, size = self._blobs.capture(directory, take=True)
        self._keep(name, tree, size)
        return tree

    def newest(self, name: str) -> str:
        """The tree that `restore` would begin with; an empty one where there is none."""
        for known, tree in self._candidates(name):
            with suppress(Lost):
                self._blobs.whole(tree)
                self._index.write(("update volumes set used = ? where name = ?", (time.time(), known)))
                return tree
        return self._blobs.put(encode(()))

    def keep_tree(self, name: str, tree: str) -> None:
        """Keeps a tree of the store as the newest of that name."""
        self._keep(name, tree, sum(max(0, size) for _, size in self._blobs.reached(tree, set())))

    def _keep(self, name: str, tree: str, size: int) -> None:
        now = time.time()
        self._index.write(("insert or replace into volumes values (?, ?, ?, ?, ?)", (name, tree, now, now, size)))

    def _candidates(self, name: str) -> Iterator[tuple[str, str]]:
        seen = set()
        for prefix, exactly in _prefixes(name):
            try:
                rows = self._index.rows(
                    "select name, tree from volumes where name = ?"
                    if exactly
                    else "select name, tree from volumes where substr(name, 1, length(?1)) = ?1 order by made desc",
                    (prefix,),
                )
            except sqlite3.DatabaseError:
                return
            for known, tree in rows:
                if known not in seen:
                    seen.add(known)
                    yield known, tree

    def _copy(self, tree: str, directory: str) -> None:
        """A copy that may be written to: the store's own files may not."""
        os.makedirs(directory, exist_ok=True)
        for name, kind, value, size in self._blobs.entries(tree):
            target = os.path.join(directory, name)
            digest = f"sha256:{value}"
            if kind == "d":
                self._copy(digest, target)
            elif kind == "l":
                os.symlink(value, target)
            else:
                self._blobs.check(digest, size)
                shutil.copyfile(self._blobs.path(digest), target)
                os.chmod(target, 0o755 if kind == "x" else 0o644)


def _prefixes(name: str) -> Iterator[tuple[str, bool]]:
    """What to look for, in order: the name itself, what begins with it, what begins with less and less of it."""
    yield name, True
    yield name, False
    while "-" in name:
        name = name.rpartition("-")[0]
        yield f"{name}-", False
