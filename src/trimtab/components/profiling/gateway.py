"""The way in: sockets that cost nothing until somebody comes, and a process that answers while somebody does.

    API --> profiling.sock ----------------.
                                            >--first caller--> `serve` (served.py), until nobody has come for a while
    debuggers --> spec.debuginfod.listen --'

The sockets are this process', so callers wait while the server starts, and none is lost when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
from typing import TYPE_CHECKING

from trimtab.components.profiling.measurer import Order
from trimtab.runtime.settings import Settings

if TYPE_CHECKING:
    from trimtab.components.profiling.process import ProcessMeasurer

SOCKET = "profiling.sock"

log = logging.getLogger(__name__)


async def gateway(measurer: ProcessMeasurer, settings: Settings) -> None:
    """Listens until cancelled."""
    listening = _listen(settings)
    try:
        with measurer.following() as news:
            while True:
                news.clear()
                order = measurer.order
                debuginfod = _debuginfod(order)
                try:
                    sockets = [listening, *([debuginfod] if debuginfod is not None else [])]
                    if await _somebody(sockets, news):
                        await _serve(settings, order, sockets, news)
                finally:
                    if debuginfod is not None:
                        debuginfod.close()
    finally:
        listening.close()
        settings.run_path(SOCKET).unlink(missing_ok=True)


def _listen(settings: Settings) -> socket.socket:
    path = settings.run_path(SOCKET)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.setblocking(False)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    shutil.chown(path, user=settings.user)
    listening.listen(128)
    return listening


def _debuginfod(order: Order | None) -> socket.socket | None:
    """The listener on loopback that the order asks for. One that cannot be had is told in the log; the rest goes on."""
    if order is None or not order.debuginfod_listen:
        return None
    host, _, port = order.debuginfod_listen.rpartition(":")
    host = host.strip("[]")
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(16)
    except OSError as err:
        listening.close()
        log.warning("spec.debuginfod.listen %s: %s", order.debuginfod_listen, err.strerror)
        return None
    listening.setblocking(False)
    return listening


async def _somebody(sockets: list[socket.socket], news: asyncio.Event) -> bool:
    """Returns when somebody waits to be let in; False: another order stands."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    for one in sockets:
        loop.add_reader(one, came.set)
    tasks = [asyncio.ensure_future(came.wait()), asyncio.ensure_future(news.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in sockets:
            loop.remove_reader(one)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return came.is_set()


async def _serve(settings: Settings, order: Order | None, sockets: list[socket.socket], news: asyncio.Event) -> None:
    """Runs the serving process until it ends, or until another order stands."""
    from trimtab.components.profiling.process import ended, helper

    handles = [one.fileno() for one in sockets]
    told = json.dumps({"urls": order.debuginfod_urls if order is not None else ()})
    server = await helper(settings, "serve", ",".join(map(str, handles)), told, fds=handles, environment={})
    assert server.stdout is not None
    hearing = asyncio.ensure_future(_hear(server))
    other = asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait((hearing, other), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await ended(server)
        for task in (hearing, other):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _hear(server: asyncio.subprocess.Process) -> None:
    assert server.stdout is not None
    while line := await server.stdout.readline():
        log.warning("the profiles' server: %s", json.loads(line).get("error", line))
