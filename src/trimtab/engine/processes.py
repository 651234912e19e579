"""What the supervisor starts: `python -m trimtab.engine.processes NAME`, with TRIMTAB_SETTINGS naming the engine.

    api              store + server + the components' admission; user trimtab
    controllers      every reconciler and service with place "controllers"; user trimtab
    node             those with place "node"; root
    stop-pods, clean-up            steps of a stop; root

Each imports only what it runs. It says `READY=1` to the supervisor once it does its work, and ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.engine import datadir, planning
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from trimtab.runtime.component import Place

JOURNAL = ("journal", "journal.sqlite")


def notify(text: str) -> None:
    """Tells the supervisor something (the sd_notify protocol); nobody there is no failure."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), address)


def start_logging() -> None:
    """Logs to stderr, which the supervisor has pointed to this process's file: one line each, in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=os.environ.get("TRIMTAB_LOG", "INFO").upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )


async def until_terminated(work: Callable[[], Awaitable[None]]) -> None:
    """Runs until the work ends by itself (an error) or SIGTERM comes."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def settle_memory() -> None:
    """What was imported stays for good: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


async def run_place(settings: Settings, place: Place) -> None:
    """Runs every reconciler and service of a place."""
    from trimtab.client import Client, SocketTransport
    from trimtab.engine.registry import COMPONENTS, adapters
    from trimtab.runtime.heartbeat import beat
    from trimtab.runtime.journal import Journal
    from trimtab.runtime.process import Process

    journal = Journal(settings.data_path(*JOURNAL))
    actor = f"system:node:{settings.node_name}" if place == "node" else None
    transport = SocketTransport(settings.api_socket, user=actor)
    process = Process(
        client=Client(transport),
        journal=journal,
        settings=settings,
        adapters=adapters(settings, place),
        place=place,
        components=COMPONENTS,
        observes=False,  # the API server tells who changes what (audit.py)
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(beat(process), name="heartbeat")
            group.create_task(_say_ready(process), name="ready")
            await process.run()
    finally:
        journal.close()
        await transport.close()


SYNC_CHECK_S = 0.02


async def _say_ready(process: Any) -> None:
    """Reports ready once every cache is filled."""
    while not process.synced:  # noqa: ASYNC110 (caches appear as reconcilers start: there is no one event)
        await asyncio.sleep(SYNC_CHECK_S)
    settle_memory()
    notify("READY=1")


def api(settings: Settings) -> None:
    """The API server: store, server, admission, listeners."""
    import uvloop

    from trimtab.engine.api_process import run_api

    uvloop.run(run_api(settings))


def controllers(settings: Settings) -> None:
    """All unprivileged reconcilers and services."""
    asyncio.run(until_terminated(lambda: run_place(settings, "controllers")))


def node(settings: Settings) -> None:
    """The node agent."""
    asyncio.run(until_terminated(lambda: run_place(settings, "node")))


def stop_pods(settings: Settings) -> None:
    """Ends every container in order, while containerd still runs, and writes down which pods it waits for."""
    from trimtab.components.node import Stopping
    from trimtab.components.node import stop_pods as stop
    from trimtab.engine.plan import STOP, STOPPING, read_json, write_json

    run = datadir.supervisor_run(settings)
    asked = read_json(str(run / STOP)) or {}

    def tell(left: Sequence[Stopping]) -> None:
        write_json(str(run / STOPPING), [[pod.name, pod.grace_s] for pod in left], 0o644)

    asyncio.run(stop(settings, float(asked.get("timeout_s", planning.STOP_PODS_S)), tell))


def clean_up(settings: Settings) -> None:
    """Removes networks, mounts, cgroups and whatever process of a pod is left, once containerd has ended."""
    from trimtab.components.node import cleanup

    cleanup(settings)


PROCESSES: dict[str, Callable[[Settings], None]] = {
    "api": api,
    "controllers": controllers,
    "node": node,
    "stop-pods": stop_pods,
    "clean-up": clean_up,
}


def main() -> None:
    name = sys.argv[1]
    start_logging()
    try:
        settings = datadir.load(Path(os.environ["TRIMTAB_SETTINGS"]).parent)
        if node_name := os.environ.get("TRIMTAB_NODE"):
            settings = settings.for_node(node_name)
        PROCESSES[name](settings)
    except EngineError as err:
        print(err, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
