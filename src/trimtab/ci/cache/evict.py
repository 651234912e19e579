"""Making room: what is worth least goes first, and leaves a tombstone that says why.

    worth of a record = seconds to make it again x how likely it is wanted again / bytes that go with it

Blobs that several records have in common count for each of them in part. What retained runs pin (logs, results by test, what a failed
step took, the outputs of the last run) is never removed, nor is anything while a run is under way; images belong to their tags.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.ci.cache.blobs import Lost
from trimtab.ci.cache.index import BUSY_S
from trimtab.ci.cache.keys import is_tree
from trimtab.ci.cache.local import LocalCache

SIZE_BYTES_MAX = 20 << 30
DISK_SHARE_MAX = 0.3
"""Of the file system, where that is less."""
ROOM_SHARE = 0.9
"""How full it is afterwards, so that not every run makes room."""
AGE_S_MAX = 60 * 86400.0
HALF_LIFE_S = 7 * 86400.0
"""After this time without use a record is half as likely to be wanted again."""
RUNS_RETAINED = 50
"""Of each project."""
VOLUME_S = 30.0
"""What a cache volume is thought to spare."""
GRACE_S = 3600.0
TOMBSTONES_MAX = 10_000
TIDY_EVERY_S = 3600.0


@dataclass(frozen=True)
class Pruned:
    """What was removed, and what is left. busy: nothing was, because a run is under way."""

    records: int = 0
    volumes: int = 0
    blobs: int = 0
    bytes: int = 0
    left_bytes: int = 0
    busy: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Item:
    """A record or a volume, with all blobs that it keeps."""

    kind: str
    key: str
    worth_s: float
    used: float
    blobs: frozenset[str]


def limit_bytes(directory: str) -> int:
    """How much the cache may hold: `$TRIMTAB_CI_CACHE_BYTES`, else 20 GiB or 30 % of the disk, whichever is less."""
    said = os.environ.get("TRIMTAB_CI_CACHE_BYTES", "")
    if said.isdecimal():
        return int(said)
    return min(SIZE_BYTES_MAX, int(shutil.disk_usage(directory).total * DISK_SHARE_MAX))


def tidy(cache: LocalCache) -> Pruned | None:
    """`prune` to the limit, once an hour at most and silently: for the end of a run."""
    stamp = os.path.join(cache.blobs.directory, "tidied")
    with suppress(FileNotFoundError):
        if time.time() - os.stat(stamp).st_mtime < TIDY_EVERY_S:
            return None
    try:
        with open(stamp, "w"):
            os.utime(stamp)
        limit = limit_bytes(cache.blobs.directory)
        return prune(cache, limit) if sum(cache.blobs.sizes().values()) > limit else None
    except (OSError, sqlite3.DatabaseError):
        return None


def prune(cache: LocalCache, size_bytes: int, *, age_s: float = AGE_S_MAX, grace_s: float = GRACE_S) -> Pruned:
    """Removes what was not used for long, and then what is worth least until the rest fits; then what nothing refers to.

    grace_s: blobs this young stay, their record may be about to be written.
    """
    with cache.blobs.alone() as alone:
        if not alone:
            return Pruned(left_bytes=sum(cache.blobs.sizes().values()), busy=True)
        return _Pruning(cache, size_bytes, age_s).prune(grace_s)


class _Pruning:
    """One look at everything that is kept."""

    def __init__(self, cache: LocalCache, size_bytes: int, age_s: float) -> None:
        self.cache = cache
        self.now = cache.now()
        self.size_bytes = size_bytes
        self.age_s = age_s
        self.sizes = cache.blobs.sizes()
        self._all: dict[str, frozenset[str]] = {}
        self._lists: dict[str, frozenset[str]] = {}

    def prune(self, grace_s: float) -> Pruned:
        items = [*self._records(), *self._volumes()]
        pinned = self._pinned() | self._images()
        shares = Counter(digest for item in items for digest in item.blobs)
        shares.update(pinned)
        used = sum(self.sizes.get(digest, 0) for digest in shares)
        room = self.size_bytes if used <= self.size_bytes else int(self.size_bytes * ROOM_SHARE)
        out = Counter[str]()
        for item in sorted(items, key=lambda item: self._worth(item, shares, pinned)):
            old = self.now - item.used > self.age_s
            if not old and (used <= room or item.blobs <= pinned):
                continue
            self._evict(item, f"unused for {int(self.age_s // 86400)} days" if old else "by the size limit")
            out[item.kind] += 1
            for digest in item.blobs:
                shares[digest] -= 1
                if not shares[digest]:
                    used -= self.sizes.get(digest, 0)
        return self._sweep({digest for digest, count in shares.items() if count > 0}, out, grace_s)

    def _worth(self, item: _Item, shares: Counter[str], pinned: frozenset[str]) -> float:
        freed = sum(self.sizes.get(digest, 0) / shares[digest] for digest in item.blobs - pinned)
        return item.worth_s / freed if freed else float("inf")

    def _evict(self, item: _Item, reason: str) -> None:
        if item.kind == "volume":
            self.cache.index.write(("delete from volumes where name = ?", (item.key,)))
        else:
            self.cache.bury(item.key, reason)

    def _sweep(self, live: set[str], out: Counter[str], grace_s: float) -> Pruned:
        self.cache.blobs.drop_trees(live, grace_s)
        freed = {digest: self.sizes[digest] for digest in self.sizes.keys() - live}
        freed = {digest: size for digest, size in freed.items() if self.cache.blobs.forget(digest, grace_s)}
        self.cache.index.write(
            (
                "delete from tombstones where key not in (select key from tombstones order by at desc limit ?)",
                (TOMBSTONES_MAX,),
            )
        )
        gone = sum(freed.values())
        return Pruned(out["record"], out["volume"], len(freed), gone, sum(self.sizes.values()) - gone)

    # What is kept

    def _records(self) -> Iterator[_Item]:
        rows = self.cache.index.rows("select key, result, components, seconds, used, uses from results")
        for key, text, components, seconds, used, uses in rows:
            result = json.loads(text)
            found = {digest for digest in (result.get("log"), result.get("tests")) if digest}
            for tree in result["outputs"].values():
                found |= self._reached(tree)
            for name, value in json.loads(components).items():
                if is_tree(name, value):
                    found |= self._listings(value)  # `why` compares them; their files are not needed for it
            yield _Item("record", key, self._wanted_s(seconds, used, uses), used, frozenset(found))

    def _volumes(self) -> Iterator[_Item]:
        for name, tree, used in self.cache.index.rows("select name, tree, used from volumes"):
            yield _Item("volume", name, self._wanted_s(VOLUME_S, used, 1), used, self._reached(tree))

    def _wanted_s(self, seconds: float, used: float, uses: int) -> float:
        return max(seconds, 0.01) * uses / (uses + 1) * 2 ** (-max(self.now - used, 0.0) / HALF_LIFE_S)

    def _pinned(self) -> frozenset[str]:
        """What the records of retained runs have: logs, results by test, what a failed step took, and of the last run the outputs."""
        found: set[str] = set()
        for digest, last in retained(self.cache.blobs.directory):
            found.add(digest)
            try:
                record = json.loads(gzip.decompress(self.cache.blobs.read(digest)))
            except (Lost, OSError, ValueError):
                continue
            for step in record.get("steps", {}).values():
                kept = (
                    dict(step) if last else {"log": step.get("log"), "tests": step.get("tests"), "job": step.get("job")}
                )
                kept.pop("components", None)
                for one in _digests(kept):
                    found |= self._reached(one)
        return frozenset(found)

    def _images(self) -> frozenset[str]:
        """What image tags reach, by the rules of `trimtab.content`, whose store this is as well."""
        tags = os.path.join(self.cache.blobs.directory, "tags")
        if not os.path.isdir(tags) or not os.listdir(tags):
            return frozenset()
        from trimtab.content import ContentStore
        from trimtab.content.garbage import reachable

        store = ContentStore(self.cache.blobs.directory)
        return frozenset(reachable(store, [*store.tags().values(), *store.tags("cache/").values()]))

    def _reached(self, tree: str) -> frozenset[str]:
        if tree not in self._all:
            found = {tree}
            with suppress(Lost):
                for _, kind, value, _ in self.cache.blobs.entries(tree):
                    found |= self._reached(f"sha256:{value}") if kind == "d" else {f"sha256:{value}"}
            self._all[tree] = frozenset(found)
        return self._all[tree]

    def _listings(self, tree: str) -> frozenset[str]:
        if tree not in self._lists:
            self._lists[tree] = frozenset({tree})
            with suppress(Lost):
                self._lists[tree] |= self.cache.blobs.directories(tree)
        return self._lists[tree]


def retained(directory: str) -> list[tuple[str, bool]]:
    """The records of the latest runs of each project, and of each whether it is its project's last."""
    path = os.path.join(directory, "history.sqlite")
    if not os.path.exists(path):
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)
    try:
        rows = connection.execute(
            "select record, n = 1 from (select record, row_number() over (partition by project order by started desc) n"
            " from runs) where n <= ?",
            (RUNS_RETAINED,),
        )
        return [(digest, bool(last)) for digest, last in rows]
    except sqlite3.DatabaseError:
        return []
    finally:
        connection.close()


def _digests(value: Any) -> Iterator[str]:
    """Every digest that stands anywhere in plain data."""
    if isinstance(value, str):
        if value.startswith("sha256:") and len(value) == 71:
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _digests(one)
    elif isinstance(value, list):
        for one in value:
            yield from _digests(one)
