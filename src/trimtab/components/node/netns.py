"""A TCP connection made from within a pod's network namespace, so that what listens on its loopback is reached."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading

CLONE_NEWNET = 0x40000000
CONNECT_TIMEOUT_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


async def connect(netns: str | None, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to localhost:port in the namespace at a path (None: the host's).

    Raises:
        OSError: nobody listens there.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[socket.socket] = loop.create_future()

    def settle(made: socket.socket | None, error: OSError | None) -> None:
        if done.cancelled():
            if made is not None:
                made.close()
        elif made is not None:
            done.set_result(made)
        else:
            done.set_exception(error or OSError("no connection"))

    def work() -> None:
        # The thread moves into the namespace for the rest of its short life; a socket stays where it was made.
        try:
            if netns is not None:
                _enter(netns)
            made = socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT_S)
            made.setblocking(False)
        except OSError as err:
            loop.call_soon_threadsafe(settle, None, err)
        else:
            loop.call_soon_threadsafe(settle, made, None)

    threading.Thread(target=work, name=f"connect to port {port}", daemon=True).start()
    return await asyncio.open_connection(sock=await done)


def _enter(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(handle, CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(handle)
