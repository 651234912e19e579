"""Deeds of a component as processes, from the side that starts them; the other side is `trimtab.engine.deeds`.

door(settings, NAME): a socket where callers wait --> begin(NAME, ...): the process, with the socket --> end(process)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence

from trimtab.runtime.settings import Settings

LINE_BYTES_MAX = 8 << 20
END_S = 10.0


async def begin(
    name: str,
    settings: Settings,
    *arguments: str,
    fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Starts a deed of `trimtab.engine.NAME`; its standard error is ours. `environment`: what it gets beside ours."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", f"trimtab.engine.{name}", settings.data, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=fds, limit=LINE_BYTES_MAX,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


async def end(process: asyncio.subprocess.Process) -> None:
    """Closes its input, upon which it ends; returns when it has, made to if it takes too long."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        await terminate(process)


async def terminate(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then SIGKILL; returns when it has ended."""
    for stop in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)
            return
    await process.wait()


def door(settings: Settings, name: str) -> socket.socket:
    """A listening socket in the run directory, for the API server to knock at."""
    path = settings.run_path(name)
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
