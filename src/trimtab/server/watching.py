"""Watch: the changes of a collection as a stream of events, from a revision on, each once and in order.

A change becomes ADDED, MODIFIED or DELETED by what the selector says of it before and after: an object that begins to match
is added, one that stops matching is deleted. An event is encoded once for all watchers that see it in the same form. Between
changes, bookmarks tell the client how far it has seen, so that it can resume there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.errors import StatusError
from trimtab.server.http import Request, Stream
from trimtab.server.kinds import Kind
from trimtab.server.list_options import check_watch_options
from trimtab.server.metrics import Metrics
from trimtab.server.render import WHOLE, Rendering
from trimtab.server.selectors import Selector, parse_selector
from trimtab.server.views import viewed
from trimtab.store import Change, Compacted, Record, Store, StoreClosed, Watch

BOOKMARK_S = 60.0
TIMEOUT_S = 3600.0
"""A watch without a timeout of its own ends after this; clients resume."""
WATCHES_MAX = 10_000
"""More are told to come back; each costs about 15 kB."""
CACHED_EVENTS = 256
CACHED_EVENT_MAX_BYTES = 32 * 1024
INITIAL_END = "k8s.io/initial-events-end"
CHUNK_BYTES = 64 * 1024

Write = Callable[[bytes], Awaitable[None]]


class WatchService:
    """Serves watches; knows those that are open, so that a shutdown can end them cleanly."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self.events = metrics.events
        self._open: dict[Watch, None] = {}
        self._encoded: OrderedDict[tuple[int, str, str, str], bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Ends all watches; their responses end as if their time was over."""
        for watch in list(self._open):
            watch.close()

    def stream(self, kind: Kind, namespace: str, name: str, request: Request, rendering: Rendering) -> Stream:
        """The response to a watch request.

        Raises:
            StatusError: 400 for a bad selector, 410 when its revision is gone.
        """
        if len(self._open) >= WATCHES_MAX:
            raise errors.too_many_requests(f"{WATCHES_MAX} watches are open, that is the limit: close some and retry")
        check_watch_options(request)
        query = request.query
        fields = query.get("fieldSelector", "")
        if name:
            fields = f"{fields},metadata.name={name}" if fields else f"metadata.name={name}"
        selector = parse_selector(kind, query.get("labelSelector", ""), fields)
        asked = request.integer("resourceVersion")
        initial = request.flag("sendInitialEvents") if "sendInitialEvents" in query else None
        bookmarks = request.flag("allowWatchBookmarks")
        timeout_s = float(request.integer("timeoutSeconds") or TIMEOUT_S)
        prefix = kind.prefix(namespace)
        whole = initial if initial is not None else not asked
        records = self._initial(kind, namespace, selector) if whole else []
        after = self._store.revision if whole or not asked else asked
        if after > self._store.revision:
            raise errors.gone(f"too large resource version: {after}, current: {self._store.revision}")
        try:
            watch = self._store.watch(prefix, after)
        except Compacted:
            raise _too_old(after, self._store.compacted) from None
        self._open[watch] = None
        session = _Session(self, kind, selector, rendering, watch, bookmarks)
        opened = _Opened(request, watch, timeout_s, lambda: self._open.pop(watch, None))

        async def begin(write: Write) -> None:
            opened.start()
            await session.begin(write, records, mark_end=bool(initial) and bookmarks)

        return Stream(session.follow, begin=begin, close=opened.end)

    def _initial(self, kind: Kind, namespace: str, selector: Selector) -> list[Record]:
        """What is there now; of what is asked for by its name only that."""
        name = selector.exact("metadata.name")
        if name is not None and (namespace or not kind.namespaced):
            found = self._store.get(kind.key(namespace, name))
            return [] if found is None else [found]
        return self._store.list(kind.prefix(namespace))

    def encoded(self, kind: Kind, rendering: Rendering, verb: str, record: Record, revision: int, first: bool) -> bytes:
        """One line of the stream; kept for the other watchers of the same change."""
        line_key = (revision, verb, kind.api_version, rendering.key)
        cacheable = rendering is WHOLE or not first
        if cacheable and (line := self._encoded.get(line_key)) is not None:
            return line
        line = b'{"type":"%b","object":%b}\n' % (verb.encode(), rendering.event(kind, record, revision, first))
        if cacheable and len(line) <= CACHED_EVENT_MAX_BYTES:
            self._encoded[line_key] = line
            if len(self._encoded) > CACHED_EVENTS:
                self._encoded.popitem(last=False)
        return line


class _Opened:
    """A watch that is open: ended by its client, by its time, or by the server."""

    def __init__(self, request: Request, watch: Watch, timeout_s: float, forget: Callable[[], object]) -> None:
        self._request = request
        self._watch = watch
        self._timeout_s = timeout_s
        self._forget = forget
        self._gone: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._gone = asyncio.ensure_future(self._request.disconnected())
        self._gone.add_done_callback(lambda _: self._watch.close())
        self._alarm = asyncio.get_running_loop().call_later(self._timeout_s, self._watch.close)

    def end(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._gone is not None:
            self._gone.cancel()
        self._watch.close()
        self._forget()


class _Session:
    """One watch of one client."""

    def __init__(
        self,
        service: WatchService,
        kind: Kind,
        selector: Selector,
        rendering: Rendering,
        watch: Watch,
        bookmarks: bool,
    ) -> None:
        self._service = service
        self._kind = kind
        self._sort = (kind.group, kind.version, kind.plural)
        self._selector = selector
        self._rendering = rendering
        self._watch = watch
        self._bookmarks = bookmarks
        self._first = True
        self._told = 0

    async def begin(self, write: Write, records: list[Record], *, mark_end: bool) -> None:
        """Writes what was there when the watch began."""
        step = self._rendering.step
        await write(b"")
        for start in range(0, len(records), step):
            some = (r for r in records[start : start + step] if self._matches(r))
            await self._write_all(write, (self._line("ADDED", r, r.revision) for r in some))
        self._told = self._watch.delivered
        if mark_end:
            await write(self._bookmark({INITIAL_END: "true"}))

    async def follow(self, write: Write) -> None:
        """Writes events until the watch is closed or its history is gone."""
        while True:
            try:
                changes = await self._watch.batch(BOOKMARK_S)
            except StoreClosed:
                break
            except Compacted as err:
                await write(_error_line(_too_old(err.requested, err.compacted)))
                return
            lines = (line for change in changes if (line := self._event(change)) is not None)
            if await self._write_all(write, lines):
                self._told = changes[-1].record.revision
            elif self._bookmarks and not changes and self._watch.delivered > self._told:
                await write(self._bookmark({}))
        if self._bookmarks:
            # Also when nothing is new: a client takes a watch that said nothing at all for a broken one.
            await write(self._bookmark({}))

    async def _write_all(self, write: Write, lines: Iterable[bytes]) -> int:
        """Writes lines in pieces of a bounded size: one send for many small events, and no more of them made than is written. How
        many they were."""
        pending: list[bytes] = []
        size = count = 0
        for line in lines:
            pending.append(line)
            count += 1
            size += len(line)
            if size >= CHUNK_BYTES:
                await write(b"".join(pending))
                pending, size = [], 0
        if pending:
            await write(b"".join(pending))
        self._service.events[self._sort] += count
        return count

    def _matches(self, record: Record) -> bool:
        return not self._selector or self._selector.matches(viewed(self._kind, record))

    def _event(self, change: Change) -> bytes | None:
        """The event of a change as this watch sees it, or None."""
        record, previous = change
        before = previous is not None and self._matches(previous)
        if not record.deleted and self._matches(record):
            return self._line("MODIFIED" if before else "ADDED", record, record.revision)
        if previous is None or not before:
            return None
        return self._line("DELETED", previous, record.revision)  # as it was last seen here, also where it lives on

    def _line(self, verb: str, record: Record, revision: int) -> bytes:
        line = self._service.encoded(self._kind, self._rendering, verb, record, revision, self._first)
        self._first = False
        return line

    def _bookmark(self, annotations: JSON) -> bytes:
        self._told = self._watch.delivered
        meta: JSON = {"resourceVersion": str(self._told), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        return b'{"type":"BOOKMARK","object":%b}\n' % self._rendering.bookmark(self._kind, meta)


def _too_old(requested: int, compacted: int) -> StatusError:
    return errors.gone(f"too old resource version: {requested} ({compacted})")


def _error_line(err: StatusError) -> bytes:
    return msgspec.json.encode({"type": "ERROR", "object": err.body()}) + b"\n"
