"""The worker of `sandbox.py`: gives up all that it may do (`confine.py`), then calls what it is asked for until nobody asks.

    keeper (as its caller, waits)  --fork-->  worker: process 1 of its own process namespace
       '- dies with the caller's end of the socket, and the worker with it

Not to be run by hand: python -m trimtab.confinement.worker PACKAGE SOCKET MEMORY_BYTES IDLE_S PATH...
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import socket
import sys
from typing import Any, NoReturn

import msgspec

from trimtab.confinement import confine
from trimtab.confinement.sandbox import (
    HEADER,
    IN_MEMORY_FILE,
    INLINE,
    INLINE_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Gone,
    one_line,
    receive,
    receive_header,
)

CPU_S = 600
"""CPU time of a worker's life. One that has used half of it ends when its call is done, so every call has the other half."""


def main(package: str, handle: int, memory_bytes: int, idle_s: float, paths: list[str]) -> NoReturn:
    """The keeper. Ends with the worker's status, 128 more than the signal when it was killed."""
    sys.path += paths
    confine.enter_namespaces()

    def work(keeper: int) -> None:
        confine.give_up_everything(memory_bytes, CPU_S, keeper)
        with socket.socket(fileno=handle) as connection:
            serve(connection, package, idle_s)

    confine.keep(handle, work)


def serve(connection: socket.socket, package: str, idle_s: float) -> None:
    """Answers calls until none comes for `idle_s`."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    while waiting.poll(idle_s * 1000):
        try:
            size, _, fds = receive_header(connection, lambda: None)
            if size > MESSAGE_BYTES_MAX:
                return
            try:
                function, arguments = msgspec.msgpack.decode(receive(connection, size, lambda: None))
                answer = [True, called(package, function, arguments, fds)]
                _send(connection, msgspec.msgpack.encode(answer))
            except Exception as err:
                _send(connection, msgspec.msgpack.encode([False, _told(err)]))
            finally:
                for fd in fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)
        except (Gone, BrokenPipeError, ConnectionResetError):
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        if used.ru_utime + used.ru_stime > CPU_S / 2:
            return


def called(package: str, function: str, arguments: list[Any], fds: list[int]) -> Any:
    """What `module:function` within the package returns."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), name)(*arguments, fds=fds)


def _told(err: Exception) -> str:
    """One line for who asked."""
    if isinstance(err, MemoryError):
        return "it takes more memory than the parser may use"
    if isinstance(err, ValueError) and str(err):
        return one_line(str(err))
    return one_line(f"{type(err).__name__}: {err}")


def _send(connection: socket.socket, content: bytes) -> None:
    if len(content) <= INLINE_BYTES_MAX:
        connection.sendall(HEADER.pack(len(content), INLINE) + content)
        return
    with open(os.memfd_create("answer"), "wb") as file:
        file.write(content)
        file.flush()
        socket.send_fds(connection, [HEADER.pack(len(content), IN_MEMORY_FILE)], [file.fileno()])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
