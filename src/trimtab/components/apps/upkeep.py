"""What the content store may forget: images that nothing here runs, or could go back to, any more.

    every hour: Apps, Pods and what makes pods --> the images that they name ---.
                tags (the last build of a name, and those before it) -----------+--> gc --> journal: bytes freed
                                                             a build under way: nothing is removed, next time again

The last builds of each name stay, so that a rollback by hand finds its image. A store that is larger than its limit gives
up its caches and these older builds first; what is in use stays, whatever its size, and the journal says so. Nothing is
removed when the API cannot be asked: a list with a hole in it would be taken for "not in use".
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab.api import Resource
from trimtab.api.batch import CronJob
from trimtab.api.core import Pod
from trimtab.api.jobs import Job
from trimtab.api.workloads import ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet
from trimtab.client import ApiError, WireClient
from trimtab.components.apps.kinds import App
from trimtab.content.digest import Digest
from trimtab.content.errors import ContentError
from trimtab.runtime.journal import Entry

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

NAMING = (App, Pod, ReplicaSet, Deployment, StatefulSet, DaemonSet, ControllerRevision, Job, CronJob)
"""Every kind whose objects name images."""

FIRST_AFTER_S = 300.0
EVERY_S = 3600.0
SIZE_BYTES_MAX = 10 << 30
"""Some hundred images of this builder. Beyond it caches and older builds are given up."""
BUILDS_KEPT = 3
"""Builds of one name that stay besides the newest."""
ACTOR = "trimtab-apps-upkeep"

log = logging.getLogger(__name__)
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")


class Freed(msgspec.Struct, frozen=True):
    """What one collection came to. `kept_bytes`: what is left in the store."""

    blobs: int
    freed_bytes: int
    cache_entries: int
    kept_bytes: int

    def __str__(self) -> str:
        return (
            f"content store: {self.freed_bytes / (1 << 20):.1f} MiB freed ({self.blobs} blobs, {self.cache_entries} cache entries), "
            f"{self.kept_bytes / (1 << 20):.1f} MiB kept"
        )


class Images(Protocol):
    """The images that this engine built, where they are kept."""

    size_bytes_max: int

    async def collect(self, named: frozenset[Digest]) -> Freed | None:
        """Removes what no tag reaches and nothing in `named` is; more when the store is too large. None: a build runs.

        Raises:
            ContentError, OSError: the disk did not let it.
        """


class StoredImages:
    """`Images` in the content store of an engine."""

    def __init__(self, directory: Path, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
        self._directory = directory
        self.size_bytes_max = size_bytes_max

    async def collect(self, named: frozenset[Digest]) -> Freed | None:
        return await asyncio.to_thread(self._collect, named)

    def _collect(self, named: frozenset[Digest]) -> Freed | None:
        from trimtab.content import ContentStore

        store = ContentStore(self._directory)
        swept = store.gc(keep=named, builds_kept=BUILDS_KEPT)
        if swept is None:
            return None
        blobs, size_bytes, entries = swept.blobs, swept.bytes, swept.cache_entries
        if store.size_bytes() > self.size_bytes_max:
            more = store.gc(keep=named, builds_kept=0, cache_age_s=0.0)
            if more is not None:
                blobs, size_bytes, entries = blobs + more.blobs, size_bytes + more.bytes, entries + more.cache_entries
        return Freed(blobs, size_bytes, entries, store.size_bytes())


async def upkeep(process: Process) -> None:
    """Collects garbage now and then, until cancelled. Where images lie in a registry of others it does nothing."""
    try:
        images = process.adapter(Images)  # type: ignore[type-abstract]
    except LookupError:
        await asyncio.Event().wait()
        return
    wait_s = FIRST_AFTER_S
    while True:
        await asyncio.sleep(wait_s)
        wait_s = EVERY_S
        await once(process, images)


async def once(process: Process, images: Images) -> Freed | None:
    """One collection, journaled when it freed something or could not free enough. None: nothing was looked at, since a
    build runs, or the API or the disk did not answer."""
    try:
        named = await in_use(process.client.wire)
        freed = await images.collect(named)
    except (ApiError, ConnectionError, ContentError, OSError) as err:
        log.warning("the content store was not looked at: %s", err)
        return None
    if freed is None:
        return None
    text = str(freed)
    full = freed.kept_bytes > images.size_bytes_max
    if full:
        text += f": more than its limit of {images.size_bytes_max / (1 << 20):.0f} MiB, and all of it in use; delete apps or their old versions"
    if freed.freed_bytes or full:
        data = {"freedBytes": freed.freed_bytes, "keptBytes": freed.kept_bytes, "blobs": freed.blobs, "warning": full}
        process.journal.append(
            Entry(at=process.clock.now(), component="apps", actor=ACTOR, verb="collected", message=text, data=data)
        )
    return freed


async def in_use(client: WireClient) -> frozenset[Digest]:
    """The digest of every image that some object names.

    Raises:
        ApiError, ConnectionError: a kind could not be listed; then nobody knows.
    """
    found: set[Digest] = set()
    kind: type[Resource]
    for kind in NAMING:
        for item in (await client.list(kind.resource_type))["items"]:
            found.update(_images(item))
    return frozenset(found)


def _images(value: Any) -> Iterator[Digest]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _images(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _images(inner)
    elif isinstance(value, str) and (match := _DIGEST.search(value)):
        yield Digest(match[1])
