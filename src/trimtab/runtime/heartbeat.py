"""The health file: what the supervisor looks at to tell a process that works from one that hangs.

`RUN/health/<place>.json` is rewritten every few seconds by the event loop itself, so a loop that is stuck stops
touching it. Its age is the heartbeat; its content says whether the caches are filled and what failed last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from trimtab.runtime.component import Place
    from trimtab.runtime.process import Process
    from trimtab.runtime.settings import Settings

BEAT_S = 5.0
FAILING_MAX = 50
STALE_S = 30.0
"""A file older than this: the process hangs. Six beats, so that a busy machine does not get its processes killed."""


class Health(msgspec.Struct):
    pid: int
    synced: bool
    waiting: int
    """Keys ready to be reconciled."""
    watching: dict[str, str]
    """Kinds that cannot be watched now, and why."""
    failing: dict[str, str]
    """Subject -> what its last failure said."""


def health_path(settings: Settings, place: Place) -> Path:
    return settings.run_path("health", f"{place}.json")


async def beat(process: Process) -> None:
    """Writes the health file until cancelled, then removes it. A run directory that cannot be written is no reason to
    stop working."""
    path = health_path(process.settings, process.place)
    last = b""
    try:
        while True:
            failing = {str(ref): text for (_, ref), text in list(process.failing.items())[:FAILING_MAX]}
            watching = {kind.__name__: i.problem for kind, i in process.informers.items() if i.problem}
            waiting = sum(controller.waiting for controller in process.controllers)
            now = msgspec.json.encode(Health(os.getpid(), process.synced, waiting, watching, failing))
            with contextlib.suppress(OSError):
                if now == last:
                    os.utime(path)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(now)
                    last = now
            await asyncio.sleep(BEAT_S)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_health(settings: Settings, place: Place, now_s: float) -> tuple[Health, bool] | None:
    """The last health written and whether it is fresh (`now_s`: seconds since 1970); None when there is none."""
    path = health_path(settings, place)
    try:
        health = msgspec.json.decode(path.read_bytes(), type=Health)
        return health, now_s - path.stat().st_mtime < STALE_S
    except (OSError, msgspec.MsgspecError):
        return None
