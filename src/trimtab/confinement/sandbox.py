"""Calling a function on what strangers wrote (bytes to parse, a function of theirs) in a process that can do nothing else.

    caller --function, arguments (msgpack), descriptors (SCM_RIGHTS)--> worker: user nobody, no network, an empty file system but for
      ^                                                                    |    Python and this package, limits on memory and CPU
      '---- answer: msgpack, in a memory file when it is big --------------'

The worker (`worker.py`, `confine.py`) starts with the first call, is started again when it has crashed, and ends when nobody has
asked for a while and with its caller. What comes back is as hostile as what went in: sizes are checked, and it is decoded as plain
values. Big results that are for a file are best written to a descriptor that the caller gives.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import msgspec

HEADER = struct.Struct("<QB")
"""Before each message: its length, and how it comes."""
INLINE, IN_MEMORY_FILE = 0, 1
INLINE_BYTES_MAX = 256 << 10
ANSWER_BYTES_MAX = 512 << 20
MESSAGE_BYTES_MAX = 64 << 20
FDS_MAX = 16
TEXT_MAX = 300

TIMEOUT_S = 120.0
MEMORY_BYTES = 2 << 30
"""Address space of the worker; a file that it maps counts. The symbols of a big program take a few hundred MB."""
IDLE_S = 10.0
END_S = 5.0
FAULTS = 2
"""A call whose worker dies is tried so often: once it may have been killed for what others did (memory, an operator)."""


class ParseError(ValueError):
    """What was to be parsed is not what it should be, in one line."""


class ParserDied(ParseError):
    """The worker died, twice: perhaps of what it parsed, perhaps of something else."""


class Gone(Exception):
    """The worker's end of the socket is closed."""


