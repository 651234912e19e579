"""Seeing that a process serves, without blocking the supervisor: connect, and where asked want HTTP 200.

Probes run while a process is starting: first 5 ms after its start, then at growing intervals. Once it is ready, that it
runs is known from its pidfd; only the API server is asked again now and then, since a process may hang and not end.
"""

from __future__ import annotations

import errno
import os
import select
import socket

from trimtab.engine.plan import Probe

INTERVAL_FIRST_S = 0.005
INTERVAL_MAX_S = 0.5
_GROWTH = 1.25
_ANSWER_S_MAX = 1.0
"""An attempt without an answer for so long is given up and begun anew."""


class Attempt:
    """One child's probing: repeated connections until one is answered."""

    __slots__ = ("_asked", "_probe", "_received", "_socket", "began_at", "interval_s", "next_at", "until")

    def __init__(self, probe: Probe, now: float) -> None:
        self._probe = probe
        self._socket: socket.socket | None = None
        self._asked = False
        self._received = b""
        self.began_at = now
        self.interval_s = INTERVAL_FIRST_S
        self.next_at = now + self.interval_s
        self.until = 0.0

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def events(self) -> int:
        return select.POLLIN if self._asked else select.POLLOUT

    def deadline(self) -> float:
        return self.until if self._socket is not None else self.next_at

    def begin(self, now: float) -> bool:
        """Connects; True when that alone was the answer."""
        self.close()
        unix = isinstance(self._probe.address, str)
        self._socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self.until = now + _ANSWER_S_MAX
        code = self._socket.connect_ex(self._probe.address)
        if code == 0:
            return self.proceed(now)
        if code != errno.EINPROGRESS:
            self._fail(now)
        return False

    def proceed(self, now: float) -> bool:
        """Goes on after the socket became ready; True once the process has answered."""
        if self._socket is None:
            return False
        try:
            if not self._asked:
                if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                    self._fail(now)
                    return False
                if self._probe.path is None:
                    self.close()
                    return True
                self._socket.send(
                    f"GET {self._probe.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                )
                self._asked = True
                return False
            piece = self._socket.recv(256)
        except BlockingIOError:
            return False
        except OSError:
            self._fail(now)
            return False
        self._received += piece
        status = self._received.split(b" ", 2)
        if len(status) == 3:
            if status[1] == b"200":
                self.close()
                return True
            self._fail(now)
        elif not piece:
            self._fail(now)
        return False

    def expire(self, now: float) -> None:
        """Gives up an attempt that was never answered."""
        self._fail(now)

    def _fail(self, now: float) -> None:
        self.close()
        self.interval_s = min(INTERVAL_MAX_S, self.interval_s * _GROWTH)
        self.next_at = now + self.interval_s

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._asked = False
        self._received = b""


def notify_socket(path: str) -> socket.socket:
    """Binds the datagram socket on which processes report `READY=1` (sd_notify), replacing a predecessor's.

    Every user may write to it: a message is believed by the kernel's word on its sender's pid.
    """
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.setblocking(False)
    return listener


def notifications(listener: socket.socket) -> list[tuple[int, str]]:
    """The waiting messages, each with the pid of its sender."""
    found: list[tuple[int, str]] = []
    while True:
        try:
            text, ancillary, _, _ = listener.recvmsg(4096, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return found
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                found.append((int.from_bytes(data[:4], "little"), text.decode(errors="replace")))
