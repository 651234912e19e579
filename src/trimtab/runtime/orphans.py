"""Objects whose subject is gone: made just after it went, or out of reach of an owner reference (another namespace).

Kubernetes' garbage collector takes those with owner references; this takes all, by label, so that nothing is left on either
engine. An orphan is only deleted after the API itself, not our cache, was asked whether its subject lives, and whether it is
still its subject's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trimtab.api import Resource
from trimtab.client.cache import Key
from trimtab.client.clock import jittered
from trimtab.client.errors import ApiError
from trimtab.runtime.apply import Applier, Run
from trimtab.runtime.convergence import Breaker
from trimtab.runtime.declared import Declared
from trimtab.runtime.ownership import OWNER_LABEL, Identity

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

LOOK_AFTER_S = 1.0
"""Time for the API's own garbage collector, and for the watch to tell us of a subject that we do not know yet."""
RETRY_S = 5.0

log = logging.getLogger(__name__)


class Orphans:
    """The orphans of one reconciler."""

    def __init__(self, process: Process, identity: Identity, declared: Declared, applier: Applier) -> None:
        self._process = process
        self._identity = identity
        self._declared = declared
        self._applier = applier
        self._suspects: dict[str, None] = {}
        self._woken = asyncio.Event()

    def suspect(self, uid: str) -> None:
        """The subject with `uid` seems gone."""
        if uid:
            self._suspects[uid] = None
            self._woken.set()

    async def run(self, known: Mapping[str, Key]) -> None:
        """Looks after suspects until cancelled. `known`: the uids of the subjects in the cache."""
        for kind, owned in self._declared.owned.items():
            if not owned.retain:
                for uid in self._process.informer(kind).cache.label_values(OWNER_LABEL):
                    if uid not in known and self._applier.owned_by(uid):
                        self.suspect(uid)
        while True:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(LOOK_AFTER_S)
            suspects, self._suspects = list(self._suspects), {}
            orphaned = [uid for uid in suspects if uid not in known and self._applier.owned_by(uid)]
            if not orphaned:
                continue
            try:
                await self._collect(orphaned)
            except (ApiError, ConnectionError) as err:
                log.debug("%s: orphans: %s", self._identity.label, err)
                for uid in orphaned:
                    self.suspect(uid)
                await asyncio.sleep(jittered(RETRY_S, self._process.clock))

    async def _collect(self, uids: list[str]) -> None:
        live = await self._process.client.list(self._declared.subject)
        living = {subject.metadata.uid for subject in live.items}
        for uid in uids:
            if uid in living:
                continue
            for obj in self._applier.owned_by(uid):
                if obj.metadata.deletion_timestamp is None and await self._still_owned(obj, uid):
                    run = Run(obj, "its subject is gone", {}, Breaker())
                    await self._applier.delete(run, obj)

    async def _still_owned(self, obj: Resource, uid: str) -> bool:
        """Asks the API: the subject may have been deleted so that this is set free (`--cascade=orphan`)."""
        live = await self._process.client.get(type(obj), obj.name, obj.namespace)
        return live is not None and live.metadata.uid == obj.metadata.uid and self._identity.owns(live, uid)
