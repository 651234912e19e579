"""The content store: what is in it is whole, named by its hash, and stays as long as something reaches it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from image_samples import sample_image, sample_index
from trimtab.content import (
    BadReference,
    ContentError,
    ContentStore,
    Corrupt,
    Digest,
    NoSuchBlob,
    digest_of,
    oci,
    parse_digest,
)

ABSENT = digest_of(b"never put")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def age(store: ContentStore, *digests: Digest, seconds: float = 7200) -> None:
    """Makes these blobs (or all) look older than the grace time."""
    for digest in digests or store.blobs():
        then = os.stat(store.path(digest)).st_mtime - seconds
        os.utime(store.path(digest), (then, then))


def test_bytes_come_back_under_their_digest(store: ContentStore, tmp_path: Path) -> None:
    digest = store.put(b"hello")
    assert digest == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert store.read(digest) == b"hello"
    assert store.size(digest) == 5
    assert store.path(digest) == tmp_path / "content" / "blobs" / "sha256" / digest[7:]
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    assert store.put_file(file) == digest
    assert list(store.blobs()) == [digest]


def test_bytes_that_are_not_what_they_should_be_are_not_kept(store: ContentStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"other")
        with pytest.raises(Corrupt, match=f"expected {ABSENT}, received {digest_of(b'other')}"):
            ingest.commit(ABSENT)
    with pytest.raises(Corrupt, match="expected"):
        store.put(b"other", expect=ABSENT)
    assert list(store.blobs()) == []
    assert list((store.directory / "ingest").iterdir()) == []


def test_an_ingest_without_commit_leaves_nothing(store: ContentStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"half of i")
    assert list(store.blobs()) == []
    assert list((store.directory / "ingest").iterdir()) == []


def test_a_damaged_blob_is_noticed_and_mended_by_putting_it_again(store: ContentStore) -> None:
    digest = store.put(b"hello")
    store.path(digest).write_bytes(b"hellO")
    with pytest.raises(Corrupt, match=f"the blob {digest} in .* is damaged; delete its file and build or pull again"):
        store.read(digest)
    with pytest.raises(Corrupt, match="is damaged"):
        store.verify(digest)
    store.path(digest).write_bytes(b"hell")
    assert store.put(b"hello") == digest
    assert store.read(digest) == b"hello"


def test_what_is_not_there_is_said_so(store: ContentStore) -> None:
    for ask in (store.read, store.size, store.open, store.verify):
        with pytest.raises(NoSuchBlob, match=f"{ABSENT} is not in "):
            ask(ABSENT)
    with pytest.raises(NoSuchBlob, match="cannot tag a:1"):
        store.tag("a:1", ABSENT)


@pytest.mark.parametrize("text", ["sha256:../../etc/passwd", "sha512:" + "0" * 64, "sha256:" + "A" * 64, "", "latest"])
def test_only_real_digests_become_paths(store: ContentStore, text: str) -> None:
    with pytest.raises(BadReference, match="is not a digest; expected sha256: and 64 hex digits"):
        store.has(Digest(text))


def test_tags_name_and_move(store: ContentStore) -> None:
    one, two = store.put(b"1"), store.put(b"2")
    store.tag("trimtab.local/shop/web:latest", one)
    store.tag("trimtab.local/shop/web:latest", two)
    store.tag("other.example:5000/x@y", one)
    store.tag("cache/x/1", one)
    assert store.resolve("trimtab.local/shop/web:latest") == two
    assert store.tags() == {"other.example:5000/x@y": one, "trimtab.local/shop/web:latest": two}
    assert store.tags("trimtab.local/") == {"trimtab.local/shop/web:latest": two}
    assert store.tags("cache/") == {"cache/x/1": one}
    store.untag("trimtab.local/shop/web:latest")
    assert store.resolve("trimtab.local/shop/web:latest") is None


@pytest.mark.parametrize("name", ["", "..", ".", "x" * 300])
def test_a_tag_that_cannot_be_a_file_name_is_refused(store: ContentStore, name: str) -> None:
    with pytest.raises(BadReference, match=r"cannot name an image here; use 1 to 240 characters"):
        store.tag(name, store.put(b"1"))


def test_a_damaged_tag_is_said_so(store: ContentStore) -> None:
    store.tag("a:1", store.put(b"1"))
    (store.directory / "tags" / "a%3A1").write_text("sha256:gar")
    with pytest.raises(Corrupt, match=r"the tag a:1 in .* is damaged; build or pull the image again"):
        store.resolve("a:1")


def test_gc_keeps_what_a_tag_reaches_and_its_bills_of_materials(store: ContentStore) -> None:
    kept = sample_image(store, "trimtab.local/kept:latest")
    other = sample_image(store)
    index = sample_index(store, ("amd64", sample_image(store)), ("arm64", sample_image(store)))
    store.tag("trimtab.local/index:latest", index)
    in_a_pod = sample_image(store)
    young = store.put(b"put a moment ago")
    age(store)
    age(store, young, seconds=-7200)
    reachable = {one.digest for digest in (kept, index, in_a_pod) for one in oci.closure(store, digest)}
    reachable |= set(store.referrers(kept))
    size_of_other = sum(store.size(Digest(one.digest)) for one in oci.closure(store, other))

    swept = store.gc(keep=frozenset({in_a_pod}))

    assert swept is not None
    left = set(store.blobs())
    assert reachable <= left
    assert young in left
    assert other not in left
    assert swept.bytes >= size_of_other - 2
    oci.closure(store, kept)
    assert store.read(store.referrers(kept)[0])


def test_gc_forgets_cache_entries_that_nobody_used_for_long(store: ContentStore) -> None:
    from trimtab.content.cache import recall, remember

    layer = store.put(b"layer bytes")
    remember(store, "files", "old", 1, [(layer, 11)])
    remember(store, "files", "new", 2, [(layer, 11)])
    tag = store.directory / "tags" / "cache%2Ffiles%2Fold"
    os.utime(tag, (0, 0))
    age(store)
    swept = store.gc()
    assert swept is not None
    assert swept.cache_entries == 1
    assert recall(store, "files", "old", int) is None
    assert recall(store, "files", "new", int) == 2
    assert store.has(layer)


def test_a_cache_entry_whose_blob_is_damaged_is_none(store: ContentStore) -> None:
    from trimtab.content.cache import recall, remember

    layer = store.put(b"layer bytes")
    remember(store, "files", "k", {"a": 1}, [(layer, 11)])
    assert recall(store, "files", "k", dict) == {"a": 1}
    assert recall(store, "files", "k", int) is None
    store.path(layer).write_bytes(b"cut")
    assert recall(store, "files", "k", dict) is None
    assert not store.has(layer)


async def test_gc_stays_away_while_a_build_runs(store: ContentStore) -> None:
    async with store.lock("in-use", shared=True), store.lock("in-use", shared=True):
        assert store.gc() is None
    assert store.gc() is not None


async def test_a_lock_has_one_holder_at_a_time(store: ContentStore) -> None:
    holders = 0
    most = 0

    async def hold() -> None:
        nonlocal holders, most
        async with store.lock("build-x"):
            holders += 1
            most = max(most, holders)
            await asyncio.sleep(0)
            holders -= 1

    await asyncio.gather(*(hold() for _ in range(5)))
    assert most == 1


def test_a_directory_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ContentError, NotADirectoryError)):
        ContentStore(tmp_path / "file" / "content")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    os.chown(tmp_path / "content", 65534, 65534)
    store = ContentStore(tmp_path / "content")
    digest = sample_image(store, "trimtab.local/x:latest")
    assert parse_digest(digest)
    for path in (tmp_path / "content").rglob("*"):
        assert path.stat().st_uid == 65534, path
