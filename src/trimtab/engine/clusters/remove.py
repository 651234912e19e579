"""Removing throw-away clusters: those that are named, or all that nobody wants any more (`reap`).

    record says "deleting" --> a start that is under way ends --> `trimtab uninstall --yes` --> the directory

A removal that was killed is finished by the next `reap`: the record goes last. Two removals of one cluster wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from trimtab.engine import lifecycle, procfs, programs
from trimtab.engine.clusters import places
from trimtab.engine.clusters.places import Cluster
from trimtab.engine.errors import EngineError

Say = Callable[[str], None]

JOBS = max(2, 2 * (os.cpu_count() or 1))
"""How many clusters are started or removed at once: each waits about half of the time."""


def reap(home: Path, say: Say) -> list[str]:
    """Removes every cluster whose lease is over; returns their names.

    Raises:
        EngineError: one could not be removed; the others are.
    """
    over = [one for one in places.all_of(home) if one.is_over()]
    for one in over:
        say(f"{one.name}: nobody wants it any more, so it goes")
    return remove(home, over, say)


def remove(home: Path, clusters: Iterable[Cluster], say: Say, jobs: int = JOBS) -> list[str]:
    """Removes these clusters with all that they made on this machine; returns their names.

    Raises:
        EngineError: one could not be removed; the others are.
    """
    doomed = list(clusters)
    if doomed:
        lifecycle.require_root("trimtab cluster delete")
        asyncio.run(_remove_all(home, doomed, say, jobs))
    return [one.name for one in doomed]


async def _remove_all(home: Path, doomed: list[Cluster], say: Say, jobs: int) -> None:
    turn = asyncio.Semaphore(jobs)

    async def one(cluster: Cluster) -> None:
        async with turn:
            await _remove(cluster, say)

    results = await asyncio.gather(*map(one, doomed), return_exceptions=True)
    dismiss_wardens(home, doomed)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _remove(cluster: Cluster, say: Say) -> None:
    async with _alone(cluster.directory), _alone(cluster.data):
        if not (cluster.directory / places.RECORD).exists():
            return  # somebody else was faster
        cluster.state = "deleting"
        cluster.save()
        argv = programs.itself().command(cluster.data, "uninstall", "--yes", "--timeout", "0")
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {programs.ITSELF: "1"},
        )
        _, errors = await process.communicate()
        if process.returncode != 0:
            said = (errors.decode(errors="replace").strip().splitlines() or ["?"])[-1].removeprefix("trimtab: ")
            raise EngineError(
                f"cluster {cluster.name} could not be removed: {said}; `trimtab cluster reap` tries again"
            )
        _forget(cluster)
    say(f"{cluster.name}: deleted")


def _forget(cluster: Cluster) -> None:
    """The record goes last, the directory with it."""
    for entry in cluster.directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != places.RECORD:
            entry.unlink()
    (cluster.directory / places.RECORD).unlink()
    cluster.directory.rmdir()


@contextlib.asynccontextmanager
async def _alone(directory: Path) -> AsyncIterator[None]:
    """Holds a directory's lock: `trimtab start` has that of its data directory while it works."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        await asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def dismiss_wardens(home: Path, gone: Iterable[Cluster]) -> None:
    """Ends the wardens that have nothing left to watch over."""
    needed = {tuple(one.warden) for one in places.all_of(home) if one.warden}
    for pid, start in {tuple(one.warden) for one in gone if one.warden} - needed:
        handle = procfs.pidfd(procfs.Identity(pid, start))
        if handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
            os.close(handle)
