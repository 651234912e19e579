"""A provider as a process: started, its one line of greeting read, stopped.

    program --stdout--> 1|5|unix|/path|grpc|CERTIFICATE        stderr --> its last lines, for when it ends

It speaks plaintext on a unix socket in a directory that only its user enters, or TLS with the certificate that it greets with; of
mutual TLS it is never asked (PLUGIN_CLIENT_CERT), for then Go's plugins make a certificate that gRPC for Python refuses.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import signal
import subprocess
import textwrap
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from trimtab.components.infrastructure.protocol.messages import Version

COOKIE = ("TF_PLUGIN_MAGIC_COOKIE", "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2")
CORE_PROTOCOL = "1"
START_S = 60.0
STOP_S = 10.0
GREETING_BYTES_MAX = 64 << 10
LAST_LINES = 20
SIGNALLED = 128


class LaunchError(Exception):
    """A program that did not become a provider: one line that names it and says what it did instead."""


@dataclass(frozen=True)
class Greeting:
    """What a provider says of itself when it starts. certificate: PEM of its TLS; empty for plaintext."""

    version: Version
    address: str
    certificate: bytes


def read_greeting(line: str, sockets: Path) -> Greeting:
    """sockets: the directory in which it may listen: what is elsewhere is somebody else's. Raises `ValueError`: one line."""
    fields = line.strip().split("|")
    if len(fields) < 5 or fields[0] != CORE_PROTOCOL:
        raise ValueError(f"it greets with {line.strip()!r:.100}, which is no greeting of a Terraform provider")
    _, version, network, address, transport = fields[:5]
    if transport != "grpc" or version not in ("5", "6"):
        raise ValueError(f"it speaks protocol {version} over {transport}; 5 and 6 over grpc are known")
    certificate = _certificate(fields[5] if len(fields) > 5 else "")
    if network == "unix":
        if not Path(address).resolve().is_relative_to(sockets.resolve()):
            raise ValueError(f"it listens at {address!r:.100}, which is not in the directory that it was given")
        target = f"unix:{address}"
    elif network == "tcp" and address.startswith(("127.0.0.1:", "[::1]:")):
        target = address
    else:
        raise ValueError(f"it listens on {network} {address!r:.100}, neither a unix socket nor loopback")
    return Greeting(cast(Version, int(version)), target, certificate)


def _certificate(text: str) -> bytes:
    """PEM of base64 DER without padding."""
    if not text:
        return b""
    try:
        der = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as err:
        raise ValueError(f"the certificate in its greeting is not base64 ({err})") from None
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n".encode()


class Plugin:
    """A running provider process."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, sockets: Path) -> None:
        """process: the leader of a session, which nobody else waits for."""
        self._process = process
        self._sockets = sockets
        self.name = name
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._panic = ""
        self._ended = asyncio.Event()
        self._streams: list[asyncio.StreamReader] = []
        self._pipes: list[asyncio.ReadTransport] = []
        self._reading: list[asyncio.Task[None]] = []
        self._handle = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._handle, self._bury)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def _bury(self) -> None:
        """It has ended. What it started ends before its number is given back: whoever has that next may lead a group, too."""
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        self._signal_all(signal.SIGKILL)
        self._process.wait()
        self._ended.set()

    def _signal_all(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _hear(self) -> None:
        """Opens what it says, and reads its complaints from now on."""
        for pipe in (self._process.stdout, self._process.stderr):
            stream = asyncio.StreamReader(limit=GREETING_BYTES_MAX)
            opened, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda stream=stream: asyncio.StreamReaderProtocol(stream),  # type: ignore[misc]
                pipe,
            )
            self._streams.append(stream)
            self._pipes.append(opened)
        self._reading.append(asyncio.create_task(self._read(self._streams[1])))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the buffer
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last.append(text)
            if not self._panic and text.startswith(("panic:", "fatal error:")):
                self._panic = text  # and then comes the stack of everything

    def epitaph(self) -> str:
        """How it ended, in a clause, with the last that it said."""
        code = self._process.returncode
        number = 0 if code is None else -code if code < 0 else code - SIGNALLED  # so bwrap says that a signal ended it
        how = (
            "is running"
            if code is None
            else f"was ended by {_signal(number)}"
            if number > 0
            else f"ended with status {code}"
        )
        said = self._panic or next((line for line in reversed(self._last) if line), "")
        return f"{how}, saying {said!r:.300}" if said else how

    async def greeting(self, timeout_s: float) -> Greeting:
        """Raises `LaunchError`."""
        await self._hear()
        try:
            line = await asyncio.wait_for(self._streams[0].readline(), timeout_s)
        except TimeoutError:
            raise LaunchError(f"{self.name}: said nothing for {timeout_s:.0f} s after its start") from None
        except ValueError:
            raise LaunchError(f"{self.name}: greets with a line of more than {GREETING_BYTES_MAX} bytes") from None
        if not line:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), STOP_S)
            await self._finished()
            raise LaunchError(f"{self.name}: {self.epitaph()}, before it greeted: is it a Terraform provider?")
        try:
            found = read_greeting(line.decode(errors="replace"), self._sockets)
        except ValueError as err:
            raise LaunchError(f"{self.name}: {err}") from None
        self._read_all()
        return found

    def _read_all(self) -> None:
        """What comes after the greeting is read like what it complains of."""
        if len(self._reading) == 1:
            self._reading.append(asyncio.create_task(self._read(self._streams[0])))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL, to it and to what it started. All that it said has been read when this returns."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal_all(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), STOP_S)
                break
        await self._finished()

    async def wait(self) -> None:
        """Until it has ended, and its last words are read."""
        await self._ended.wait()
        if self._reading:
            await asyncio.wait(self._reading)

    async def _finished(self) -> None:
        self._read_all()
        if self._reading:
            _, late = await asyncio.wait(self._reading, timeout=STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for opened in self._pipes:
            opened.close()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def launch(
    command: Sequence[str],
    sockets: Path,
    *,
    name: str = "",
    environment: Mapping[str, str] | None = None,
    timeout_s: float = START_S,
) -> tuple[Plugin, Greeting]:
    """Starts a provider.

    command: the program, with whatever shuts it in before it. sockets: a directory of mode 0700 of the user it runs as.
    environment: all that it gets beside what the protocol asks for.

    Raises:
        LaunchError: it did not start, or is no provider.
    """
    name = name or Path(command[-1]).name
    env = {
        **(environment or {}),
        COOKIE[0]: COOKIE[1],
        "PLUGIN_PROTOCOL_VERSIONS": "5,6",
        "PLUGIN_UNIX_SOCKET_DIR": str(sockets),
        "TMPDIR": str(sockets),
        # Otherwise Go's providers write what they do, call by call: 45 kB a call, at a third of the speed.
        "TF_LOG": "OFF",
    }
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 (as asyncio starts it; who waits for it is `Plugin` alone)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            start_new_session=True,
        )
    except OSError as err:
        raise LaunchError(f"{name}: cannot be started: {err.strerror or err}: {command[0]}") from None
    try:
        plugin = Plugin(process, name, sockets)
    except OSError as err:  # no file is to be had
        process.kill()
        process.communicate()
        raise LaunchError(f"{name}: cannot be followed: {err.strerror}") from None
    try:
        return plugin, await plugin.greeting(timeout_s)
    except BaseException:
        await plugin.stop()
        raise