class Sandbox:
    """A worker, when there is something to do. Calls wait for each other; for more at once, use several. Any thread may call.

    Who uses it derives a class that says `package`, and in errors `who`.

    timeout_s: of a call, wall time. memory_bytes: address space of the worker. idle_s: after which it ends. paths: directories
    that the worker may read and import from besides Trimtab's own.
    """

    package: ClassVar[str]
    """Below which the functions are that may be called."""
    who: ClassVar[str] = "the parser"
    """What errors call the worker."""

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        idle_s: float = IDLE_S,
        paths: Sequence[str] = (),
    ) -> None:
        self._paths = tuple(paths)
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def run(self, function: str, *arguments: Any, fds: Sequence[int] = ()) -> Any:
        """What `function(*arguments, fds=fds)` returns there. function: `module:function` within `package`.

        arguments and the result are values that msgpack has. The descriptors stay the caller's; the function gets copies.

        Raises:
            ParseError: the function raised something, or the worker died twice; one line.
            TimeoutError: it took too long.
            OSError: no worker can be started.
        """
        message = msgspec.msgpack.encode([function, list(arguments)])
        if len(fds) > FDS_MAX:
            raise ValueError(f"{len(fds)} descriptors: at most {FDS_MAX} go into the sandbox in one call")
        with self._lock:
            if self._closed:
                raise OSError("the sandbox is closed")
            deadline = time.monotonic() + self._timeout_s
            for fault in range(FAULTS + 1):
                fresh = self._ready()
                try:
                    return self._call(function, message, fds, deadline)
                except Gone as gone:
                    died = self._end()
                    if died is None and not fresh:  # it went for want of work, just when there was some
                        continue
                    if fault >= FAULTS - 1:
                        raise ParserDied(f"{function}: {died or self.who + ' ended'} on this input") from gone
                except BaseException as err:
                    if not isinstance(err, ParseError):
                        self._end()
                    raise
            raise ParseError(f"{function}: {self.who} cannot be kept running")

    def close(self) -> None:
        """Ends the worker, if there is one, for good: who calls later, or waits for another's call, gets `OSError`."""
        self._closed = True
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process that watches the worker, while there is one."""
        return self._process.pid if self._process else None

    def _ready(self) -> bool:
        """Whether a worker had to be started."""
        if self._process is not None and self._process.poll() is None:
            return False
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "trimtab.confinement.worker", self.package, str(theirs.fileno()),
                     str(self._memory_bytes), str(self._idle_s), *self._paths],
                    pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, env=environment, cwd="/",
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        return True

    def _end(self) -> str | None:
        """Ends the worker and tells what it died of; None when it went by itself."""
        process, self._process = self._process, None
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        try:
            status = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status == 0:
            return None
        number = -status if status < 0 else status - 128
        name = signal.Signals(number).name if number in {s.value for s in signal.Signals} else f"status {status}"
        return f"{self.who} was killed ({name})"

    # One call

    def _call(self, function: str, message: bytes, fds: Sequence[int], deadline: float) -> Any:
        assert self._socket is not None
        try:
            _timeout(self._socket, deadline)
            header = HEADER.pack(len(message), INLINE)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
            sent = self._socket.sendmsg([header], rights)
            self._socket.sendall(header[sent:] + message)
            answer = self._answer(deadline)
        except TimeoutError:
            self._kill()
            raise TimeoutError(f"{function} took longer than {self._timeout_s:g} s") from None
        except (BrokenPipeError, ConnectionResetError) as err:
            raise Gone from err
        if not isinstance(answer, list) or len(answer) != 2:
            raise ParseError(f"{function}: {self.who}'s answer is none")
        ok, value = answer
        if ok is not True:
            raise ParseError(one_line(str(value)))
        return value

    def _answer(self, deadline: float) -> Any:
        assert self._socket is not None
        size, how, fds = receive_header(self._socket, lambda: self._left(deadline))
        try:
            if size > ANSWER_BYTES_MAX:
                raise ParseError(
                    f"{self.who}'s answer has {size} bytes, more than the {ANSWER_BYTES_MAX} that are taken"
                )
            if how == IN_MEMORY_FILE:
                if len(fds) != 1 or os.fstat(fds[0]).st_size < size:
                    raise ParseError(f"{self.who}'s answer is not whole")
                with open(fds[0], "rb", closefd=False) as file:
                    file.seek(0)
                    content = file.read(size)
            else:
                if size > INLINE_BYTES_MAX:
                    raise ParseError(f"{self.who}'s answer is too long")
                content = receive(self._socket, size, lambda: self._left(deadline))
        finally:
            for fd in fds:
                os.close(fd)
        try:
            return msgspec.msgpack.decode(content)
        except msgspec.MsgspecError as err:
            raise ParseError(f"{self.who}'s answer cannot be read: {err}") from err

    def _left(self, deadline: float) -> None:
        assert self._socket is not None
        _timeout(self._socket, deadline)

    def _kill(self) -> None:
        """The worker dies with what watches it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _timeout(connection: socket.socket, deadline: float) -> None:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    connection.settimeout(left)


def one_line(text: str) -> str:
    """The text as a line that may be shown: printable, not long."""
    return "".join(c if c.isprintable() else " " for c in text)[:TEXT_MAX].strip() or "not readable"


def receive_header(connection: socket.socket, before: Any) -> tuple[int, int, list[int]]:
    """The length of the message that comes, how it comes, and its descriptors, which are the caller's to close.

    before: called before each wait. Raises `Gone` when nothing more comes.
    """
    fds: list[int] = []
    content = b""
    try:
        while len(content) < HEADER.size:
            before()
            received, ancillary, _, _ = connection.recvmsg(
                HEADER.size - len(content), socket.CMSG_SPACE(FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds += array.array("i", data[: len(data) - len(data) % 4]).tolist()
            if not received:
                raise Gone
            content += received
        size, how = HEADER.unpack(content)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return size, how, fds


def receive(connection: socket.socket, size: int, before: Any) -> bytes:
    """`size` bytes. Raises `Gone` when there are fewer."""
    content = bytearray()
    while len(content) < size:
        before()
        if not (received := connection.recv(min(size - len(content), 1 << 20))):
            raise Gone
        content += received
    return bytes(content)
