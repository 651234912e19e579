"""Looking for better names in the background, so that no question waits for a server.

    names wanted --> what is on the shelf is answered with; what may be had better is looked for --> the next question has it

A build is looked for again when its sources are due (`sources.Patience`), unless it already has the best there is. What came of each
search is kept with the names, so it outlives the process, and why a place has no name follows from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import NamedTuple

from trimtab.components.profiling.symbols.sandbox import Sandbox, one_line
from trimtab.components.profiling.symbols.shelf import Asked, Shelf, Trail
from trimtab.components.profiling.symbols.sources import Patience, Source

WORKERS = 2
BEST = "dwarf"


class Running(NamedTuple):
    future: Future[None]
    first: bool


class Search:
    """Blocks nobody but in `wait`."""

    def __init__(self, shelf: Shelf, sources: Sequence[Source], patience: Patience) -> None:
        self._shelf = shelf
        self._sources = sources
        self._patience = patience
        self._running: dict[str, Running] = {}
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="symbols")
        self._sandboxes: SimpleQueue[Sandbox] = SimpleQueue()
        self._all = [Sandbox() for _ in range(WORKERS)]
        for sandbox in self._all:
            self._sandboxes.put(sandbox)

    def begin(self, build_id: str, path: str) -> Running | None:
        """Starts to look for something better, if there may be; None when there is nothing to do."""
        with self._lock:
            if (running := self._running.get(build_id)) is not None:
                return running
            best = self._shelf.best(build_id)
            if best is not None and best[0] == BEST:
                return None
            trail, now = self._shelf.trail(build_id), time.time()
            due = [s for s in self._sources if self._patience.due(trail.asked.get(s.key), s.local, now)]
            if not due:
                return None
            first = any(s.key not in trail.asked for s in due)
            running = self._running[build_id] = Running(self._pool.submit(self._look, build_id, path), first)
            return running

    def failure(self, build_id: str) -> str:
        """Why the last search could not be done here (a full disk); empty when it could."""
        return self._failed.get(build_id, "")

    def is_first(self, build_id: str) -> bool:
        """Whether a source is being asked for it that never was."""
        running = self._running.get(build_id)
        return running is not None and running.first

    @property
    def left(self) -> int:
        """How many programs something is being looked for of."""
        return len(self._running)

    def wait(self, searches: Sequence[Running], seconds: float | None) -> None:
        """Until all are done, or the time is over: `seconds`, or what patience says."""
        first_s, again_s = (
            (self._patience.first_wait_s, self._patience.again_wait_s) if seconds is None else (seconds, seconds)
        )
        wait([s.future for s in searches if s.first], first_s)
        wait([s.future for s in searches if not s.first], again_s)

    def close(self) -> None:
        """Ends what is under way: no earlier than a server lets go."""
        self._pool.shutdown(cancel_futures=True)
        for sandbox in self._all:
            sandbox.close()

    def _look(self, build_id: str, path: str) -> None:
        sandbox = self._sandboxes.get()
        self._failed.pop(build_id, None)
        try:
            trail = self._shelf.trail(build_id)
            for source in self._sources:
                best = self._shelf.best(build_id)
                if best is not None and best[0] == BEST:
                    break
                if self._patience.due(trail.asked.get(source.key), source.local, time.time()):
                    self._ask(source, build_id, path, trail, sandbox)
            here = {s.key for s in self._sources}
            trail.asked = {key: asked for key, asked in trail.asked.items() if key in here}
            self._shelf.note(build_id, trail)
        finally:
            self._sandboxes.put(sandbox)
            with self._lock:
                del self._running[build_id]

    def _ask(self, source: Source, build_id: str, path: str, trail: Trail, sandbox: Sandbox) -> None:
        best = self._shelf.best(build_id)
        try:
            outcome = source.look(build_id, path, best[0] if best else None, trail, sandbox)
        except (OSError, TimeoutError) as err:  # the disk, the sandbox: not the source's fault, so it is asked again
            self._failed[build_id] = one_line(str(err))
            return
        trail.asked[source.key] = Asked(time.time(), outcome)
