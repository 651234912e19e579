"""What a component says aloud: to the journal at once, and to the API as a core/v1 Event, best effort.

A level-triggered reconciler says the same thing at every run; only the first counts, until something else is said or ten
minutes have passed. Events in the API go through a bounded queue and a rate limit, repeats raise the count of one object,
and whatever cannot be written is dropped: the journal has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimtab.api import JSON, Ref, Resource
from trimtab.client.errors import ApiError, NotFound
from trimtab.client.wire import encode
from trimtab.runtime.conditions import wire_time
from trimtab.runtime.journal import Entry
from trimtab.runtime.ownership import Identity

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

REPEAT_AFTER_S = 600.0
SAID_MAX = 32
"""Different things remembered as said per subject."""
WAITING_MAX = 256
RATE_PER_S = 5.0
BURST = 25
KNOWN_MAX = 1024
MESSAGE_LENGTH_MAX = 1024
"""The API refuses longer ones."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Said:
    """What was said about one subject, and when (loop time)."""

    at: OrderedDict[tuple[Ref, str, str], float] = field(default_factory=OrderedDict)

    def again(self, thing: tuple[Ref, str, str], now_s: float) -> bool:
        """Whether it was said before, within `REPEAT_AFTER_S`."""
        before = self.at.get(thing)
        if before is not None and now_s - before < REPEAT_AFTER_S:
            return True
        self.at[thing] = now_s
        self.at.move_to_end(thing)
        if len(self.at) > SAID_MAX:
            self.at.popitem(last=False)
        return False


@dataclass(frozen=True, slots=True)
class _Waiting:
    name: str
    namespace: str
    body: JSON


class Events:
    """The events of one process. `to_api` False: journal only."""

    def __init__(self, process: Process, *, to_api: bool = True) -> None:
        self._process = process
        self._to_api = to_api
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING_MAX)
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.dropped = 0

    def say(
        self,
        identity: Identity,
        subject: Resource,
        reason: str,
        message: str,
        *,
        warning: bool = False,
        regarding: Ref | None = None,
        duration_ms: float | None = None,
        cause: Ref | str | None = None,
        said: Said | None = None,
    ) -> None:
        about = regarding or subject.ref
        now_s = asyncio.get_running_loop().time()
        if said is not None and said.again((about, reason, message), now_s):
            return
        self._process.journal.append(
            Entry(
                at=self._process.clock.now(),
                component=identity.component,
                actor=identity.manager,
                verb="warned" if warning else "said",
                object=about,
                cause=cause,
                message=message,
                duration_ms=duration_ms,
                data={"reason": reason},
                subject=subject.ref,
            )
        )
        if self._to_api:
            uid = subject.metadata.uid if about == subject.ref else ""
            self._enqueue(identity, about, uid, reason, message, warning)

    def _enqueue(self, identity: Identity, about: Ref, uid: str, reason: str, message: str, warning: bool) -> None:
        text = f"{about}/{uid}/{reason}/{message}/{identity.label}"
        name = f"{about.name}.{hashlib.blake2s(text.encode(), digest_size=8).hexdigest()}"
        namespace = about.namespace or "default"
        at = wire_time(self._process.clock.now())
        body: JSON = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about.to_wire() | ({"uid": uid} if uid else {}),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:MESSAGE_LENGTH_MAX],
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": {"component": identity.manager},
            "reportingComponent": identity.manager,
            "reportingInstance": identity.manager,
        }
        try:
            self._queue.put_nowait(_Waiting(name, namespace, body))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Writes waiting events to the API until cancelled."""
        loop = asyncio.get_running_loop()
        tokens, refilled = float(BURST), loop.time()
        while True:
            waiting = await self._queue.get()
            now = loop.time()
            tokens, refilled = min(BURST, tokens + (now - refilled) * RATE_PER_S), now
            if tokens < 1:
                await asyncio.sleep((1 - tokens) / RATE_PER_S)
                tokens, refilled = 1.0, loop.time()
            tokens -= 1
            try:
                await self._write(waiting)
            except (ApiError, ConnectionError) as err:
                self.dropped += 1
                log.debug("event %s/%s: %s", waiting.namespace, waiting.name, err)

    async def _write(self, waiting: _Waiting) -> None:
        wire = self._process.client.wire
        key = (waiting.namespace, waiting.name)
        count = self._counts.get(key, 0) + 1
        path = f"/api/v1/namespaces/{waiting.namespace}/events"
        if count > 1:
            patch = {"count": count, "lastTimestamp": waiting.body["lastTimestamp"]}
            try:
                await wire.send("PATCH", f"{path}/{waiting.name}", {}, encode(patch), "application/merge-patch+json")
            except NotFound:
                count = 1
        if count == 1:
            await wire.send("POST", path, {}, encode(waiting.body))
        self._counts[key] = count
        self._counts.move_to_end(key)
        if len(self._counts) > KNOWN_MAX:
            self._counts.popitem(last=False)
