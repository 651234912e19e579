"""The content store forgets what nothing runs any more, and nothing else, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from image_samples import sample_image
from running import Running, running
from trimtab.api import from_wire
from trimtab.api.workloads import ReplicaSet
from trimtab.components.apps import COMPONENT
from trimtab.components.apps.upkeep import EVERY_S, FIRST_AFTER_S, Freed, Images, StoredImages
from trimtab.content import ContentStore, Digest, oci
from trimtab.runtime.simulation import SimulatedClock, simulate

LONG_AGO_S = 7200.0


class Directly(StoredImages):
    """Without a thread, which simulated time has none of."""

    async def collect(self, named: frozenset[Digest]) -> Freed | None:
        return self._collect(named)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def build(store: ContentStore, name: str) -> Digest:
    """An image as a build leaves it, made long ago."""
    digest = sample_image(store)
    store.tag_build(f"trimtab.local/{name}", digest)
    for one in store.blobs():
        then = os.stat(store.path(one)).st_mtime - LONG_AGO_S
        os.utime(store.path(one), (then, then))
    return digest


def is_whole(store: ContentStore, digest: Digest) -> bool:
    return store.has(digest) and all(store.has(Digest(one.digest)) for one in oci.closure(store, digest))


def replica_set(image: Digest) -> ReplicaSet:
    template = {
        "metadata": {"labels": {"app": "shop"}},
        "spec": {"containers": [{"name": "web", "image": f"trimtab.local/shop@{image}"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "shop"}}, "template": template}
    return from_wire(ReplicaSet, {"metadata": {"name": "shop-1", "namespace": "default"}, "spec": spec})


def tell(store: ContentStore, story: Callable[[Running], Awaitable[None]], size_bytes_max: int = 10**9) -> None:
    async def main(clock: SimulatedClock) -> None:
        images = Directly(store.directory, size_bytes_max)
        async with running(clock, COMPONENT, adapters={Images: images}) as here:
            await story(here)

    simulate(main)


def test_what_an_old_replica_set_names_stays_and_old_builds_go(store: ContentStore) -> None:
    builds = [build(store, "shop") for _ in range(7)]
    other = build(store, "other")
    in_use = builds[0]

    async def story(here: Running) -> None:
        await here.apply(replica_set(in_use))
        await here.settle(FIRST_AFTER_S + 10)
        # The newest, three before it, the one that a rollback would need; what nothing names is gone.
        assert [is_whole(store, one) for one in builds] == [True, False, False, True, True, True, True]
        assert is_whole(store, other)
        [entry] = [e for e in here.journal.timeline() if e.verb == "collected"]
        assert entry.component == "apps"
        assert entry.message.startswith("content store: 0.0 MiB freed (")
        assert entry.data is not None
        assert entry.data["freedBytes"] > 6000

        await here.client.delete(replica_set(in_use).ref)
        await here.settle(EVERY_S + 10)
        assert not is_whole(store, in_use)

    tell(store, story)


def test_a_store_beyond_its_limit_gives_up_older_builds_and_says_when_that_is_not_enough(store: ContentStore) -> None:
    builds = [build(store, "shop") for _ in range(3)]

    async def story(here: Running) -> None:
        await here.settle(FIRST_AFTER_S + 10)
        assert [is_whole(store, one) for one in builds] == [False, False, True]
        [entry] = [e for e in here.journal.timeline() if e.verb == "collected"]
        assert entry.message.endswith(
            "more than its limit of 0 MiB, and all of it in use; delete apps or their old versions"
        )

    tell(store, story, size_bytes_max=10)


def test_nothing_goes_while_the_api_does_not_say_what_is_in_use(store: ContentStore) -> None:
    builds = [build(store, "shop") for _ in range(6)]

    async def story(here: Running) -> None:
        await here.api.close()
        await here.settle(FIRST_AFTER_S + EVERY_S)
        assert all(is_whole(store, one) for one in builds)

    tell(store, story)


async def test_builds_beside_collections_lose_nothing(store: ContentStore) -> None:
    """Every image is whole when its build is over, although blobs that it shares with forgotten ones are old."""
    collections = builds = 0
    done = asyncio.Event()

    async def collect() -> None:
        nonlocal collections
        images = StoredImages(store.directory)
        while not done.is_set():
            collections += await images.collect(frozenset()) is not None

    async def make(worker: int) -> None:
        nonlocal builds
        for number in range(25):
            async with store.lock("in-use", shared=True):
                digest = await asyncio.to_thread(build, store, f"app{worker}")
            builds += 1
            assert is_whole(store, digest), number
            newest = store.resolve(f"trimtab.local/app{worker}:latest")
            assert newest == digest
            await asyncio.sleep(0)

    collecting = asyncio.create_task(collect())
    async with asyncio.timeout(60):
        await asyncio.gather(make(1), make(2))
        seen = collections
        while collections == seen:  # noqa: ASYNC110 (it happens in a thread)
            await asyncio.sleep(0.01)
    done.set()
    await collecting
    assert builds == 50
    for worker in (1, 2):
        newest = store.resolve(f"trimtab.local/app{worker}:latest")
        assert newest is not None
        assert is_whole(store, newest)
        assert len(store.tags(f"trimtab.local/app{worker}:former-")) == 3
