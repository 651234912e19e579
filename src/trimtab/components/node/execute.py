"""A command in a running container, with pipes of ours: containerd's task service and named pipes.

containerd's shim opens the pipes that we made and copies between them and the process; closing its stdin is a call of
its own, so that a client can end its input and still read the output, which CRI's streaming protocol cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from trimtab.components.node.cri import PROCESS_TYPE, Cri
from trimtab.components.node.sandboxes import RuntimeFailure

READ_BYTES_MAX = 64 * 1024
RUNC_BEGINS = "OCI runtime exec failed: exec failed: unable to start container process: "


def why_not_started(said: str, container: str, pod: str) -> str:
    """In one line what is missing, and where, from what runc `said` when a command could not be started."""
    said = said.removeprefix(RUNC_BEGINS).removesuffix(": unknown")
    where = f'container "{container}" of pod "{pod}"'
    if found := re.search(r'exec: "(.+?)": executable file not found in \$PATH', said):
        return f'{where} has no "{found[1]}" in its $PATH; `trimtab debug {pod}` opens a shell with tools beside it'
    if found := re.search(r"stat (.+?): no such file or directory", said):
        return f"{where} has no {found[1]}; `trimtab debug {pod}` opens a shell with tools beside it"
    if found := re.search(r'exec: "(.+?)": (?:permission denied|is a directory)', said):
        return f"{where}: {found[1]} is no file that its user may execute"
    if found := re.search(r'exec(?: |: ")([^\s"]+)"?: exec format error', said):
        return (
            f"{where}: {found[1]} is no program for this machine's processor, or a script that does not begin with #!"
        )
    if found := re.search(r"exec ([^\s:]+): no such file or directory", said):
        return f"{where}: {found[1]} is there, but the interpreter or loader that it asks for is not"
    return f"{where}: the command could not be started: {said}"


class Execution:
    """One running command. `stdout` and `stderr` (None with a terminal) end when the process closed them."""

    def __init__(self, cri: Cri, container_id: str, ident: str, directory: Path) -> None:
        self._cri = cri
        self._key = {"container_id": container_id, "exec_id": ident}
        self._directory = directory
        self._stdin: asyncio.WriteTransport | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.stdout: asyncio.StreamReader
        self.stderr: asyncio.StreamReader | None = None

    async def write(self, data: bytes) -> None:
        """Input for the process; waits while it does not read."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)
            await self._drained.wait()

    async def close_stdin(self) -> None:
        """The process reads the end of its input."""
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
            await self._cri.task("CloseIO", {**self._key, "stdin": True}, "CloseIORequest")

    async def resize(self, width: int, height: int) -> None:
        await self._cri.task("ResizePty", {**self._key, "width": width, "height": height}, "ResizePtyRequest")

    async def wait(self) -> int:
        """The exit code, once the process has ended."""
        answer = await self._cri.task("Wait", self._key, "WaitRequest", "WaitResponse", timeout_s=None)
        return int(answer.get("exit_status", 0))

    async def kill(self) -> None:
        request = {**self._key, "signal": int(signal.SIGKILL)}
        with contextlib.suppress(RuntimeFailure):
            await self._cri.task("Kill", request, "KillRequest")

    async def release(self) -> None:
        """After `wait`: containerd copies what is left of the output, closes the pipes and forgets the process."""
        with contextlib.suppress(RuntimeFailure):
            await self._cri.task("DeleteProcess", self._key, "DeleteProcessRequest")


class _Input(asyncio.Protocol):
    def __init__(self, drained: asyncio.Event) -> None:
        self._drained = drained

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()


@asynccontextmanager
async def execute(
    cri: Cri, container_id: str, command: Sequence[str], run: Path, *, tty: bool, stdin: bool
) -> AsyncIterator[Execution]:
    """Starts a command in a container; ends it, if need be, when the block is left. run: a directory for the pipes.

    Raises:
        RuntimeFailure: the command could not be started.
    """
    ident = secrets.token_hex(16)
    directory = run / ident
    directory.mkdir(parents=True, mode=0o700)
    execution = Execution(cri, container_id, ident, directory)
    handles: list[int] = []
    transports: list[asyncio.ReadTransport] = []
    created = started = False
    kept = -1
    try:
        paths = {"stdout": directory / "stdout"} | ({} if tty else {"stderr": directory / "stderr"})
        if stdin:
            os.mkfifo(directory / "stdin", 0o600)
            # A pipe that nobody reads cannot be opened for writing: the shim does not read it yet, or the command has ended already.
            kept = os.open(directory / "stdin", os.O_RDONLY | os.O_NONBLOCK)
        for name, path in paths.items():
            os.mkfifo(path, 0o600)
            reader, transport = await _reader(path)
            transports.append(transport)
            setattr(execution, name, reader)
            # Held until the shim has opened its end, or the reader would see an end before the beginning.
            handles.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        process = await cri.process_spec(container_id)
        process |= {"args": list(command), "terminal": tty}
        if tty:
            process["env"] = [*process.get("env", []), "TERM=xterm"]
        request = {
            "container_id": container_id,
            "exec_id": ident,
            "terminal": tty,
            "stdin": str(directory / "stdin") if stdin else "",
            "spec": {"type_url": PROCESS_TYPE, "value": json.dumps(process).encode()},
            **{name: str(path) for name, path in paths.items()},
        }
        await cri.task("Exec", request, "ExecProcessRequest")
        created = True
        await cri.task("Start", {"container_id": container_id, "exec_id": ident}, "StartRequest", "StartResponse")
        started = True
        if stdin:
            execution._stdin = await _writer(directory / "stdin", execution._drained)
        while handles:
            os.close(handles.pop())
        yield execution
    finally:
        for handle in handles:
            os.close(handle)
        if execution._stdin is not None:
            execution._stdin.close()
        if kept >= 0:
            os.close(kept)
        if started:
            await execution.kill()
        if created:
            await execution.release()
        for transport in transports:
            transport.close()
        shutil.rmtree(directory, ignore_errors=True)


async def _reader(path: Path) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_BYTES_MAX)
    pipe = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def _writer(path: Path, drained: asyncio.Event) -> asyncio.WriteTransport:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)
    transport, _ = await loop.connect_write_pipe(lambda: _Input(drained), pipe)
    return transport
