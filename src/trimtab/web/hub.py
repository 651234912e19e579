"""The live half of the dashboard: informers and the journal in, one stream of events to every open page out.

Nothing runs while no page is open: the first subscriber starts the informers, the last one stops them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.api.core import Pod
from trimtab.api.nodes import Node
from trimtab.client import ApiError, Client, Informer
from trimtab.components.apps.kinds import App
from trimtab.engine.room import shortage
from trimtab.runtime import Component
from trimtab.runtime.journal import Entry
from trimtab.runtime.journal_read import JournalReader
from trimtab.runtime.journal_text import Story, readiness, took
from trimtab.runtime.settings import Settings
from trimtab.web.overview import ProcessLine, overview

DEBOUNCE_S = 0.15
"""A rollout changes many objects at once; pages are told once for all of them."""
PROCESSES_EVERY_S = 2.0
"""How often the engine's processes are looked at while a page is open."""
VIEWS_EVERY_S = 5.0
"""How often views are asked whether something in them needs attention; such a question may list many objects."""
JOURNAL_EVERY_S = 0.25
ENTRIES_AT_START = 200
SUBSCRIBERS_MAX = 64
"""Open pages; each costs a connection and a queue."""
QUEUE_MAX = 256
"""Events that a slow page may lag behind before it is cut off; the browser then reconnects and gets everything anew."""

log = logging.getLogger(__name__)
Event = tuple[str, bytes]


class TooManyPages(Exception):
    """More pages are open than the server serves."""


class Hub:
    def __init__(
        self,
        client: Client,
        settings: Settings,
        components: Sequence[Component],
        processes: Callable[[], list[ProcessLine]],
    ) -> None:
        self._client = client
        self._settings = settings
        self._components = components
        self._processes = processes
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._overview = b""
        self._entries: list[bytes] = []
        self._troubled: dict[tuple[str, str], int] = {}
        self._changed = asyncio.Event()

    async def events(self) -> AsyncIterator[Event]:
        """`overview` and `timeline` events, beginning with the state as it is. Ends when the reader is too slow.

        Raises:
            TooManyPages
        """
        if len(self._subscribers) >= SUBSCRIBERS_MAX:
            raise TooManyPages(f"{SUBSCRIBERS_MAX} pages are open already; close one")
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_MAX)
        if self._overview:
            queue.put_nowait(("overview", self._overview))
        if self._entries:
            queue.put_nowait(("timeline", b"[" + b",".join(self._entries) + b"]"))
        self._subscribers.add(queue)
        if self._work is None:
            self._work = asyncio.create_task(self._run(), name="dashboard")
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._subscribers.discard(queue)
            if not self._subscribers:
                await self.close()

    async def close(self) -> None:
        """Stops the informers; pages that are still open are ended."""
        work, self._work = self._work, None
        self._overview, self._entries = b"", []
        if work is not None:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        for queue in self._subscribers:
            _offer(queue, None)

    def _publish(self, name: str, data: bytes) -> None:
        for queue in list(self._subscribers):
            if not _offer(queue, (name, data)):
                self._subscribers.discard(queue)
                _drain(queue)
                queue.put_nowait(None)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                informers: dict[type[Any], Informer[Any]] = {}
                for kind in (App, Pod, Node):
                    informer: Informer[Any] = Informer(self._client, kind)
                    informer.subscribe(lambda _: self._changed.set())
                    informers[kind] = informer
                    group.create_task(informer.run())
                group.create_task(self._follow_journal())
                group.create_task(self._follow_views())
                group.create_task(self._follow_state(informers))
        except* Exception as errors:
            log.error("the dashboard's live data stopped: %s", errors.exceptions[0])
            for queue in list(self._subscribers):
                _offer(queue, None)

    async def _follow_state(self, informers: dict[type[Any], Informer[Any]]) -> None:
        for informer in informers.values():
            await informer.wait_synced()
        while True:
            now = overview(
                self._settings.id,
                informers[App].list(),
                informers[Pod].list(),
                informers[Node].list(),
                self._processes(),
                self._components,
                self._troubled,
                list(filter(None, [shortage(self._settings.data)])),
            )
            data = msgspec.json.encode(now)
            if data != self._overview:
                self._overview = data
                self._publish("overview", data)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), PROCESSES_EVERY_S)
                await asyncio.sleep(DEBOUNCE_S)
            self._changed.clear()

    async def _follow_views(self) -> None:
        asked = [(c.name, view.name, view.troubled) for c in self._components for view in c.views if view.troubled]
        while asked:
            found = {}
            for component, name, troubled in asked:
                try:
                    found[component, name] = await troubled(self._client)
                except (ApiError, ConnectionError) as err:  # what was known of it is no longer said
                    log.warning("the view %s/%s could not be asked: %s", component, name, err)
            if found != self._troubled:
                self._troubled = found
                self._changed.set()
            await asyncio.sleep(VIEWS_EVERY_S)

    async def _follow_journal(self) -> None:
        path = self._settings.data_path("journal", "journal.sqlite")
        with contextlib.closing(await _opened(path)) as reader:
            fresh = reader.timeline(limit=ENTRIES_AT_START)
            story = Story()
            last = 0
            while True:
                if fresh:
                    encoded = [msgspec.json.encode(_entry(e, story.told(e))) for e in fresh]
                    self._entries = (self._entries + encoded)[-ENTRIES_AT_START:]
                    self._publish("timeline", b"[" + b",".join(encoded) + b"]")
                last = max((entry.id for entry in fresh), default=last)
                fresh = await reader.wait_newer(last, every_s=JOURNAL_EVERY_S)


async def _opened(path: Path) -> JournalReader:
    """The journal, as soon as there is one: the first process to say something makes it."""
    while True:
        try:
            return JournalReader(path)
        except (FileNotFoundError, PermissionError):  # not made yet, or no writer has it open yet
            await asyncio.sleep(PROCESSES_EVERY_S)


def _offer(queue: asyncio.Queue[Event | None], event: Event | None) -> bool:
    try:
        queue.put_nowait(event)
    except asyncio.QueueFull:
        return False
    return True


def _drain(queue: asyncio.Queue[Event | None]) -> None:
    while not queue.empty():
        queue.get_nowait()


def _entry(entry: Entry, told: Entry | None) -> dict[str, object]:
    """told: the entry as people are told it; None: it is a detail. What became ready has the verb `turned`."""
    turned = readiness(entry) if told is not None else None
    shown = told or entry
    return {
        "id": entry.id,
        "at": entry.at,
        "component": entry.component,
        "actor": entry.actor,
        "verb": "turned" if turned else entry.verb,
        "detail": told is None,
        "object": str(entry.object) if entry.object else "",
        "cause": str(entry.cause) if entry.cause else "",
        "message": turned or entry.message,
        "duration_ms": shown.duration_ms if took(shown) else None,
        "warning": entry.verb in ("failed", "warned") or bool(turned and turned != "ready"),
    }
