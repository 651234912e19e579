"""Running compositions, one process for each function: started when first asked, ended when nobody has asked for a while.

    Function (its source or package, limits) --Functions.describe, compose--> worker.py: user nobody, no network, no files but Python's
                                                                             and the package's, so much memory, so many seconds a call

A call that takes too long ends its process, and so does one that takes it down; the next call starts another. What comes back is as
hostile as what runs there: it is plain JSON of a bounded size, which `output.py` checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.components.infrastructure.composition.terms import Failed, Function

HEADER = struct.Struct("<I")
ANSWER_BYTES_MAX = 8 << 20
IDLE_S = 60.0
START_S = 60.0
"""Loading what a package imports, on a busy machine, is not what a call's limit is about."""
END_S = 5.0
RUNNING_MAX = 32
"""Functions that are kept running at once: of those that are not at work the one that was asked longest ago ends."""
NO_NAMESPACES = 77
WORKER = Path(__file__).with_name("worker.py")


class Functions:
    """Running functions. Implements `Compositions`. `close` ends all of them."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._workers: dict[Function, Worker] = {}

    async def describe(self, function: Function) -> JSON:
        described: JSON = await self._ask(function, {"do": "describe"})
        return described

    async def load(self, function: Function) -> None:
        worker = await self._worker(function)
        async with worker.lock:
            await worker.ready()

    async def compose(self, function: Function, xr: JSON, observed: Mapping[str, JSON]) -> Any:
        return await self._ask(function, {"do": "compose", "xr": xr, "observed": observed})

    async def _ask(self, function: Function, message: JSON) -> Any:
        worker = await self._worker(function)
        async with worker.lock:
            return await worker.ask(message)

    async def _worker(self, function: Function) -> Worker:
        worker = self._workers.pop(function, None) or Worker(function, self._idle_s)
        self._workers[function] = worker  # the last one, now
        while len(self._workers) > RUNNING_MAX:
            # One that is at work is not waited for: its call may take a minute.
            oldest = next((f for f, one in self._workers.items() if one is not worker and not one.lock.locked()), None)
            if oldest is None:
                break
            await self._workers.pop(oldest).close()
        return worker

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [worker.pid for worker in self._workers.values() if worker.pid is not None]

    async def close(self) -> None:
        while self._workers:
            await self._workers.popitem()[1].close()


class Worker:
    """One function's process, while there is one. Whoever calls holds `lock`."""

    def __init__(self, function: Function, idle_s: float) -> None:
        self.lock = asyncio.Lock()
        self._function = function
        self._idle_s = idle_s
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def ready(self) -> bool:
        """Whether a process had to be started. Raises `Failed`: the function cannot be loaded."""
        if self.pid is not None and self._reader is not None and not self._reader.at_eof():
            return False
        await self._end()
        await self._start()
        function = self._function
        message = {
            "do": "load",
            "source": function.source,
            "file": function.name,
            "function": function.entry,
            "fields": json.loads(function.fields) if function.fields else None,
        }
        try:
            await self._said(message, START_S)
        except BaseException:
            await self._end()
            raise
        return True

    async def ask(self, message: JSON) -> Any:
        """What it answers. Raises `Failed`."""
        fresh = await self.ready()
        try:
            return await self._said(message, self._function.timeout_s)
        except Gone as gone:
            if gone.how == 0 and not fresh:  # it went for want of work, just when there was some
                await self.ready()
                return await self._said(message, self._function.timeout_s)
            raise

    async def _said(self, message: JSON, within_s: float) -> Any:
        assert self._writer is not None
        assert self._reader is not None
        content = msgspec.json.encode(message)
        try:
            async with asyncio.timeout(within_s):
                self._writer.write(HEADER.pack(len(content)) + content)
                await self._writer.drain()
                (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                raw = await self._reader.readexactly(size) if size <= ANSWER_BYTES_MAX else b""
        except TimeoutError:
            await self._end(kill=True)
            doing = "loading the function" if message["do"] == "load" else "compose"
            raise Failed("TookTooLong", f"{doing} took longer than the {within_s:g} s that it may") from None
        except (asyncio.IncompleteReadError, ConnectionError, BrokenPipeError):
            raise Gone(self._what_ended_it(how := await self._end()), how) from None
        except BaseException:
            await self._end(kill=True)  # an answer that nobody took would be the next one's
            raise
        try:
            answer = msgspec.json.decode(raw)
            if "reason" in answer:
                raise Failed(str(answer["reason"]), one_line(answer["message"]), str(answer.get("said", "")))
            return answer["value"]
        except (msgspec.MsgspecError, TypeError, KeyError):
            await self._end(kill=True)
            raise Failed("BadOutput", "the function's process answered what is none") from None

    def _what_ended_it(self, status: int) -> str:
        if status == NO_NAMESPACES:
            return "the kernel gives this user no namespaces, without which no function is run: sysctl kernel.unprivileged_userns_clone"
        number = -status if status < 0 else status - 128
        if number in {one.value for one in signal.Signals}:
            return f"the function's process was killed ({signal.Signals(number).name})"
        return "the function ended its process"

    async def _start(self) -> None:
        function = self._function
        settings = {
            "package": function.package,
            "memory_bytes": function.memory_bytes,
            "limit_text": f"{function.memory_bytes >> 20} MiB",
            "idle_s": self._idle_s,
        }
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", str(WORKER), str(theirs.fileno()), json.dumps(settings),
                    pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL, cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        self._reader, self._writer = await asyncio.open_connection(sock=ours)

    async def _end(self, *, kill: bool = False) -> int:
        """Ends the process, if there is one; returns its status."""
        process, self._process = self._process, None
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                await writer.wait_closed()
        if process is None:
            return 0
        if kill:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        try:
            async with asyncio.timeout(END_S):
                return await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    async def close(self) -> None:
        async with self.lock:
            await self._end(kill=True)


class Gone(Failed):
    """The process ended while it was asked. how: its status."""

    def __init__(self, message: str, how: int) -> None:
        super().__init__("FunctionDied", message)
        self.how = how


def one_line(text: Any) -> str:
    """The text as a line that may be shown: printable, not long."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:500].strip() or "not readable"
