"""A live copy of one kind: list, then watch from there, for ever.

The watch is resumed where it broke; a version too old to resume from (410) means listing again; a server that is away means
waiting, longer each time, with jitter from the process's clock. What changed is told to the subscribers, in order, as
`Change`s. Reading never waits: it reads the cache (see `cache.py` for read-your-writes).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from trimtab.api import InvalidObject, Resource
from trimtab.client.cache import Cache, Change, Entry, Key, read_marks
from trimtab.client.client import Client, decode
from trimtab.client.clock import Clock, SystemClock, jittered
from trimtab.client.errors import ApiError, Gone, NotFound, Unavailable

K = TypeVar("K", bound=Resource)

BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 15.0
"""The longest wait before the API is tried again: how late we may notice that it is back."""
WATCH_S = 300
"""A watch is renewed after 5 to 10 minutes, as client-go does, so that a dead connection cannot last."""
PENDING_S = 30.0
"""A write of ours that the watch has not brought after so long means the watch has a hole: list again."""
RELISTS_MAX = 5
"""Lists thrown away because we wrote meanwhile; the next one is taken as it is."""

log = logging.getLogger(__name__)


class _Version(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    name: str = ""
    namespace: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _Version


_bookmark = msgspec.json.Decoder(_Bookmark)


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request was sent: after so many lists."""

    lists: int


