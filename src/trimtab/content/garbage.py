"""What the store may forget: mark from the tags through every document, then remove the unmarked.

Documents are found by their shape, not by their media type: whatever JSON a reachable manifest, index or cache record
is, each `digest` in its descriptors is followed. Layers and other large blobs are never opened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import msgspec

from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import ContentError
from trimtab.content.store import DOCUMENT_BYTES_MAX, FORMER, ContentStore, Swept

_DESCRIPTOR_LISTS = ("manifests", "layers", "blobs")
_DESCRIPTORS = ("config", "subject")


def sweep(
    store: ContentStore,
    *,
    grace_s: float,
    cache_age_s: float,
    keep: frozenset[Digest],
    builds_kept: int | None,
    now_s: float,
) -> Swept:
    """One collection; the caller holds the lock that keeps builds and pulls away."""
    if builds_kept is not None:
        _forget_builds(store, builds_kept)
    cache_entries = 0
    for name in store.tags("cache/"):
        if now_s - store.tag_path(name).stat().st_mtime > cache_age_s:
            store.untag(name)
            cache_entries += 1
    live = reachable(store, [*keep, *store.tags().values(), *store.tags("cache/").values()])
    blobs = size_bytes = 0
    for digest in store.blobs():
        stat = store.path(digest).stat()
        if digest in live or now_s - stat.st_mtime < grace_s:
            continue
        store.delete(digest)
        blobs += 1
        size_bytes += stat.st_size
    _drop_leftovers(store, live, grace_s, now_s)
    return Swept(blobs=blobs, bytes=size_bytes, cache_entries=cache_entries)


def _forget_builds(store: ContentStore, kept: int) -> None:
    """Drops the tags of all former builds of a name but the newest `kept`."""
    former: dict[str, list[str]] = {}
    for name in store.tags():
        repository, mark, _ = name.rpartition(f":{FORMER}")
        if mark:
            former.setdefault(repository, []).append(name)
    for names in former.values():
        for name in sorted(names, reverse=True)[kept:]:
            store.untag(name)


def reachable(store: ContentStore, roots: list[Digest]) -> set[Digest]:
    """Every digest that these documents lead to, themselves included, present here or not."""
    live: set[Digest] = set()
    queue = list(roots)
    while queue:
        digest = queue.pop()
        if digest in live:
            continue
        live.add(digest)
        queue.extend(store.referrers(digest))
        queue.extend(_references(store, digest))
    return live


def _references(store: ContentStore, digest: Digest) -> Iterator[Digest]:
    try:
        with store.open(digest) as file:
            head = file.read(1)
            if head != b"{" or os.fstat(file.fileno()).st_size > DOCUMENT_BYTES_MAX:
                return
            document = msgspec.json.decode(head + file.read())
    except (ContentError, msgspec.MsgspecError, UnicodeDecodeError):
        return
    if not isinstance(document, dict):
        return
    for key in _DESCRIPTORS:
        yield from _digest_in(document.get(key))
    for key in _DESCRIPTOR_LISTS:
        entries = document.get(key)
        if isinstance(entries, list):
            for entry in entries:
                yield from _digest_in(entry)


def _digest_in(descriptor: Any) -> Iterator[Digest]:
    if isinstance(descriptor, dict) and isinstance(descriptor.get("digest"), str):
        with contextlib.suppress(ContentError):
            yield parse_digest(descriptor["digest"])


def _drop_leftovers(store: ContentStore, live: set[Digest], grace_s: float, now_s: float) -> None:
    """Temporary files of writers that died, and the referrer lists of manifests that are gone."""
    temporary = [*store.ingest_directory.iterdir(), *store.tags_directory.glob(".tmp-*")]
    temporary += store.referrers_directory.glob("*/.tmp-*")
    for path in temporary:
        with contextlib.suppress(FileNotFoundError):
            if now_s - path.lstat().st_mtime <= grace_s:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for directory in list(store.referrers_directory.iterdir()):
        if Digest("sha256:" + directory.name) not in live and now_s - directory.stat().st_mtime > grace_s:
            shutil.rmtree(directory)
