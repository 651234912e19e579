"""What users of the network keep open (watches, followed logs, proxied requests, exec and port-forward streams), and its end when they may no
longer: their token expired or was revoked, or the permission is gone.

A request is checked once, when it begins; what stays open for hours must be looked at again. `look_again` is called when a
ServiceAccount, a pod that a token is bound to, or a role changed; an expiry is a timer. kube-apiserver leaves open what was
allowed once; here, revoking a token ends what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from trimtab.server.clock import Clock
from trimtab.server.http import Stream
from trimtab.server.tunnel import Tunnel

if TYPE_CHECKING:
    from trimtab.server.proxying import Proxied

Allowed = Callable[[], bool]
"""Whether what is open may go on."""


class Session:
    """One open answer. `ended`: it was ended from here."""

    def __init__(self, allowed: Allowed, end: Callable[[], object]) -> None:
        self.allowed = allowed
        self.ended = False
        self.timer: asyncio.TimerHandle | None = None
        self._end = end

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._end()


class Sessions:
    """All open answers of one server's network listener."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[Session, None] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._open)

    def guard(self, answer: Stream | Tunnel | Proxied, allowed: Allowed, until: float) -> Stream | Tunnel | Proxied:
        """The same answer, ended when it may no longer go on. until: when the token expires, in Unix seconds; 0 never."""
        if not isinstance(answer, Stream):
            return replace(answer, guard=lambda end: self._opened(Session(allowed, end), until))

        async def run(write: Callable[[bytes], Awaitable[None]]) -> None:
            if not allowed():
                return  # it was taken away while the answer began
            running = asyncio.ensure_future(answer.run(write))
            session = Session(allowed, running.cancel)
            close = self._opened(session, until)
            try:
                await running
            except asyncio.CancelledError:
                if not session.ended:
                    running.cancel()
                    raise
            finally:
                close()

        return replace(answer, run=run)

    def look_again(self) -> None:
        """Checks all that is open, once, soon."""
        if self._open and not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        for session in list(self._open):
            if not session.allowed():
                session.end()

    def _opened(self, session: Session, until: float) -> Callable[[], None]:
        """Takes note of it; returns what to call once it is closed."""
        self._open[session] = None
        if until:
            left_s = max(0.0, until - self._clock.now().timestamp())
            session.timer = asyncio.get_running_loop().call_later(left_s, session.end)

        def closed() -> None:
            self._open.pop(session, None)
            if session.timer is not None:
                session.timer.cancel()

        return closed