class Informer(Generic[K]):
    """A cache of `kind` (in `namespace`, matching `fields` and `labels`), kept current by `run`."""

    def __init__(
        self,
        client: Client,
        kind: type[K],
        *,
        clock: Clock | None = None,
        namespace: str | None = None,
        fields: str = "",
        labels: str = "",
        index_labels: Sequence[str] = (),
        otherwise: Callable[[K, str], str] | None = None,
    ) -> None:
        self.kind = kind
        self.cache: Cache[K] = Cache(kind, index_labels, otherwise)
        self.relists = 0
        self.problem = ""
        """Why the copy is not current now, in one line; empty while it is."""
        self._client = client
        self._clock = clock or SystemClock()
        self._namespace = namespace
        self._fields = fields
        self._labels = labels
        self._version: str | None = None
        self._synced = asyncio.Event()
        self._subscribers: list[Callable[[Change[K]], None]] = []
        self._oldest_pending_at: float | None = None
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._unsure: dict[Key, None] = {}

    # Reading

    @property
    def synced(self) -> bool:
        """Whether everything that existed at the start is in the cache."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def get(self, name: str, namespace: str | None = None) -> K | None:
        return self.cache.get(name, namespace)

    def list(self, namespace: str | None = None) -> Sequence[K]:
        """By namespace and name. Do not change the list."""
        return self.cache.list(namespace)

    def subscribe(self, callback: Callable[[Change[K]], None]) -> Callable[[], None]:
        """Calls `callback` for every change from now on; returns what ends that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    # Our own writes

    @asynccontextmanager
    async def writing(self, key: Key, by: str = "") -> AsyncIterator[Sent]:
        """Around a write of ours (as manager `by`) and the taking of its answer.

        One at a time for each object, so that answers come in the order of versions. When the answer is lost, what is
        cached of the object is *unsure*: `settle` asks.
        """
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock:
            self.cache.writing[key] = by
            try:
                yield Sent(self.cache.lists)
            except ConnectionError:
                self._unsure[key] = None
                raise
            except ApiError as err:
                if err.status >= 500:
                    self._unsure[key] = None
                raise
            finally:
                self.cache.writing.pop(key, None)

    def wrote(self, body: bytes, by: str = "", sent: Sent | None = None) -> Entry[K]:
        """Takes the answer to a write of ours (as manager `by`) into the cache; returns it decoded."""
        entry = Entry(decode(self.kind, body), read_marks(body))
        if sent is None or sent.lists == self.cache.lists:
            self._tell(self.cache.wrote(entry, by))
        else:
            self._unsure[entry.obj.metadata.namespace or "", entry.obj.metadata.name] = None
        return entry

    def deleted(self, obj: K, by: str = "") -> None:
        """Takes a deletion of ours (made as manager `by`), which took effect at once, into the cache."""
        self._tell(self.cache.deleted(obj, by))

    @property
    def sure(self) -> bool:
        """Whether the outcome of all our writes is known. While it is not, decisions on what is cached may contradict
        what was decided and done before: `settle` first."""
        return not self._unsure

    async def settle(self) -> None:
        """Asks the API for the objects whose last write by us had no clear answer.

        Raises:
            ApiError, ConnectionError: it cannot be asked now.
        """
        while self._unsure:
            key = next(iter(self._unsure))
            async with self.writing(key) as sent:
                try:
                    path = self.kind.resource_type.path(key[0] or None, key[1])
                    body = (await self._client.wire.send("GET", path)).body
                except NotFound:
                    cached = self.cache.entries.get(key)
                    if cached is not None and sent.lists == self.cache.lists:
                        self.deleted(cached.obj)
                    self._unsure.pop(key, None)
                    continue
                self._unsure.pop(key, None)
                self.wrote(body, sent=sent)

    # Keeping current

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        delay_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if self._version is None:
                    await self._list()
                self.problem = ""
                await self._watch()
            except Gone:
                self._version = None
            except NotFound:
                # The kind is not installed (yet), so there are no objects of it.
                self._version = None
                self._replace([], self.cache.writes)
                self._synced.set()
            except (ApiError, ConnectionError, msgspec.MsgspecError) as err:
                if isinstance(err, ApiError) and not isinstance(err, Unavailable) and not self.problem:
                    log.warning("%s cannot be watched: %s", self.kind.__name__, err)
                self.problem = str(err)
            if loop.time() - began > BACKOFF_LAST_S:
                delay_s = BACKOFF_FIRST_S
            await asyncio.sleep(jittered(delay_s, self._clock))
            delay_s = min(delay_s * 2, BACKOFF_LAST_S)

    async def _list(self) -> None:
        for attempt in range(RELISTS_MAX + 1):
            asked_at = self.cache.writes
            entries: list[Entry[K]] = []
            version = ""
            pages = self._client.pages(
                self.kind.resource_type, self._namespace, labels=self._labels, fields=self._fields
            )
            async with aclosing(pages):
                async for page, shown in pages:
                    entries += [entry for raw in page if (entry := self._entry(raw)) is not None]
                    version = shown
            self.relists += 1
            if attempt == RELISTS_MAX:
                asked_at = self.cache.writes
            if self._replace(entries, asked_at):
                break
        self._version = version
        self._synced.set()

    def _replace(self, entries: Sequence[Entry[K]], asked_at: int) -> bool:
        changes = self.cache.replace(entries, asked_at)
        for change in changes or ():
            self._tell(change)
        self._oldest_pending_at = None
        return changes is not None

    async def _watch(self) -> None:
        timeout_s = int(WATCH_S * (1 + self._clock.random.random()))
        stream = self._client.wire.watch(
            self.kind.resource_type,
            self._namespace,
            resource_version=self._version or "",
            labels=self._labels,
            fields=self._fields,
            timeout_s=timeout_s,
        )
        async with aclosing(stream) as events:
            async for event in events:
                if event.type == "BOOKMARK":
                    self._version = _bookmark.decode(event.object).metadata.resource_version
                else:
                    self._take(event.type, event.object)
                self._check_pending()

    def _take(self, type: str, body: bytes) -> None:
        self._version = _bookmark.decode(body).metadata.resource_version
        entry = self._entry(body)
        if entry is None:
            meta = _bookmark.decode(body).metadata
            self._tell(self.cache.leave_out((meta.namespace, meta.name)))
            return
        self._tell(self.cache.removed(entry.obj) if type == "DELETED" else self.cache.seen(entry))

    def _entry(self, body: bytes) -> Entry[K] | None:
        try:
            return Entry(decode(self.kind, body), read_marks(body))
        except InvalidObject as err:
            log.warning("%s; it is left out until it is corrected", err)
            return None

    def _check_pending(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self.cache.pending:
            self._oldest_pending_at = None
        elif self._oldest_pending_at is None:
            self._oldest_pending_at = now
        elif now - self._oldest_pending_at > PENDING_S:
            self._oldest_pending_at = None
            raise Gone(410, "Expired", f"the watch of {self.kind.__name__} lost an event")

    def _tell(self, change: Change[K] | None) -> None:
        if change is not None:
            for subscriber in list(self._subscribers):
                subscriber(change)
